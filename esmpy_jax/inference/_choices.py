"""Bin size, purity and smoothness, chosen by counts that the fit has not seen."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from .._types import Abundances
from ..objective import (
    AbstractCounts,
    AbstractRegulariser,
)
from ..solve import (
    AbstractStart,
    Factorisation,
    GivenStart,
)
from ._bins import Bins
from ._frame import Frame, exposed
from ._held_out import difference, held_out_losses, within_error
from ._image import select_window
from ._job import FLOOR, Job, again, best_of, floored, purity_penalty
from ._smoothing import Prior, search_range, smoothing

#: A value and its held-out loss in nats above the lowest, of each that was tried.
Tried = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the held-out counts decided, and by how much.

    - `factor`, `purity`, `prior`, `absent_below`: see `CoarseToFine`. `smoothness`: strength of the
        prior, `None` where the regulariser was given.
    - `starts`: objective in nats that each start of the binned fit came to, at that bin size.
    - `factors`, `purities`, `smoothnesses`, `absents`: value and held-out loss of each that was
        tried, in nats above the lowest, the last three at that bin size.
    """

    factor: int
    purity: float
    smoothness: float | None
    absent_below: float
    starts: tuple[float, ...]
    factors: Tried = ()
    purities: Tried = ()
    smoothnesses: Tried = ()
    absents: Tried = ()
    prior: Prior = "total variation"

    @property
    def agreeing_starts(self) -> int:
        """How many of the starts came within one nat of the best."""
        return int((np.asarray(self.starts) <= min(self.starts) + 1).sum())


@dataclasses.dataclass(frozen=True)
class Parts:
    """The counts that are fitted and those that judge, as whole images and in a window of them.

    Maps are compared in the window, which keeps a search in a large image affordable. With a
    `frame` the images lie in its grid. `prior`: of the maps.
    """

    train: AbstractCounts
    test: AbstractCounts
    frame: Frame | None = None
    prior: Prior = "total variation"
    window: tuple[slice, ...] | None = None
    train_window: AbstractCounts | None = None
    test_window: AbstractCounts | None = None

    def windowed(self, maps: Abundances, max_pixels: int) -> "Parts":
        """With the window of at most `max_pixels` in which the maps differ most."""
        shape = self.scan_shape
        if math.prod(shape) <= max_pixels:
            return self
        side = int(max_pixels ** (1 / max(sum(s > 1 for s in shape), 1)))
        size = [min(s, side) for s in shape]
        firsts = [
            np.linspace(0, s - w, 1 + 2 * (s > w)).astype(int)
            for s, w in zip(shape, size, strict=True)
        ]
        windows = [
            tuple(slice(int(c), int(c) + w) for c, w in zip(corner, size, strict=True))
            for corner in itertools.product(*firsts)
        ]
        shaped = np.asarray(maps).reshape(-1, *self.train.scan_shape)
        spread = [shaped[(slice(None), *w)].reshape(len(shaped), -1).var(1).sum() for w in windows]
        best = windows[int(np.argmax(spread))]
        cut = (select_window(counts, best) for counts in (self.train, self.test))
        return dataclasses.replace(self, window=best, train_window=next(cut), test_window=next(cut))

    def cut(self, maps: Abundances) -> Float[Array, "phase pixel_in_window"]:
        """The maps in the window."""
        if self.window is None:
            return maps
        shaped = maps.reshape(-1, *self.train.scan_shape)
        return shaped[(slice(None), *self.window)].reshape(len(maps), -1)

    @property
    def scan_shape(self) -> tuple[int, ...]:
        """Of the image itself."""
        return self.train.scan_shape if self.frame is None else self.frame.shape

    @property
    def counts_per_pixel(self) -> float:
        """The mean of the counts that are fitted."""
        return max(self.train.total / math.prod(self.scan_shape), 1e-9)

    def smoothing(self, strength: float, everywhere: bool = False) -> AbstractRegulariser:
        """The prior of the maps that are compared, or of those of the whole image."""
        windowed = self.window is not None and not everywhere
        if windowed or self.frame is None:
            return smoothing(strength, prior=self.prior)
        return smoothing(strength, self.frame.pixels, self.prior)

    @property
    def to_fit(self) -> AbstractCounts:
        """The counts to which maps are fitted."""
        return self.train if self.train_window is None else self.train_window

    @property
    def to_judge(self) -> AbstractCounts:
        """The counts that judge maps."""
        return self.test if self.test_window is None else self.test_window


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A fit to the first part of the counts at one bin size, and the losses of the second part."""

    factor: int
    fit: Factorisation
    purity: float
    starts: tuple[float, ...]
    purities: Tried
    losses: Float[np.ndarray, " exposed"]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A candidate with its maps, and how the second part of the counts judges them."""

    candidate: Candidate
    smoothness: float | None
    smoothnesses: Tried
    maps: Abundances
    losses: Float[np.ndarray, " exposed"]


