"""`fit`: an image and a model in, a `Solution` out."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import check
from ..model import AnyModel
from ..objective import (
    AbstractConstraint,
    AbstractRegulariser,
    NoRegulariser,
    SumOf,
    SumToOneAbundances,
    SumToOneShares,
    SumToOneWeights,
    Unconstrained,
)
from ..objective._constraints import brightness_of_each
from ..solve import (
    RESULTS,
    AbstractSolver,
    AbstractStart,
    BinnedStart,
    GivenStart,
    RandomStart,
    factorise,
)
from ..solve._solver import check_limits
from ._coarse import CoarseToFine
from ._identifiability import ambiguities
from ._image import SpectrumImage
from ._known import (
    KnownComposition,
    absent_entries,
    known_phases,
    nan_where_free,
    wholly_fixed,
)
from ._labelled import labelled
from ._matched import matched
from ._phase_number import count_phases
from ._solution import Solution
from ._warnings import (
    NOT_ASKED,
    ending,
    of_starts,
)


def fit(
    image: SpectrumImage,
    model: AnyModel,
    n_phases: int | str,
    *,
    solver: AbstractSolver | CoarseToFine = CoarseToFine(),
    start: AbstractStart | None = None,
    constraint: AbstractConstraint | None = None,
    regulariser: AbstractRegulariser | None = None,
    fixed_weights: Any = None,
    fixed_abundances: Any = None,
    compositions: Mapping[int | str, KnownComposition] | None = None,
    absent: Mapping[int | str, str | Sequence[str]] | None = None,
    phase_names: Sequence[str] | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 2000,
    tol: float = 0.1,
    max_seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    throw: bool = True,
) -> Solution:
    """Decompose a spectrum image into phases: abundance maps, spectra and compositions.

    The counts are Poisson with mean G W H. By default W comes from the image binned in space and
    H from the full image with W held (`CoarseToFine`); the shares of a pixel sum to one with each
    pixel as bright as its own counts (`SumToOneShares`) and are smooth with sharp borders
    (`TotalVariation`), all as strongly as counts that were held out ask for. With another solver
    W and H are fitted together from `start` (`BinnedStart()` by default), without constraint and
    regulariser unless given.

    A model with self-absorption gives each phase its own G, which follows that phase's W.

    - `n_phases`: or "auto", which finds it with held-out counts: see `count_phases`.
    - `fixed_weights`, `fixed_abundances`: (column, phase) and (phase, pixel) with NaN where free,
        in the gauge of the constraint.
    - `compositions`: of phases, by number from 0 or by name: a formula ("MgSiO3"), atoms of each
        element, or a `Composition`. Other elements are absent; the continuum, stray lines and the
        amount stay free.
    - `absent`: elements that a phase has not, by its number from 0 or by name: `{1: "Si,Ca"}`.
    - `phase_names`: one for each phase. Phases come in the order of their counts, most first,
        unless names, fixed entries or a `GivenStart` say which is which.
    - `key`: for random starts; `jax.random.key(0)` by default. `max_steps` (at full resolution;
        see `CoarseToFine` for the binned image), `tol` (nats), `max_seconds` (of everything),
        `progress`: see `esmpy_jax.solve.solve`.
    - `throw`: raise `RuntimeError` when the fit ended with values that are not finite. A fit that
        stopped at `max_steps` is returned, and says so in `warnings`.

    Raises `InputError` for what cannot be used: see `factorise`.
    """
    check(
        model.energy_axis.size == image.counts.n_channels,
        f"The model has {model.energy_axis.size} channels but the image has "
        f"{image.counts.n_channels}; build the model from this image.",
    )
    key = jr.key(0) if key is None else key
    began = time.perf_counter()
    basis = model.basis if model.depends_on_phase else model.basis()
    number = None
    if isinstance(n_phases, str):
        check(
            n_phases == "auto",
            f"The number of phases is '{n_phases}'; give a whole number or 'auto'.",
        )
        check(
            fixed_weights is None
            and fixed_abundances is None
            and phase_names is None
            and not compositions
            and not absent
            and (constraint is None or brightness_of_each(constraint) is None),
            "The number of phases cannot be found where entries, compositions, absent elements, "
            "counts or names of single phases are given; give it.",
        )
        number = count_phases(
            image.counts,
            basis,
            solver=solver if isinstance(solver, CoarseToFine) else CoarseToFine(),
            key=jr.fold_in(key, 1),
            tol=tol,
            max_seconds=max_seconds,
            progress=progress,
        )
        n_phases = number.n_phases
    check_limits(n_phases, max_steps, tol, max_seconds)
    n_phases = int(n_phases)
    check(
        isinstance(key, jax.Array),
        f"The key is {key!r}; give one such as jax.random.key(0).",
    )
    seconds = max_seconds
    if number is not None and max_seconds is not None:
        seconds = max(max_seconds - (time.perf_counter() - began), 0.0)
    names = None if phase_names is None else tuple(str(name) for name in phase_names)
    check(
        names is None or len(set(names)) == len(names) == n_phases,
        f"The phase names are {names} for {n_phases} phases; give one distinct name each.",
    )
    coarse_to_fine = isinstance(solver, CoarseToFine)
    if constraint is None:
        constraint = SumToOneShares() if coarse_to_fine else Unconstrained()
    rows = np.flatnonzero([column.in_composition for column in model.columns])
    shape, known, given_compositions = (len(model.columns), n_phases), None, {}
    if absent:
        missing = absent_entries(absent, model, n_phases, names)
        fixed_weights = nan_where_free(fixed_weights, shape)
        check(
            not (missing & (fixed_weights > 0)).any(),
            "fixed_weights holds an element that is said to be absent from its phase; give one of "
            "the two.",
        )
        fixed_weights = np.where(missing, 0.0, fixed_weights)
    if compositions:
        known = known_phases(compositions, model, n_phases, names)
        given_compositions = known.record(model)
        if absent:
            known.check_present(missing, model)
        fixed_weights = nan_where_free(fixed_weights, shape)
        known.check_free(fixed_weights)
        if isinstance(constraint, SumToOneWeights):  # whose W are fractions anyway
            fixed_weights[np.ix_(rows, known.phases)] = known.fractions
            known = None
        else:
            basis, fixed_weights = known.extended(basis), known.fixed(fixed_weights)
            start = known.started(start) if isinstance(start, GivenStart) else start
    if isinstance(constraint, SumToOneShares) and known is None:
        whole = np.flatnonzero(wholly_fixed(fixed_weights, rows, shape))
        check(
            len(whole) == 0,
            f"All elements of phase {whole[0] if len(whole) else 0} are fixed, and with them how "
            "many counts it makes, which SumToOneShares takes from the image; give its "
            "composition by compositions=, which leaves the amount free.",
        )
    if isinstance(solver, CoarseToFine):
        check(
            fixed_abundances is None and start is None,
            "CoarseToFine chooses its own start and cannot hold abundances fixed; give "
            "solver=VariableProjectionNewton() with a start or fixed_abundances.",
        )
        judged, fine, choices = solver(
            image.counts,
            basis,
            n_phases,
            constraint=constraint,
            regulariser=regulariser,
            fixed_weights=fixed_weights,
            key=key,
            max_steps=max_steps,
            tol=tol,
            max_seconds=seconds,
            progress=progress,
        )
    else:
        choices = None
        regulariser = NoRegulariser() if regulariser is None else regulariser
        if start is None:
            start = BinnedStart() if fixed_abundances is None else RandomStart()
        if not isinstance(start, GivenStart):
            start = matched(start, fixed_weights, constraint)
        fine = factorise(
            image.counts,
            basis,
            n_phases,
            solver=solver,
            start=start,
            constraint=constraint,
            regulariser=regulariser,
            fixed_weights=fixed_weights,
            fixed_abundances=fixed_abundances,
            key=key,
            max_steps=max_steps,
            tol=tol,
            max_seconds=seconds,
            progress=progress,
        )
        judged = fine
    if known is not None:
        fine, judged = known.restored(fine), known.restored(judged)
    broken = RESULTS.nonfinite in (fine.result, judged.result)
    if throw and broken:
        raise RuntimeError(RESULTS[RESULTS.nonfinite])
    settings = {
        "seconds": time.perf_counter() - began,
        "seed": np.asarray(jr.key_data(key)).ravel().tolist(),
        "solver": _solvers(solver),
        "start": repr(start),
        "constraint": type(constraint).__name__,
        "brightness": _brightness(constraint),
        "regulariser": _words(fine.problem.regulariser),
        "compositions": given_compositions,
        "absent": {} if not absent else _listed(missing, model),
        "phase_number": None if number is None else dataclasses.asdict(number),
        "choices": None if choices is None else dataclasses.asdict(choices),
        "purities": solver.purities_used(choices) if isinstance(solver, CoarseToFine) else None,
        "max_steps": max_steps,
        "tol": tol,
        "max_seconds": max_seconds,
    }
    anchored = isinstance(start, GivenStart) or not (
        names is None
        and fixed_weights is None
        and fixed_abundances is None
        and brightness_of_each(constraint) is None
    )
    coarse = isinstance(solver, CoarseToFine) and solver.coarse_steps is not None
    ended = ending(fine, judged, "coarse_steps of CoarseToFine" if coarse else "max_steps")
    unclear, more = (), of_starts(choices.agreeing_starts, len(choices.starts)) if choices else []
    summed = isinstance(fine.problem.constraint, SumToOneAbundances)
    if summed and n_phases > 1 and not broken:
        given = judged.problem.fixed_weights
        held = None if given is None else np.asarray(given.mask)
        unclear = ambiguities(fine, _percent(rows), held, key=jr.fold_in(key, 2))
    elif n_phases > 1 and not summed:
        more = [*more, NOT_ASKED]
    more = [*(number.warnings if number is not None else []), *more]
    return labelled(image, model, fine, judged, ended, names, anchored, settings, unclear, more)


def _solvers(solver: AbstractSolver | CoarseToFine) -> str:
    """What was used, by name."""
    if not isinstance(solver, CoarseToFine):
        return repr(solver)
    binned, maps = type(solver.solver).__name__, type(solver.fine_solver).__name__
    return f"{solver!r}: {binned} on the binned image, {maps} on the maps"


def _words(module: eqx.Module) -> str:
    """A regulariser as `Name(field=value)`."""
    if isinstance(module, SumOf):
        return " + ".join(_words(t) for t in module.terms)
    numbers = {k: v for k, v in vars(module).items() if np.ndim(v) == 0 and v is not None}
    fields = ", ".join(f"{k}={float(v):g}" for k, v in numbers.items())
    return f"{type(module).__name__}({fields})"


def _brightness(constraint: AbstractConstraint) -> list[float] | None:
    """That of each phase, if it is known."""
    bright = brightness_of_each(constraint)
    return None if bright is None else np.asarray(bright, float).tolist()


def _listed(missing: np.ndarray, model: AnyModel) -> dict[int, list[str]]:
    """Elements that phases have not, by phase, as plain values for storage."""
    numbers = [column.atomic_number or 0 for column in model.columns]
    symbols = {e.atomic_number: e.symbol for e in model.elements}
    return {
        int(a): sorted({symbols[numbers[j]] for j in np.flatnonzero(missing[:, a])})
        for a in np.flatnonzero(missing.any(0))
    }


def _percent(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """At% of each phase from W, zero for a phase without atoms."""

    def composition(weights):
        total = weights[rows].sum(0)
        return 100 * weights[rows] / np.where(total > 0, total, 1.0)

    return composition
