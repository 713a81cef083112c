"""The image binned in space, and back; and its pixels pooled by what they hold."""

import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float

from .._types import Abundances
from ..objective import AbstractCounts, pool_counts
from ..objective._alike import Alike
from ..objective._build import Storage
from ..solve import upsample
from ._pools import number_of_pools, pairs_of, pooled_by_shares

#: Values that are stored densely whatever they are: then rows cost no more than the counts in them.
FEW = 2**20

#: Densely stored values of the smaller bins up to which a CPU takes the larger ones in their grid:
#: there they cost some seconds more, and another program takes about ten to compile.
SHARED_UP_TO = 2**21


class Bins:
    """`bins(counts, factor)` is the binned image or a part of it, in shapes that they share.

    So the fits to a part and to everything run one program. So do those of the sizes of a group:
    their bins lie in one corner of the grid of the smallest ones, and what lies outside has neither
    counts nor exposure. Only on the CPU, where many counts that are stored densely would make that
    cost more than it saves, these have a grid for each size. Few counts are always stored densely,
    in a shape that the next image shares, and pools lie in a grid of bins that suits them.
    One object keeps the binned whole image and the shapes.

    - `groups`: the numbers of pixels along an axis of a bin that will be asked for.
    """

    def __init__(self, whole: AbstractCounts, groups: Iterable[Sequence[int]]):
        self.whole = whole
        self._groups = {factor: tuple(sorted(group)) for group in groups for factor in group}
        self._grids: dict[int, tuple[int, ...]] = {}
        self._storage: dict[int, Storage] = {}
        self._binned: dict[int, AbstractCounts] = {}
        self._alike = Alike(spare=math.inf, least=np.uint16)

    def __call__(self, counts: AbstractCounts, factor: int) -> AbstractCounts:
        self._prepare(factor)
        if counts is self.whole:
            return self._binned[factor]
        return self._in_grid(counts, factor, self._storage[factor])

    def _prepare(self, factor: int) -> None:
        """Bin the whole image by all factors of the group, which makes room for all of them."""
        if factor in self._binned:
            return
        finest, *others = self._groups[factor]  # the storage of the finest suits them all best
        self._grids[finest] = self.shape(finest)
        n_values = math.prod(self._grids[finest]) * self.whole.n_channels
        few = n_values <= FEW
        binned = {finest: self._in_grid(self.whole, finest, "dense" if few else "auto")}
        storage: Storage = "sparse" if binned[finest].is_sparse else "dense"
        cheap = n_values <= SHARED_UP_TO or jax.default_backend() != "cpu"
        shared = storage == "sparse" or cheap
        for other in others:
            self._grids[other] = self.shape(finest if shared else other)
            binned[other] = self._in_grid(self.whole, other, storage)
        for own, counts in binned.items():
            self._binned[own] = self._alike(counts)
            self._storage[own] = storage

    def _in_grid(self, counts, factor, storage: Storage = "auto") -> AbstractCounts:
        grid = self._grids[factor]
        pool = _bin_of_pixel(counts.scan_shape, factor, grid)
        return self._alike(pool_counts(counts, pool, grid, storage))

    def grid(self, factor: int) -> tuple[int, ...]:
        """The grid in which the bins lie."""
        self._prepare(factor)
        return self._grids[factor]

    def shape(self, factor: int) -> tuple[int, ...]:
        """How many bins there are along each axis."""
        return tuple(-(-s // factor) for s in self.whole.scan_shape)

    def means(
        self, maps: Float[Array | np.ndarray, "phase pixel"], factor: int
    ) -> Float[np.ndarray, "phase bin"]:
        """The mean shares of the pixels of each bin; equal shares outside."""
        pool = _bin_of_pixel(self.whole.scan_shape, factor, self.grid(factor))
        h = np.asarray(maps, float)
        h = h / np.maximum(h.sum(0), 1e-300)
        n = math.prod(self.grid(factor))
        size = np.bincount(pool, minlength=n)
        sums = np.stack([np.bincount(pool, weights=row, minlength=n) for row in h])
        return np.where(size > 0, sums / np.maximum(size, 1), 1 / len(h))

    def pooled(
        self, counts: AbstractCounts, maps: Float[np.ndarray, "phase pixel"]
    ) -> tuple[AbstractCounts, Float[np.ndarray, "phase pool"]]:
        """`pooled_by_shares`, into as many pools for a part as for the whole image.

        They lie in a grid of bins that are stored densely, so that they run the program of the
        bins: they fill one with as many places as `number_of_pools` says or up to half fewer, or
        else leave places empty in one that is not larger than grids are that bins share.
        """
        size, pairs = number_of_pools(self.whole.total), pairs_of(len(maps))
        places = {math.prod(self._grids[f]): f for f, s in self._storage.items() if s == "dense"}
        near = [n for n in places if max(size / 2, 4 * pairs) <= n <= size + pairs]
        room = SHARED_UP_TO if jax.default_backend() == "cpu" else math.inf
        wide = [n for n in places if n > size + pairs and n * counts.n_channels <= room]
        best = max(near) if near else min(wide, default=None)
        shape = None if best is None else self._grids[places[best]]
        pools, shares = pooled_by_shares(counts, maps, size, shape)
        return self._alike(pools), np.asarray(shares)

    def at_full_resolution(
        self, shares: Float[Array | np.ndarray, "phase bin"], factor: int, floor: float = 0.0
    ) -> Abundances:
        """The shares of the bins in every pixel, none below `floor` of their sum."""
        return upsample(shares, self.grid(factor), self.whole.scan_shape, factor, floor)


def _bin_of_pixel(scan_shape: tuple[int, ...], factor: int, grid: tuple[int, ...]) -> np.ndarray:
    """For each pixel the place of its bin in the flattened grid."""
    return np.ravel_multi_index(tuple(i // factor for i in np.indices(scan_shape)), grid).ravel()
