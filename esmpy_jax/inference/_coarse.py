"""Coarse to fine: spectra from the binned image, maps at full resolution."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from .._basis import Basis
from .._checks import check
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    LogSparsity,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneShares,
    Unconstrained,
    bin_counts,
    relative_to_counts,
)
from ..solve import (
    RESULTS,
    AbstractSolver,
    AbstractStart,
    AbundanceNewton,
    Factorisation,
    GivenStart,
    VariableProjectionNewton,
    VertexStart,
    choose_factor,
    factorise,
    upsample,
)

#: Most steps of the binned fit, unless more are asked for.
COARSE_STEPS = 5000


class CoarseToFine(eqx.Module):
    """W from the image binned in space, then H at full resolution with W held.

    At few counts per pixel the joint likelihood has many optima and brings as many unknowns with
    every pixel as it can carry. Binning makes W well determined; with W held the problem for H is
    convex, and a smoothness prior may be used without bending the spectra.

    - `factor`: pixels per bin along each axis; `None` takes the smallest power of two that puts
        `counts_per_bin` counts in a bin and makes at most `max_bins` of them, while at least 8
        bins are left along each axis.
    - `starts`: of the binned fit; each is given `trial_steps`, and the one with the lowest
        objective goes on.
    - `purity`: weight of `sum(log(1 + h / 0.05))` in the binned fit. Where no pixel is pure, the
        counts alone leave a range of mixtures; this picks its purest end. 0 switches it off, and
        so does any constraint other than shares that sum to one.
    - `solver`: of the binned fit; `fine_solver`: of the maps, one that holds W.
    - `coarse_steps`: of the binned fit, its most steps after the trials, counted apart
        from those at full resolution; `None` takes 5000, or `max_steps` where that is more.
    """

    factor: int | None = None
    counts_per_bin: float = 1000.0
    max_bins: int = 2048
    starts: tuple[AbstractStart, ...] = (VertexStart(1.0), VertexStart(1.5), VertexStart(2.0))
    purity: float = 0.3
    solver: AbstractSolver = VariableProjectionNewton()
    fine_solver: AbstractSolver = AbundanceNewton()
    trial_steps: int = 300
    coarse_steps: int | None = None

    def bin_factor(self, counts: AbstractCounts) -> int:
        """The factor used for an image."""
        return choose_factor(counts, self.factor, self.counts_per_bin, self.max_bins)

    def __call__(
        self,
        counts: AbstractCounts,
        basis: Basis | Callable[[Any], Basis],
        n_phases: int,
        *,
        constraint: AbstractConstraint,
        regulariser: AbstractRegulariser,
        fixed_weights: Any,
        key: PRNGKeyArray,
        max_steps: int,
        tol: float,
        max_seconds: float | None,
        progress: Callable[[int, int, float], None] | None,
    ) -> tuple[Factorisation, Factorisation]:
        """The fits of the binned and of the full image, both with the same W.

        Raises `RuntimeError` when no start leads to finite values.
        """
        check(len(self.starts) > 0, "CoarseToFine needs at least one start.")
        check(
            self.fine_solver.holds_weights,
            "The fine solver of CoarseToFine has to hold W, as AbundanceNewton does.",
        )
        if isinstance(constraint, SumToOneShares):
            # before binning, so that W means counts per pixel in both fits
            counts, constraint = relative_to_counts(counts), SumToOneAbundances()
        factor = self.bin_factor(counts)
        binned = bin_counts(counts, factor)

        began = time.perf_counter()

        def left():
            spent = time.perf_counter() - began
            return None if max_seconds is None else max(max_seconds - spent, 0.0)

        shares = isinstance(constraint, SumToOneAbundances)
        purity = LogSparsity(self.purity) if shares and self.purity > 0 else NoRegulariser()

        def fit(start, steps):
            return factorise(
                binned,
                basis,
                n_phases,
                solver=self.solver,
                start=start,
                constraint=constraint,
                regulariser=purity,
                fixed_weights=fixed_weights,
                key=key,
                max_steps=steps,
                tol=tol,
                max_seconds=left(),
                basis_rounds=30,
                progress=progress,
            )

        trials = [fit(start, self.trial_steps) for start in self.starts]
        best = min(trials, key=lambda t: t.nll if np.isfinite(t.nll) else np.inf)
        if best.result == RESULTS.nonfinite:
            raise RuntimeError(RESULTS[RESULTS.nonfinite])
        if not best.converged:
            steps = max(COARSE_STEPS, max_steps) if self.coarse_steps is None else self.coarse_steps
            polished = fit(GivenStart(best.weights, best.abundances), steps)
            best = _continued(best, polished)
        maps = upsample(best.abundances, binned.scan_shape, counts.scan_shape, factor, 0.01)
        fine = factorise(
            counts,
            best.basis,
            n_phases,
            solver=self.fine_solver,
            start=GivenStart(best.weights, maps),
            # W is held, so a constraint on it has nothing more to say
            constraint=constraint if shares else Unconstrained(),
            regulariser=regulariser,
            fixed_weights=best.weights,
            max_steps=max_steps,
            tol=tol,
            max_seconds=left(),
            progress=progress,
        )
        return best, fine


def _continued(first: Factorisation, then: Factorisation) -> Factorisation:
    """The second of two fits, of which it went on from the first, with the trace of both."""
    return dataclasses.replace(
        then,
        nll_steps=np.concatenate([first.nll_steps, then.nll_steps[1:] + first.steps]),
        nll_trace=np.concatenate([first.nll_trace, then.nll_trace[1:]]),
        steps=first.steps + then.steps,
        seconds=first.seconds + then.seconds,
    )
