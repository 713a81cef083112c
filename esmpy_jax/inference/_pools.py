"""Pixels pooled by what the maps say they hold.

A pool has the counts to tell shares of a few percent, which a pixel has not, and is as pure as its
pixels, however small a particle is, which a square bin is not. Expected counts are linear in the
abundances, so the pooled counts are Poisson with the mean shares of the pool.
"""

import math

import numpy as np
from jaxtyping import Array, Float, Int

from .._arrays import as_floats
from ..objective import AbstractCounts, exposure_or_one, pool_counts

#: Pools of an image with many counts, least counts of a pool on average, pools of one with few.
POOLS, LEAST_COUNTS, _FEWEST_POOLS = 1024, 1000.0, 64

#: Share from which a pool counts as nearly pure, and the share of all counts that such pools have
#: to hold for a phase to be anchored by them.
PURE, ENOUGH = 0.9, 1e-3


def number_of_pools(total: int | float) -> int:
    """`POOLS`, or a smaller power of two where that leaves less than `LEAST_COUNTS` in a pool."""
    size = POOLS
    while size > _FEWEST_POOLS and total < LEAST_COUNTS * size:
        size //= 2
    return size


def pooled_by_shares(
    counts: AbstractCounts,
    maps: Float[np.ndarray, "phase pixel"],
    size: int,
    shape: tuple[int, ...] | None = None,
) -> tuple[AbstractCounts, Float[Array, "phase pool"]]:
    """The counts of pixels with like shares added up, and the mean shares of each pool.

    Pixels go together that have the same two largest phases. Along the way from one of these to the
    other a pool is full at a total over `size`. The number of pools is fixed by that, those that
    are left over are empty. With a `shape`, of more places than there are pairs of phases, they lie
    in it, and fill it where it has fewer places than that.
    """
    totals = np.asarray(counts.pixel_totals(), np.float64)
    dose = np.broadcast_to(np.asarray(exposure_or_one(counts), np.float64), (1, counts.n_pixels))[0]
    pairs = pairs_of(len(maps))
    places = size + pairs if shape is None else math.prod(shape)
    pool, mean = assigned(totals, dose, maps, min(size, places - pairs))
    shape = (places,) if shape is None else shape
    empty = np.full((len(maps), places - mean.shape[1]), 1 / len(maps))
    mean = np.concatenate([mean, empty], axis=1)
    return pool_counts(counts, pool, shape, "dense"), as_floats(mean)


def pairs_of(n: int) -> int:
    """Pairs of n phases, each of which may leave one pool partly filled; at least one."""
    return max(n * (n - 1) // 2, 1)


def assigned(
    totals: Float[np.ndarray, " pixel"],
    dose: Float[np.ndarray, " pixel"],
    maps: Float[np.ndarray, "phase pixel"],
    size: int,
) -> tuple[Int[np.ndarray, " pixel"], Float[np.ndarray, "phase pool"]]:
    """The pool of each pixel and the mean shares of each pool; see `pooled_by_shares`."""
    n = len(maps)
    shares = maps / np.maximum(maps.sum(0), 1e-30)
    first, second = (np.sort(np.argsort(-shares, axis=0)[:2], axis=0)[[0, -1]]).astype(np.int64)
    along = np.take_along_axis(shares, second[None], 0) - np.take_along_axis(shares, first[None], 0)
    segment = first * n + second
    order = np.lexsort((along[0], segment))
    pool, offset = np.zeros(len(totals), np.int64), 0
    for one in np.unique(segment):
        members = order[segment[order] == one]
        filled = np.cumsum(totals[members]) - 0.5 * totals[members]
        index = np.floor(filled * size / max(totals.sum(), 1.0)).astype(np.int64)
        pool[members] = offset + index
        offset += int(index[-1]) + 1
    n_pools = size + pairs_of(n)
    weight = np.maximum(dose, 1e-6 * max(dose.mean(), 1e-300))
    mean = np.stack([np.bincount(pool, weights=weight * row, minlength=n_pools) for row in shares])
    filled = mean.sum(0)
    return pool, np.where(filled > 0, mean / np.where(filled > 0, filled, 1.0), 1 / n)


def pooled_amounts(
    counts: AbstractCounts,
    endmembers: Float[np.ndarray, "channel phase"],
    maps: Float[np.ndarray, "phase pixel"],
) -> tuple[AbstractCounts, Float[np.ndarray, "phase pool"]]:
    """Pools by the maps, and their abundances: the shares of the maps, as bright as the counts."""
    pooled, shares = pooled_by_shares(counts, maps, number_of_pools(counts.total))
    mean = np.asarray(shares, np.float64)
    return pooled, as_bright(pooled, endmembers, mean)


def as_bright(
    pooled: AbstractCounts,
    endmembers: Float[np.ndarray, "channel phase"],
    mean: Float[np.ndarray, "phase pool"],
) -> Float[np.ndarray, "phase pool"]:
    """Abundances of pools from their mean shares, as bright as the counts."""
    dose = np.broadcast_to(np.asarray(exposure_or_one(pooled), np.float64), (1, pooled.n_pixels))[0]
    per_unit = (np.asarray(endmembers, np.float64).sum(0) @ mean) * dose
    totals = np.asarray(pooled.pixel_totals(), np.float64)
    return mean * np.where(per_unit > 0, totals / np.where(per_unit > 0, per_unit, 1.0), 0.0)


def pure_counts(
    counts: AbstractCounts, shares: Float[np.ndarray, "phase pool"]
) -> Float[np.ndarray, " phase"]:
    """For each phase the share of all counts in pools that are nearly pure in it."""
    totals = np.asarray(counts.pixel_totals(), np.float64)
    return (shares >= PURE * shares.sum(0)) @ totals / max(float(totals.sum()), 1.0)
