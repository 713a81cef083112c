"""Coarse to fine: spectra from binned and pooled pixels, maps at full resolution."""

import time
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._basis import Basis
from .._checks import check
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneShares,
    bin_counts,
    relative_to_counts,
    thin,
)
from ..solve import (
    AbstractSolver,
    AbstractStart,
    AbundanceNewton,
    Factorisation,
    GivenStart,
    RandomStart,
    VariableProjectionNewton,
    VertexStart,
    choose_factor,
    upsample,
)
from ._absent import refit, try_absent
from ._bins import Bins
from ._choices import Choices, Judged, Parts, above_lowest, try_bins, try_smoothness
from ._frame import Frame, check_on_one_device
from ._held_out import within_error
from ._job import FLOOR, Job, again, best_of, continued, floored, purity_penalty
from ._matched import matched
from ._smoothing import Prior, scaled

#: Most steps of the binned fit, unless more are asked for.
COARSE_STEPS = 5000


class CoarseToFine(eqx.Module):
    """W from the image binned in space, then H at full resolution with W held.

    At few counts per pixel the joint likelihood has many optima and brings as many unknowns with
    every pixel as it can carry. Binning makes W well determined; with W held the problem for H is
    convex, and a smoothness prior may be used without bending the spectra. Where no pixel is pure,
    the counts alone leave a range of mixtures; a penalty on small shares (purity) picks its purest
    end.

    What is `None` is chosen by counts that the fit has not seen: of each recorded photon it is
    drawn whether it belongs to them, with the probability `held_out`; fits to the others predict
    them (`held_out_losses`); and the last fit is one to all counts. Constraints other than sums of
    one over the phases have neither purity nor choices.

    - `factor`: pixels per bin along each axis. `None` compares the smallest power of two that puts
        `counts_per_bin` counts in a bin and makes at most `max_bins` of them with bins twice as
        large, and smaller ones while they clearly win. At least 8 bins are left along each axis.
    - `purity`: strength of half `LogSparsity` and half `RegionalSparsity` on the bins' shares.
        `None` takes the least of `purities` that is as good as the best (within one standard
        error). 0 switches it off.
    - `prior`: of the maps, "total variation", which keeps sharp borders, or "laplacian" for maps
        that have none. Its strength is always chosen, unless `fit` is given a regulariser.
    - `absent_below`: W is fitted again to pixels pooled by what the maps say they hold, where
        phases whose share of a pool is below so many standard errors of the pool's own share are
        taken as absent, unless the held-out counts clearly object (by two standard errors and three
        nats). Where each phase has nearly pure pools it has the least purity. 0 switches it off.
    - `starts`: of the binned fit; each is given `trial_steps`, and the one with the lowest
        objective goes on.
    - `solver`: of the binned fit; `fine_solver`: of the maps, one that holds W.
    - `coarse_steps`: of the binned fit, its most steps after the trials, counted apart
        from those at full resolution; `None` takes 5000, or `max_steps` where that is more.
    - `max_pixels`: a larger image compares its maps in a part of it.
    """

    factor: int | None = None
    counts_per_bin: float = 1000.0
    max_bins: int = 2048
    starts: tuple[AbstractStart, ...] = (
        VertexStart(1.0),
        VertexStart(1.5),
        VertexStart(2.0),
        RandomStart(),
    )
    purity: float | None = None
    purities: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    prior: Prior = "total variation"
    absent_below: float = 2.0
    held_out: float = 0.2
    solver: AbstractSolver = VariableProjectionNewton()
    fine_solver: AbstractSolver = AbundanceNewton()
    trial_steps: int = 300
    coarse_steps: int | None = None
    max_pixels: int = 32768

    def bin_factor(self, counts: AbstractCounts, scan_shape: tuple[int, ...] | None = None) -> int:
        """The smallest factor that is tried, unless smaller bins turn out to be better.

        - `scan_shape`: of a scan that lies in a larger grid.
        """
        return choose_factor(counts, self.factor, self.counts_per_bin, self.max_bins, scan_shape)

    def purities_used(self, choices: Choices | None) -> tuple[float, float]:
        """The penalty on pools where each phase has nearly pure ones, and where one has none."""
        chosen = (self.purity or 0.0) if choices is None else choices.purity
        if self.purity is not None or choices is None:
            return chosen, chosen
        return min(self.purities), chosen

    def __call__(
        self,
        counts: AbstractCounts,
        basis: Basis | Callable[[Any], Basis],
        n_phases: int,
        *,
        constraint: AbstractConstraint,
        regulariser: AbstractRegulariser | None,
        fixed_weights: Any,
        key: PRNGKeyArray,
        max_steps: int,
        tol: float,
        max_seconds: float | None,
        progress: Callable[[int, int, float], None] | None,
    ) -> tuple[Factorisation, Factorisation, Choices | None]:
        """The fits of the binned or pooled and of the full image, with the same W, and the choices.

        Pools have no places. Bins may lie in a corner of a larger grid, where the others have no
        exposure; so may the pixels, unless there is nothing to choose or the regulariser is given.

        - `regulariser`: of the maps; `None` finds the strength of the `prior`.

        Raises `RuntimeError` when no start leads to finite values.
        """
        self._check()
        steps = max(COARSE_STEPS, max_steps) if self.coarse_steps is None else self.coarse_steps
        ends = None if max_seconds is None else time.perf_counter() + max_seconds
        shares = isinstance(constraint, SumToOneShares)
        summed = shares or isinstance(constraint, SumToOneAbundances)
        thinned, choosing = jr.split(key)
        job = Job(
            basis,
            n_phases,
            SumToOneAbundances() if shares else constraint,
            fixed_weights,
            choosing,
            self.solver,
            self.fine_solver,
            tol,
            max_steps,
            ends,
            progress,
            tuple(matched(start, fixed_weights, constraint) for start in self.starts),
            shares,
        )
        # before binning, so that W means counts per pixel in both fits
        relative = relative_to_counts if shares else lambda c: c
        whole = relative(counts)
        settled = None not in (self.factor, self.purity, regulariser) and not self.absent_below
        if not summed or n_phases == 1 or settled:
            given = NoRegulariser() if regulariser is None else regulariser
            return (*self._plain(job, whole, summed, given, steps), None)

        check_on_one_device(counts)
        frame = None
        if regulariser is None:
            frame = Frame(counts)
            counts = frame.placed(counts)
            whole = relative(counts)
        purities = self.purities if self.purity is None else (self.purity,)
        train, test = thin(counts.for_pixels(), 1 - self.held_out, thinned)
        parts = Parts(relative(train), test, frame, self.prior)
        tried = self._factors(parts.train, parts.scan_shape)
        # the first two are always tried
        bins = Bins(whole, [tried[:2], *([f] for f in tried[2:])])
        part = job.of_share(1 - self.held_out)
        found, parts, factors = self._searched(
            part, parts, bins, tried, purities, regulariser, steps
        )
        absent, absents = 0.0, ()
        maps = found.maps if parts.window is None else None
        if self.absent_below > 0:
            absent, absents, maps = try_absent(
                part, parts, bins, found, self.absent_below, min(purities), steps, regulariser
            )
        scale = scaled(self.prior, 1 / (1 - self.held_out))
        smoothness = None if found.smoothness is None else scale * found.smoothness
        candidate = found.candidate
        choices = Choices(
            candidate.factor,
            candidate.purity,
            smoothness,
            absent,
            candidate.starts,
            factors,
            candidate.purities,
            tuple((scale * v, x) for v, x in found.smoothnesses),
            absents,
            self.prior,
        )
        if regulariser is None:
            regulariser = parts.smoothing(choices.smoothness or 0.0, everywhere=True)
        return (*self._fitted(job, bins, candidate, choices, regulariser, steps, maps), choices)

    def _check(self):
        check(len(self.starts) > 0, "CoarseToFine needs at least one start.")
        check(
            self.fine_solver.holds_weights,
            "The fine solver of CoarseToFine has to hold W, as AbundanceNewton does.",
        )
        check(
            self.prior in get_args(Prior),
            f'CoarseToFine.prior is {self.prior!r}; give "total variation" or "laplacian".',
        )
        check(
            0 < self.held_out < 1,
            f"CoarseToFine.held_out is {self.held_out}; give a share between 0 and 1, such as 0.2.",
        )
        check(
            self.purity is not None or len(self.purities) > 0,
            "CoarseToFine needs a purity or some to compare.",
        )
        strengths = self.purities if self.purity is None else (self.purity,)
        check(
            min(strengths) >= 0 and list(strengths) == sorted(strengths),
            f"The purities of CoarseToFine are {tuple(strengths)}; give them from the least to the "
            "largest, none negative.",
        )
        least = {"max_pixels": 1, "max_bins": 1, "counts_per_bin": 0, "absent_below": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            check(
                value >= smallest,
                f"CoarseToFine.{name} is {value}; give at least {smallest}.",
            )

    def _searched(self, job, parts, bins, factors, purities, regulariser, steps):
        """The best candidate, the parts with the window, and the losses of all bin sizes."""
        first = None
        tried: list[Judged] = []
        losses: list[np.ndarray] = []
        for factor in factors:
            coarser = tried[-1].candidate if tried else None
            found = try_bins(
                job, parts, bins, factor, purities, job.starts, self.trial_steps, steps, coarser
            )
            if not tried:
                maps = bins.at_full_resolution(found.fit.abundances, factor)
                parts = parts.windowed(maps, self.max_pixels)
            found = try_smoothness(job, parts, bins, found, first, regulariser)
            first = first if found.smoothness is None else found.smoothness
            tried.append(found)
            losses = [c.losses for c in tried]
            # the second size is always tried, further ones only while they clearly win
            won = len(tried) == 1 or within_error(losses) == len(tried) - 1
            if not won or job.is_late:
                break
        sums = above_lowest([c.candidate.factor for c in tried], losses)
        return min(tried, key=lambda c: np.sum(c.losses, dtype=np.float64)), parts, sums

    def _factors(self, counts, scan_shape):
        """The bin sizes that may be tried, from the largest on."""
        smallest = self.bin_factor(counts, scan_shape)
        if self.factor is not None:
            return [smallest]
        axes = [s for s in scan_shape if s > 1] or [1]
        factors = [2 * smallest] if min(axes) // (2 * smallest) >= 8 else []
        factors.append(smallest)
        while factors[-1] > 1:
            smaller = factors[-1] // 2
            if np.prod([-(-s // smaller) for s in axes]) > self.max_bins:
                break
            factors.append(smaller)
        return factors

    def _fitted(self, job, bins, found, choices, regulariser, steps, maps):
        """The fits to all counts with what was chosen, from the maps of a part if there are any."""
        whole = bins.whole
        binned = bins(whole, choices.factor)
        scale = 1 / (1 - self.held_out)
        penalty = purity_penalty(choices.purity, binned)
        coarse = job.binned(binned, again(found.fit, scale), penalty, steps, resume=True)
        coarse = best_of([coarse])
        if maps is None or not regulariser.is_convex:  # where the end depends on the start
            start = bins.at_full_resolution(coarse.abundances, choices.factor, FLOOR)
        else:
            start = floored(maps)
        fine = job.maps(whole, coarse, start, regulariser, roughly=choices.absent_below > 0)
        if choices.absent_below > 0:
            coarse = refit(
                job,
                bins,
                whole,
                coarse,
                fine.abundances,
                choices.absent_below,
                self.purities_used(choices),
                steps,
            )
            fine = job.maps(whole, coarse, floored(fine.abundances), regulariser)
        return coarse, fine

    def _plain(self, job, counts, summed, regulariser, steps):
        """Without choices."""
        factor = self.bin_factor(counts)
        binned = bin_counts(counts, factor)
        penalty = purity_penalty(self.purity or 0.0, binned) if summed else NoRegulariser()
        coarse = best_of([job.binned(binned, s, penalty, self.trial_steps) for s in job.starts])
        if not coarse.converged:
            start = GivenStart(coarse.weights, coarse.abundances)
            then = job.binned(binned, start, penalty, steps, resume=True)
            coarse = continued(coarse, then)
        start = upsample(coarse.abundances, binned.scan_shape, counts.scan_shape, factor, 0.01)
        return coarse, job.maps(counts, coarse, start, regulariser)
