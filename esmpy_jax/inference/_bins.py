"""The image binned in space, and back."""

import numpy as np
from jaxtyping import Float

from .._types import Abundances
from ..objective import AbstractCounts, bin_counts
from ..objective._alike import Alike
from ..solve import Factorisation, upsample


class Bins:
    """`bins(counts, factor)` is the binned image or a part of it, in shapes that both share.

    Fits to a part then run the programs that the fit to everything needs. One object keeps the
    binned whole image and the shapes.
    """

    def __init__(self, whole: AbstractCounts):
        self.whole = whole
        self._binned: dict[int, AbstractCounts] = {}
        self._alike = Alike()

    def __call__(self, counts: AbstractCounts, factor: int) -> AbstractCounts:
        if factor not in self._binned:
            self._binned[factor] = self._alike(bin_counts(self.whole, factor))
        whole = self._binned[factor]
        if counts is self.whole:
            return whole
        storage = "sparse" if whole.is_sparse else "dense"
        return self._alike(bin_counts(counts, factor, storage))


def in_bins(
    maps: Abundances, shape: tuple[int, ...], factor: int
) -> Float[np.ndarray, "phase bin"]:
    """The mean shares of the pixels of each bin."""
    small = tuple(-(-s // factor) for s in shape)
    bins = np.ravel_multi_index(tuple(i // factor for i in np.indices(shape)), small).ravel()
    h = np.asarray(maps, float)
    h = h / np.maximum(h.sum(0), 1e-300)
    size = np.bincount(bins)
    return np.stack([np.bincount(bins, weights=row) / size for row in h])


def at_full_resolution(
    fit: Factorisation, shape: tuple[int, ...], factor: int, floor: float = 0.0
) -> Abundances:
    """The shares of a binned fit in every pixel."""
    return upsample(fit.abundances, fit.problem.counts.scan_shape, shape, factor, floor)