def try_bins(
    job: Job,
    parts: Parts,
    bins: Bins,
    factor: int,
    purities: Sequence[float],
    starts: Sequence[AbstractStart],
    trial_steps: int,
    max_steps: int,
    coarser: Candidate | None = None,
) -> Candidate:
    """The binned fit from several starts at the least purity, then with ever more of it.

    It goes on until the held-out counts clearly object, and the least purity wins that they cannot
    tell from the best. The fit with larger bins is one of the starts.
    """
    counts = bins(parts.train, factor)
    penalty = purity_penalty(purities[0], counts)
    trials = [job.binned(counts, start, penalty, trial_steps) for start in starts]
    if coarser is not None:
        maps = bins.at_full_resolution(coarser.fit.abundances, coarser.factor)
        shares = np.maximum(bins.means(maps, factor), FLOOR)
        start = GivenStart(coarser.fit.weights, shares)
        trials.append(job.binned(counts, start, penalty, trial_steps))
    fit, fits, losses = best_of(trials), [], []
    for strength in purities:
        if fits or not fit.converged:
            penalty = purity_penalty(strength, counts)
            fit = job.binned(counts, again(fit), penalty, max_steps, resume=True)
        fits.append(fit)
        maps = bins.at_full_resolution(fit.abundances, factor)
        losses.append(losses_of(parts.test, fit, maps))
        worse, error = difference(losses[-1], min(losses, key=np.sum))
        if worse > 2 * error or job.is_late:
            break
    chosen = within_error(losses)
    return Candidate(
        factor,
        fits[chosen],
        purities[chosen],
        tuple(t.nll for t in trials),
        above_lowest(purities, losses),
        losses[chosen],
    )


def try_smoothness(
    job: Job,
    parts: Parts,
    bins: Bins,
    found: Candidate,
    first: float | None,
    given: AbstractRegulariser | None,
) -> Judged:
    """The candidate with its maps, at the smoothness that the held-out counts like best.

    The strength is multiplied or divided by a ratio from `first` on, while that helps.
    With a regulariser `given` there is nothing to choose.
    """
    start = bins.at_full_resolution(found.fit.abundances, found.factor, FLOOR)
    tried: dict[float, tuple[Abundances, np.ndarray]] = {}
    least, usual, most, step = search_range(parts.prior, parts.counts_per_pixel)

    def loss(strength: float) -> float:
        if strength not in tried:
            regulariser = parts.smoothing(strength) if given is None else given
            # the last maps are close, and with W held where a convex objective ends is the same
            begin = floored(next(reversed(tried.values()))[0]) if tried else parts.cut(start)
            maps = job.maps(parts.to_fit, found.fit, begin, regulariser).abundances
            tried[strength] = maps, losses_of(parts.to_judge, found.fit, maps)
        return float(np.sum(tried[strength][1], dtype=np.float64))

    first = usual if first is None else first
    best = first
    loss(best)
    for ratio in () if given is not None else (step, 1 / step):
        while least <= best * ratio <= most and not job.is_late and loss(best * ratio) < loss(best):
            best = best * ratio
        if best != first:
            break
    order = sorted(tried)
    return Judged(
        found,
        best if given is None else None,
        above_lowest(order, [tried[v][1] for v in order]) if given is None else (),
        *tried[best],
    )


def losses_of(
    test: AbstractCounts, fit: Factorisation, maps: Abundances
) -> Float[np.ndarray, " exposed"]:
    """The losses of held-out counts, where there is exposure, under the W of a fit and maps."""
    losses = np.asarray(held_out_losses(test, fit.basis.endmembers(fit.weights), maps))
    return losses[exposed(test)]


def above_lowest(values: Sequence[float | int], losses: Sequence[np.ndarray]) -> Tried:
    """Each value with its loss above the lowest, in nats."""
    sums = np.array([np.sum(x, dtype=np.float64) for x in losses])
    above = sums - sums.min()
    return tuple((float(v), float(x)) for v, x in zip(values, above, strict=False))
