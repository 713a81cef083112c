"""The fits of one image with common settings: where they begin, and what penalises them."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._arrays import as_floats, on_device
from .._basis import Basis
from .._seldom import seldom_run
from .._types import Abundances
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    LogSparsity,
    RegionalSparsity,
    SumOf,
    SumToOneAbundances,
    Unconstrained,
)
from ..solve import (
    RESULTS,
    AbstractSolver,
    AbstractStart,
    Factorisation,
    Fixed,
    GivenStart,
    factorise,
)
from ..solve._factorise import as_bright_as

#: Shares below this are small for the purity penalty.
SMALL_SHARE = 0.05
#: Nats a pixel to which maps are fitted that only sort pixels into pools.
ROUGHLY = 1e-4

#: Least share of a phase with which a fit of the maps begins.
FLOOR = 0.01


@dataclasses.dataclass(frozen=True)
class Job:
    """What all fits of one image have in common."""

    basis: Basis | Callable[[Any], Basis]
    n_phases: int
    constraint: AbstractConstraint
    fixed_weights: Any
    key: PRNGKeyArray
    solver: AbstractSolver
    fine_solver: AbstractSolver
    tol: float
    max_steps: int
    ends: float | None
    progress: Callable[[int, int, float], None] | None
    starts: Sequence[AbstractStart] = ()
    shares: bool = False  # exposures are relative to the counts

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.ends is None else max(self.ends - time.perf_counter(), 0.0)

    @property
    def is_late(self) -> bool:
        """Whether no time is left."""
        return self.left == 0.0

    def of_share(self, share: float) -> "Job":
        """The same job on so large a share of the counts, of which held W and brightness are."""
        constraint, held = self.constraint, self.fixed_weights
        if isinstance(constraint, SumToOneAbundances) and constraint.brightness is not None:
            constraint = SumToOneAbundances(share * constraint.brightness)
        if isinstance(held, Fixed):
            held = Fixed(held.mask, share * held.values)
        elif held is not None:
            held = share * np.asarray(held, float)
        return dataclasses.replace(self, constraint=constraint, fixed_weights=held)

    def binned(
        self,
        counts: AbstractCounts,
        start: AbstractStart,
        penalty: AbstractRegulariser,
        max_steps: int,
        absent: np.ndarray | None = None,
        resume: bool = False,
    ) -> Factorisation:
        """W and H of the binned counts."""
        shape = self.n_phases, counts.n_pixels
        # an empty mask shares the program of others
        mask = np.zeros(shape, bool) if absent is None else absent
        return factorise(
            counts,
            self.basis,
            self.n_phases,
            solver=self.solver,
            start=start,
            constraint=self._constraint_of(counts),
            regulariser=penalty,
            fixed_weights=self.fixed_weights,
            fixed_abundances=Fixed(on_device(mask), as_floats(np.zeros(shape))),
            key=self.key,
            max_steps=max_steps,
            tol=self.tol,
            max_seconds=self.left,
            basis_rounds=30,
            progress=self.progress,
            resume=resume,
        )

    def _constraint_of(self, counts: AbstractCounts) -> AbstractConstraint:
        if self.shares and self.solver.keeps_brightness:
            return as_bright_as(counts)
        return self.constraint

    def maps(
        self,
        counts: AbstractCounts,
        fit: Factorisation,
        start: Abundances,
        regulariser: AbstractRegulariser,
        roughly: bool = False,
    ) -> Factorisation:
        """H at full resolution with the W of a fit; `roughly` to `ROUGHLY` nats a pixel."""
        return factorise(
            counts,
            fit.basis,
            self.n_phases,
            solver=self.fine_solver,
            start=GivenStart(fit.weights, start),
            # W is held, so a constraint on it has nothing more to say
            constraint=self.constraint
            if isinstance(self.constraint, SumToOneAbundances)
            else Unconstrained(),
            regulariser=regulariser,
            fixed_weights=fit.weights,
            max_steps=self.max_steps,
            tol=max(self.tol, ROUGHLY * counts.n_pixels) if roughly else self.tol,
            max_seconds=self.left,
            progress=self.progress,
        )


def purity_penalty(
    strength: float, counts: AbstractCounts, regional: float = 0.5
) -> AbstractRegulariser:
    """A part of the strength on the shares of each bin's surroundings, the rest on its own.

    Bins without exposure have no part in it. Pools, which have no surroundings, have the same
    penalty with no `regional` part, so that they run the program of the bins.
    """
    own, around = (1 - regional) * strength, regional * strength
    seen = None
    if counts.exposure is not None:
        seen = on_device(np.asarray(counts.exposure).reshape(counts.scan_shape) > 0)
    terms = LogSparsity(own, SMALL_SHARE, seen), RegionalSparsity(around, SMALL_SHARE, seen)
    return SumOf(terms)


def again(fit: Factorisation, scale: float = 1.0) -> GivenStart:
    """The factors of a fit as a start, W times `scale`, no share excluded."""
    shares = np.maximum(np.asarray(fit.abundances), 1e-3)
    return GivenStart(np.asarray(fit.weights) * scale, shares / shares.sum(0, keepdims=True))


def continued(first: Factorisation, then: Factorisation) -> Factorisation:
    """The second of two fits, of which it went on from the first, with the trace of both."""
    return dataclasses.replace(
        then,
        nll_steps=np.concatenate([first.nll_steps, then.nll_steps[1:] + first.steps]),
        nll_trace=np.concatenate([first.nll_trace, then.nll_trace[1:]]),
        steps=first.steps + then.steps,
        seconds=first.seconds + then.seconds,
    )


def best_of(fits: Sequence[Factorisation]) -> Factorisation:
    """The fit with the lowest objective. Raises `RuntimeError` when none is finite."""
    best = min(fits, key=lambda f: f.nll if np.isfinite(f.nll) else np.inf)
    if best.result == RESULTS.nonfinite:
        raise RuntimeError(RESULTS[RESULTS.nonfinite])
    return best


def floored(maps: Abundances) -> Abundances:
    """Maps as a start, with no share excluded."""
    return _floored(maps, FLOOR)


@seldom_run
def _floored(maps, floor):
    return jnp.maximum(maps, floor * maps.sum(0, keepdims=True))
