"""Counts from what users have: arrays, scipy sparse matrices, or triplets read in chunks."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check
from .._seldom import seldom_run
from ._counts import AbstractCounts, smallest_type
from ._dense import DenseCounts
from ._sparse import SparseCounts
from ._triplets import RUN, added, index_type, numbers

Storage = Literal["auto", "dense", "sparse"]

#: Share of nonzero channels above which dense storage is the faster one, measured as
#: docs/theory/factorisation.md#storage says.
DENSE_ABOVE = 0.22

#: Values up to which counts are stored densely where the default device is no CPU: there the loops
#: over the slots of few but long rows take longer than everything at once, measured as
#: docs/howto/devices.md says.
DENSE_UP_TO = 2**23

#: Values of a pooled image that are added up in a table, whatever their storage will be.
TABLE_UP_TO = 2**23


def counts_from_coo(
    pixel: np.ndarray,
    channel: np.ndarray,
    value: np.ndarray,
    *,
    scan_shape: tuple[int, ...],
    n_channels: int,
    storage: Storage = "auto",
    exposure: np.ndarray | None = None,
) -> AbstractCounts:
    """Counts from triplets (pixel, channel, value); pairs that come twice are added.

    `pixel` runs over the flattened scan. Zeros may be left out or given. Raises `InputError`
    for negative or fractional values and indices outside the image.
    """
    n_pixels = math.prod(scan_shape)
    pixel, channel, value = _indices(pixel), _indices(channel), np.asarray(value).ravel()
    check(
        len(pixel) == len(channel) == len(value),
        f"Triplets need equal lengths, but pixel, channel and value have {len(pixel)}, "
        f"{len(channel)} and {len(value)} entries.",
    )
    check(
        len(pixel) == 0
        or bool(
            pixel.min() >= 0
            and pixel.max() < n_pixels
            and channel.min() >= 0
            and channel.max() < n_channels
        ),
        f"A pixel or channel index lies outside the image of {n_pixels} pixels and "
        f"{n_channels} channels.",
    )
    _check_counts(value, lambda i: f"pixel {pixel[i]}, channel {channel[i]}")
    pixel = pixel.astype(index_type(n_pixels), copy=False)
    channel = channel.astype(index_type(n_channels), copy=False)
    value = value.astype(smallest_type(int(value.max(initial=0))), copy=False)
    if not value.all():
        keep = value > 0
        pixel, channel, value = pixel[keep], channel[keep], value[keep]
    pixel, channel, value = added(pixel, channel, value)
    value = value.astype(smallest_type(int(value.max(initial=0))), copy=False)
    _check_sums(value, pixel, "pixel", n_pixels)
    _check_sums(value, channel, "channel", n_channels)
    exposure = _check_exposure(exposure, pixel, n_pixels)
    if _sparse(storage, len(value), n_pixels * n_channels):
        return SparseCounts.from_coo(pixel, channel, value, scan_shape, n_channels, exposure)
    dense = np.zeros((n_pixels, n_channels), value.dtype)
    dense[pixel, channel] = value
    return DenseCounts.from_array(dense, scan_shape, exposure)


def as_counts(
    data: Any,
    *,
    scan_shape: tuple[int, ...] | None = None,
    storage: Storage = "auto",
    exposure: np.ndarray | None = None,
) -> AbstractCounts:
    """Counts from an array of shape (..., channel), a scipy sparse matrix, or counts.

    The leading axes are the scan (y, x), unless `scan_shape` gives it for flattened pixels.
    `storage="auto"` stores the nonzeros only when at most 22 % of the channels are filled; on GPU
    and TPU it stores all counts, too, when these are no more than 8 million numbers.
    Raises `InputError` for negative, NaN, infinite or fractional counts, naming the place.
    """
    if isinstance(data, AbstractCounts):
        return data
    if hasattr(data, "tocoo"):
        coo = data.tocoo()
        shape = (coo.shape[0],) if scan_shape is None else tuple(scan_shape)
        _check_shape(shape, coo.shape[0])
        return counts_from_coo(
            coo.row,
            coo.col,
            coo.data,
            scan_shape=shape,
            n_channels=coo.shape[1],
            storage=storage,
            exposure=exposure,
        )
    array = np.asarray(data)
    check(
        array.ndim >= 2,
        f"Counts of shape {array.shape} have no pixel axis; give (pixel, channel) or (y, x, "
        "channel).",
    )
    shape = array.shape[:-1] if scan_shape is None else tuple(scan_shape)
    array = array.reshape(-1, array.shape[-1])
    _check_shape(shape, len(array))
    _check_counts(
        array.ravel(), lambda i: f"pixel {i // array.shape[1]}, channel {i % array.shape[1]}"
    )
    if not _sparse(storage, int(np.count_nonzero(array)), array.size):
        array = array.astype(smallest_type(int(array.max(initial=0))))
        for axis, name in ((1, "pixel"), (0, "channel")):
            _check_below(array.sum(axis, dtype=np.int64), name)
        exposure = _check_exposure(exposure, np.flatnonzero(array.any(1)), len(array))
        return DenseCounts.from_array(array, shape, exposure)
    pixel, channel = np.nonzero(array)
    return counts_from_coo(
        pixel,
        channel,
        array[pixel, channel],
        scan_shape=shape,
        n_channels=array.shape[1],
        storage="sparse",
        exposure=exposure,
    )


def bin_counts(counts: AbstractCounts, factor: int, storage: Storage = "auto") -> AbstractCounts:
    """Sum blocks of `factor` pixels along each scan axis; the last block may be smaller.

    The exposure of a bin is that of its pixels together, so W and H keep their meaning per pixel.
    `storage` is that of `as_counts`.
    """
    check(factor >= 1, f"The binning factor is {factor}; give a whole number of at least 1.")
    shape = counts.scan_shape
    small = tuple(-(-s // factor) for s in shape)
    to_bin = np.ravel_multi_index(tuple(i // factor for i in np.indices(shape)), small).ravel()
    return pool_counts(counts, to_bin, small, storage)


def pool_counts(
    counts: AbstractCounts,
    pool: np.ndarray,
    shape: tuple[int, ...],
    storage: Storage = "auto",
) -> AbstractCounts:
    """Sum the pixels that go to the same pool; counts and exposure add up, of an empty pool to 0.

    - `pool`: for each pixel an index into `shape`, flattened.
    """
    size = math.prod(shape)
    pool = pool.astype(index_type(size))
    exposure = np.ones(counts.n_pixels) if counts.exposure is None else np.asarray(counts.exposure)
    exposure = np.bincount(pool, weights=exposure.ravel(), minlength=size)
    if isinstance(counts, DenseCounts):
        summed = _summed(counts, pool, size)
        return as_counts(summed, scan_shape=shape, storage=storage, exposure=exposure)
    if isinstance(counts, SparseCounts) and size * counts.n_channels <= TABLE_UP_TO:
        summed = _tabled(counts, pool, size)
        return as_counts(summed, scan_shape=shape, storage=storage, exposure=exposure)
    pixel, channel, value = counts.to_coo()
    return counts_from_coo(
        pool[pixel],
        channel,
        value,
        scan_shape=shape,
        n_channels=counts.n_channels,
        storage=storage,
        exposure=exposure,
    )


def _summed(counts: DenseCounts, to_bin: np.ndarray, n_bins: int) -> np.ndarray:
    """All counts of each bin (bin, channel), one tile of pixels at a time."""
    total = np.zeros((n_bins, counts.n_channels), np.int64)
    values = np.asarray(counts.values)
    for i, tile in enumerate(values):
        bins = to_bin[i * len(tile) : (i + 1) * len(tile)]
        order = np.argsort(bins, kind="stable")
        bins = bins[order]
        starts = np.append(0, np.flatnonzero(bins[1:] != bins[:-1]) + 1)
        sums = np.add.reduceat(tile[order], starts, axis=0, dtype=np.int64)
        np.add.at(total, bins[starts], sums)
    return total


def _tabled(counts: SparseCounts, pool: np.ndarray, size: int) -> np.ndarray:
    """The same for sparse counts, as they are stored: padding adds nothing."""
    total = np.zeros(size * counts.n_channels)  # no sum of a channel reaches 2**31
    blocks = counts.by_pixel
    pixels = np.arange(blocks.n_owners), np.asarray(blocks.owner)
    for slots, pixel in zip((blocks.first, blocks.overflow), pixels, strict=True):
        begin = pool[pixel].astype(np.int64) * counts.n_channels
        partner, value = np.asarray(slots.partner), np.asarray(slots.value)
        # every run goes over the whole table, too
        step = max(max(RUN, 2 * len(total)) // max(len(pixel), 1), 1)
        for start in range(0, len(value), step):
            place, here = begin + partner[start : start + step], value[start : start + step]
            total += np.bincount(place.ravel(), here.ravel(), minlength=len(total))
    return total.astype(np.int64).reshape(size, -1)


def relative_to_counts(counts: AbstractCounts) -> AbstractCounts:
    """The same counts with each pixel's own number of counts, over their mean, as exposure.

    The mean is that of the pixels that have exposure.
    """
    totals = counts.pixel_totals()
    seen = jnp.ones(totals.shape, bool) if counts.exposure is None else counts.exposure > 0
    exposure = _over_mean(totals, seen)
    return eqx.tree_at(lambda c: c.exposure, counts, exposure, is_leaf=lambda x: x is None)


@seldom_run
def _over_mean(totals, seen):
    mean = totals.sum() / jnp.maximum(seen.sum(), 1)
    return totals / jnp.maximum(mean, jnp.finfo(totals.dtype).tiny)


def _indices(values) -> np.ndarray:
    """Whole numbers, in the type they have."""
    array = np.asarray(values).ravel()
    return array if array.dtype.kind in "iu" else array.astype(np.int64)


def _sparse(storage: str, n_filled: int, size: int) -> bool:
    check(
        storage in ("auto", "dense", "sparse"),
        f"Unknown storage '{storage}'; choose 'auto', 'dense' or 'sparse'.",
    )
    if storage != "auto":
        return storage == "sparse"
    if jax.default_backend() != "cpu" and size <= DENSE_UP_TO:
        return False
    return bool(n_filled <= DENSE_ABOVE * size)


def _check_shape(scan_shape, n_pixels):
    check(
        math.prod(scan_shape) == n_pixels,
        f"The scan shape {tuple(scan_shape)} does not hold the {n_pixels} pixels of the counts.",
    )


def _check_sums(value, index, name, length):
    _check_below(numbers(index, length, value), name)


def _check_below(sums, name):
    """Sums are taken in 32 bits on the device."""
    worst = int(np.argmax(sums)) if len(sums) else 0
    check(
        len(sums) == 0 or bool(sums[worst] < 2**31),
        f"The counts of {name} {worst} add up to 2³¹ or more; divide the image into frames or "
        "regions.",
    )


def _check_exposure(exposure, counted, n_pixels):
    """The exposure as one finite number >= 0 a pixel, > 0 in the pixels that are `counted`."""
    if exposure is None:
        return None
    exposure = np.asarray(exposure, float)
    check(
        exposure.size == n_pixels,
        f"The exposure has shape {exposure.shape}; give one value for each of the {n_pixels} "
        "pixels.",
    )
    exposure = exposure.ravel()
    bad = ~(np.isfinite(exposure) & (exposure >= 0))
    bad[counted] |= exposure[counted] == 0
    check(
        not bad.any(),
        f"The exposure of pixel {_first(bad)} is {exposure[_first(bad)]:g}; give a finite number, "
        "positive wherever there are counts.",
    )
    return exposure


def _check_counts(value, place):
    """One sentence naming the first bad count."""
    check(
        value.dtype.kind in "iufb",
        f"Counts have the type {value.dtype}; give whole numbers.",
    )
    if value.size == 0:
        return
    bad = ~np.isfinite(value) if value.dtype.kind == "f" else np.zeros(0, bool)
    check(not bad.any(), f"Counts are not finite at {place(_first(bad))}; remove or mask them.")
    bad = value < 0 if value.dtype.kind != "u" else np.zeros(0, bool)
    check(
        not bad.any(),
        f"Counts are negative at {place(_first(bad))}; give raw counts without background "
        "subtraction.",
    )
    bad = value != np.floor(value) if value.dtype.kind == "f" else np.zeros(0, bool)
    check(
        not bad.any(),
        f"Counts are not whole numbers at {place(_first(bad))}; give raw counts without scaling.",
    )


def _first(bad):
    return int(np.argmax(bad)) if bad.any() else 0
