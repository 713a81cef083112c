"""Scans in grids of a few sizes, so that images of other sizes share compiled programs."""

import math
from typing import TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool

from .._arrays import on_device
from .._checks import check
from ..objective import AbstractCounts, DenseCounts, SparseCounts, pool_counts
from ..objective._build import DENSE_UP_TO

Values = TypeVar("Values", jax.Array, np.ndarray)

#: Lengths of an axis between two powers of two: 64, 80, 96, 112, 128.
_STEPS = 4


class Frame:
    """A scan in one corner of a grid, of which each axis has one of a few lengths.

    A compiled program belongs to the shapes of its arrays. What lies outside of the scan has
    neither counts nor exposure, and no neighbours for a regulariser that is given `pixels`. An axis
    becomes longer by less than a quarter, by a tenth on average; so does the room for counts that
    do not fit into the first rows of sparse storage.

    Counts that are stored densely and are many stay as they are: to move them takes too much room.
    """

    def __init__(self, counts: AbstractCounts):
        self.shape = counts.scan_shape
        small = counts.n_pixels * counts.n_channels <= DENSE_UP_TO
        self.grid = tuple(map(roomy, self.shape)) if counts.is_sparse or small else self.shape
        inside = [np.arange(n) < own for n, own in zip(self.grid, self.shape, strict=True)]
        self._inside = np.ix_(*inside)
        mask = np.zeros(self.grid, bool)
        mask[self._inside] = True
        #: Which places of the grid hold pixels.
        self.pixels: Bool[Array, "*scan"] = on_device(mask)

    def placed(self, counts: AbstractCounts) -> AbstractCounts:
        """Counts of the scan in the grid, stored as they are."""
        if self.grid != self.shape:
            place = np.arange(math.prod(self.grid)).reshape(self.grid)[self._inside].ravel()
            storage = "sparse" if counts.is_sparse else "dense"
            counts = pool_counts(counts, place, self.grid, storage)
        if not isinstance(counts, SparseCounts):
            return counts
        sides = counts.by_pixel, counts.by_channel
        new = tuple(s.padded(roomy(s.n_blocks), np.dtype(s.first.value.dtype)) for s in sides)
        return eqx.tree_at(lambda c: (c.by_pixel, c.by_channel), counts, new)


def roomy(n: int) -> int:
    """The smallest length that holds n."""
    step = max(2 ** ((n - 1).bit_length() - 1) // _STEPS, 1) if n > 1 else 1
    return -(-n // step) * step


def cropped(values: Values, grid: tuple[int, ...], shape: tuple[int, ...]) -> Values:
    """What belongs to the pixels of a scan, of values (..., pixel) in a grid."""
    if grid == shape or values.shape[-1] == 1:  # one for all
        return values
    corner = values.reshape(*values.shape[:-1], *grid)[(..., *(slice(n) for n in shape))]
    return corner.reshape(*values.shape[:-1], -1)


def check_on_one_device(counts: AbstractCounts) -> None:
    """Raise `InputError` for counts of which none can be held out."""
    check(
        isinstance(counts, DenseCounts | SparseCounts),
        "CoarseToFine holds counts out, which those that are spread over devices do not allow; "
        "give solver=VariableProjectionNewton() for them.",
    )


def exposed(counts: AbstractCounts) -> Bool[np.ndarray, " pixel"]:
    """Which pixels have exposure."""
    if counts.exposure is None:
        return np.ones(counts.n_pixels, bool)
    return np.asarray(counts.exposure).ravel() > 0
