"""Counts of several images brought to common shapes, so that they share compiled programs."""

import dataclasses

import equinox as eqx
import numpy as np

from .._arrays import on_device
from ._blocks import Blocks, blocks_needed, rounded, storage_cost
from ._counts import AbstractCounts
from ._dense import DenseCounts
from ._sparse import SparseCounts
from ._triplets import numbers

#: Overflow blocks that are kept free for the images to come, over those that one image needs.
_ROOM = 1.12


@dataclasses.dataclass
class _Form:
    """Shapes in which counts are stored: of the groups by pixel and by channel, and the type."""

    lengths: tuple[tuple[int, int], tuple[int, int]]
    blocks: list[int]
    value_type: np.dtype

    def make_room(self, sides: tuple[Blocks, Blocks], value_type: np.dtype) -> None:
        """Let so many blocks and such values fit in; what does already changes nothing."""
        for i, (side, lengths) in enumerate(zip(sides, self.lengths, strict=True)):
            if side.n_blocks > self.blocks[i]:
                self.blocks[i] = rounded(int(_ROOM * side.n_blocks), side.n_owners, lengths)
        self.value_type = np.promote_types(self.value_type, value_type)


class Alike:
    """`alike(counts)` is the same counts in shapes that earlier ones had, wherever they fit.

    A compiled program belongs to the shapes of its arrays, and those of sparse counts depend on
    the counts. Images of one scan shape share the lengths of their rows as long as that costs at
    most 30 % more slots than their own, and the number of overflow blocks, which grows with the
    largest need so far. Dense counts share the type of their values. Others stay as they are.

    - `spare`: slots that common rows may cost over those that suit an image best.
    - `least`: the smallest type of the values of dense counts.
    """

    def __init__(self, spare: float = 1.3, least: type[np.unsignedinteger] = np.uint8):
        self._spare = spare
        self._least = np.dtype(least)
        self._forms: dict[tuple, list[_Form]] = {}
        self._types: dict[tuple, np.dtype] = {}

    def __call__(self, counts: AbstractCounts) -> AbstractCounts:
        key = counts.scan_shape, counts.n_channels, counts.exposure is None
        if isinstance(counts, SparseCounts):
            return self._sparse(key, counts)
        if isinstance(counts, DenseCounts):
            own = np.dtype(counts.values.dtype)
            common = self._types[key] = np.promote_types(self._types.get(key, self._least), own)
            if common != own:
                values = on_device(np.asarray(counts.values).astype(common))
                return eqx.tree_at(lambda c: c.values, counts, values)
        return counts

    def _sparse(self, key, counts: SparseCounts) -> SparseCounts:
        sides = counts.by_pixel, counts.by_channel
        lengths = sides[0].lengths, sides[1].lengths
        forms = self._forms.setdefault(key, [])
        form = next((f for f in forms if f.lengths == lengths), None)
        if form is None:
            form, sides = _repacked(forms, counts, sides, self._spare)
        if form is None:
            form = _Form(lengths, [0, 0], np.dtype(counts.by_pixel.first.value.dtype))
            forms.append(form)
        form.make_room(sides, np.dtype(sides[0].first.value.dtype))
        new = tuple(s.padded(n, form.value_type) for s, n in zip(sides, form.blocks, strict=True))
        return eqx.tree_at(lambda c: (c.by_pixel, c.by_channel), counts, new)


def _repacked(forms: list[_Form], counts: SparseCounts, sides: tuple[Blocks, Blocks], spare: float):
    """The cheapest of the forms that suit the counts, and these in rows of its lengths."""
    if not forms:
        return None, sides
    pixel, channel, value = counts.to_coo()
    owners = (pixel, counts.n_pixels), (channel, counts.n_channels)
    number = [numbers(index, n) for index, n in owners]

    def cost(lengths) -> int:
        return sum(
            storage_cost(len(n), own, int(blocks_needed(n, own).sum()))
            for n, own in zip(number, lengths, strict=True)
        )

    best = min(forms, key=lambda form: cost(form.lengths))
    if cost(best.lengths) > spare * cost([s.lengths for s in sides]):
        return None, sides
    n_pixels, n_channels = counts.n_pixels, counts.n_channels
    by_pixel = Blocks.pack(pixel, channel, value, n_pixels, n_channels, best.lengths[0])
    by_channel = Blocks.pack(channel, pixel, value, n_channels, n_pixels, best.lengths[1])
    return best, (by_pixel, by_channel)
