"""How many phases the counts speak for."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._basis import Basis
from .._checks import check
from ..objective import AbstractCounts, SumToOneAbundances, relative_to_counts, thin
from ._bins import Bins
from ._choices import Parts, try_bins
from ._coarse import CoarseToFine
from ._frame import Frame, check_on_one_device
from ._held_out import difference, within_error
from ._job import Job

#: Purities that are compared for each number of phases.
_PURITIES = (0.25, 1.0)


@dataclasses.dataclass(frozen=True)
class PhaseNumber:
    """What `count_phases` found.

    - `n_phases`: the number taken.
    - `tried`: the numbers that were tried; `losses`, `errors`: for each the held-out loss in nats
        above the lowest, and the standard error of that difference.
    - `gains`, `gain_errors`: by how many nats each number of phases predicts better than one less,
        with the standard error; the evidence for its last phase. NaN for the first.
    - `ended`: why no larger number was tried: two in a row were "worse", it was the "most" that was
        asked for or that the image can carry, or it became too "late".
    """

    n_phases: int
    tried: tuple[int, ...]
    losses: tuple[float, ...]
    errors: tuple[float, ...]
    gains: tuple[float, ...]
    gain_errors: tuple[float, ...]
    ended: str = "worse"

    @property
    def warnings(self) -> list[str]:
        """A sentence where larger numbers were not tried although they might be better."""
        if self.ended == "late":
            return [
                f"The search for the number of phases ended at {self.tried[-1]}, when the time was "
                "up, so there may be more; raise max_seconds or give the number."
            ]
        if self.ended == "most" and self.n_phases == self.tried[-1]:
            return [
                f"{self.n_phases} phases are as many as were tried, so there may be more; give the "
                "number, or use count_phases with a larger `most`."
            ]
        return []


def count_phases(
    counts: AbstractCounts,
    basis: Basis | Callable[[Any], Basis],
    *,
    solver: CoarseToFine = CoarseToFine(),
    key: PRNGKeyArray | None = None,
    most: int = 8,
    tol: float = 0.1,
    max_seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> PhaseNumber:
    """The least number of phases that predicts held-out counts as well as the best one does.

    Each recorded photon is held out with the probability `solver.held_out`. The others, binned, are
    fitted with 1, 2, ... phases whose shares sum to one, at two purities; each fit is judged by
    `held_out_losses`. Numbers are tried until two in a row are worse than the best by two standard
    errors, or up to `most`. The number taken is the least one that is worse than the best by at
    most one standard error. A phase that this misses would change the prediction by less than the
    noise; one that is found may still be a mixture (see `ambiguities`).

    - `counts`, `basis`: see `factorise`. `tol`, `max_seconds`, `progress`: see `fit`.

    Raises `InputError` for counts that cannot be fitted with one phase.
    """
    check(most >= 1, f"At most {most} phases were asked for; give at least 1.")
    key = jr.key(0) if key is None else key
    thinned, choosing = jr.split(key)
    check_on_one_device(counts)
    frame = Frame(counts)
    train, test = thin(frame.placed(counts).for_pixels(), 1 - solver.held_out, thinned)
    parts = Parts(relative_to_counts(train), test, frame)
    factor = solver.bin_factor(train, frame.shape)
    ends = None if max_seconds is None else time.perf_counter() + max_seconds
    purities = _PURITIES if solver.purity is None else (solver.purity,)
    first = basis if isinstance(basis, Basis) else basis(None)
    n_bins = int(np.prod([-(-s // factor) for s in counts.scan_shape]))
    bins = Bins(parts.train, [[factor]])
    losses: list[np.ndarray] = []
    ended = "most"
    for n in range(1, min(most, first.n_columns, n_bins) + 1):
        job = Job(
            basis,
            n,
            SumToOneAbundances(),
            None,
            choosing,
            solver.solver,
            solver.fine_solver,
            tol,
            solver.trial_steps,
            ends,
            progress,
            shares=True,
        )
        steps = solver.trial_steps
        found = try_bins(job, parts, bins, factor, purities, solver.starts, steps, steps)
        losses.append(found.losses)
        best = min(losses, key=lambda x: np.sum(x, dtype=np.float64))
        worse = [difference(x, best) for x in losses[-2:]]
        if len(losses) > 2 and all(d > 2 * e and d > 0 for d, e in worse):
            ended = "worse"
        elif job.is_late:
            ended = "late"
        if ended != "most":
            break
    chosen = within_error(losses)
    best = min(losses, key=lambda x: np.sum(x, dtype=np.float64))
    above = [difference(x, best) for x in losses]
    gains = [
        (np.nan, np.nan),
        *(difference(*pair) for pair in itertools.pairwise(losses)),
    ]
    columns = [
        tuple(float(x) for x in column)
        for both in (above, gains)
        for column in zip(*both, strict=True)
    ]
    tried = tuple(range(1, len(losses) + 1))
    return PhaseNumber(chosen + 1, tried, *columns, ended=ended)
