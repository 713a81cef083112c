"""Where W starts when the pixels come in batches: a fit of their sums over bins."""

from collections.abc import Iterable

import numpy as np

from ..objective import AbstractCounts, bin_counts, counts_from_coo


def one_image(
    batches: Iterable[AbstractCounts], counts_per_bin: float = 2000.0
) -> AbstractCounts | None:
    """All batches as one image of bins with about so many counts; `None` where there are none.

    Bins do not cross the borders of batches. Their size is that of the first batch with counts.
    """
    parts, exposures, n_bins, factor, n_channels = [], [], 0, None, 0
    for counts in batches:
        n_channels = counts.n_channels
        total = float(np.asarray(counts.sum_spectrum(), float).sum())
        if factor is None and total > 0:
            factor = _factor(counts, total, counts_per_bin)
        binned = bin_counts(counts, min(factor or 1, max(counts.scan_shape)))
        del counts
        pixel, channel, value = binned.to_coo()
        parts.append((pixel + n_bins, channel, value))
        exposures.append(np.asarray(binned.exposure))
        n_bins += binned.n_pixels
    if not parts:
        return None
    return counts_from_coo(
        *(np.concatenate(x) for x in zip(*parts, strict=True)),
        scan_shape=(n_bins,),
        n_channels=n_channels,
        exposure=np.concatenate(exposures),
    )


def _factor(counts: AbstractCounts, total: float, counts_per_bin: float) -> int:
    """Pixels a bin along each axis, a power of two; at least 8 bins are left in the batch."""
    axes = [s for s in counts.scan_shape if s > 1] or [1]
    factor = 1
    while factor ** len(axes) * total / counts.n_pixels < counts_per_bin:
        left = np.prod([-(-s // (2 * factor)) for s in axes])
        if 2 * factor > min(axes) or left < 8:
            break
        factor *= 2
    return factor
