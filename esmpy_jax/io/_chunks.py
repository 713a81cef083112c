"""Counts out of any array, block by block, so that the dense cube is never in memory."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._checks import check
from ._signals import Signal

#: Bytes of one block while reading, unless the file's own chunks are larger.
BLOCK = 2**23

#: Counts that are looked at together where a file lists them one by one.
_RUN = 2**20


def coordinates(
    signal: Signal, region: tuple[int, int, int, int], channels: slice, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nonzero counts of the region and channels: pixel, channel and value.

    Pixel and channel count from the region's corner and from the first channel kept. Raises
    `InputError` for values that are no counts, naming the first one's place in the file.
    """
    y0, _, x0, x1 = region
    first, last = channels.start, channels.stop
    pixels, chans, values = [], [], []
    for y, x, channel, value in _nonzero(signal, region, (first, last)):
        value = _whole(value, lambda i, y=y, x=x, c=channel: (y[i], x[i], c[i]), name)
        pixels.append(((y - y0) * (x1 - x0) + (x - x0)).astype(np.int32))
        chans.append((channel - first).astype(np.int32 if last - first > 2**16 else np.uint16))
        values.append(value)
    if not pixels:
        empty = np.zeros(0, np.int32)
        return empty, empty, empty
    return _drained(pixels), _drained(chans), _drained(values)


def _drained(parts: list[np.ndarray]) -> np.ndarray:
    """All parts in one array; the list is emptied, so that they need not be held twice."""
    whole = np.empty(sum(len(part) for part in parts), np.result_type(*parts))
    parts.reverse()
    at = 0
    while parts:
        part = parts.pop()
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _nonzero(signal: Signal, region, window) -> Iterator[tuple[np.ndarray, ...]]:
    y0, y1, x0, x1 = region
    first, last = window
    if hasattr(signal.data, "coords"):  # sparse.COO
        coords, value = np.asarray(signal.data.coords), np.asarray(signal.data.data)
        for start in range(0, len(value), _RUN):
            run = slice(start, start + _RUN)
            y, x, channel = _three(signal, coords[:, run])
            keep = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
            keep &= (channel >= first) & (channel < last)
            yield y[keep], x[keep], channel[keep], value[run][keep]
        return
    cube = _cube(signal)[y0:y1, x0:x1, first:last]
    for corner, block in _blocks(cube):
        check(
            block.dtype.kind in "iufb",
            f"The EDS signal holds values of type {block.dtype}; give whole numbers of counts.",
        )
        y, x, channel = np.nonzero(block)
        value = block[y, x, channel]
        yield y + corner[0] + y0, x + corner[1] + x0, channel + corner[2] + first, value


def _three(signal: Signal, coords) -> list[np.ndarray]:
    """Coordinates in the order (y, x, channel), with zeros for missing scan axes."""
    rows = [np.asarray(coords[i], np.int64) for i in signal.order]
    zeros = np.zeros(len(rows[0]), np.int64)
    if len(rows) == 2 and signal.scan_shape[1] == 1 and signal.scan_shape[0] > 1:
        return [rows[0], zeros, rows[1]]
    return [zeros] * (3 - len(rows)) + rows


def _cube(signal: Signal) -> Any:
    """The array as (y, x, channel)."""
    data = signal.data.transpose(signal.order)
    return data.reshape(*signal.scan_shape, signal.n_channels)


def _blocks(cube: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(corner, block) of an array, each block at most about `BLOCK` bytes."""
    if not hasattr(cube, "dask"):
        cube = np.asarray(cube)
        rows = max(1, int(BLOCK / max(cube[:1].nbytes, 1)))
        for row in range(0, cube.shape[0], rows):
            yield (row, 0, 0), cube[row : row + rows]
        return
    cube = cube.rechunk(_merged(cube))
    corners = [np.concatenate([[0], np.cumsum(sizes)[:-1]]) for sizes in cube.chunks]
    for index in itertools.product(*(range(n) for n in cube.numblocks)):
        corner = tuple(int(c[i]) for c, i in zip(corners, index, strict=True))
        block = cube.blocks[index].compute(scheduler="synchronous")
        yield corner, block.todense() if hasattr(block, "todense") else np.asarray(block)


def _merged(cube: Any) -> tuple[tuple[int, ...], ...]:
    """Neighbouring chunks put together up to `BLOCK` bytes; none is split and so read twice."""
    largest = cube.dtype.itemsize * math.prod(max(sizes) for sizes in cube.chunks)
    room = max(BLOCK // max(largest, 1), 1)
    merged = []
    for sizes in reversed(cube.chunks):  # energy first, then x, then y
        number = min(room, len(sizes))
        merged.append(_joined(sizes, number))
        room = max(room // number, 1)
    return tuple(reversed(merged))


def _joined(sizes: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(sum(sizes[i : i + number]) for i in range(0, len(sizes), number))


def _whole(value: np.ndarray, place, name: str) -> np.ndarray:
    """The values in the smallest integer type; floats must be whole numbers."""

    def refuse(bad, what):
        if bad.any():
            i = int(np.argmax(bad))
            y, x, channel = (int(n) for n in place(i))
            check(
                False,
                f"The counts of {name} {what} at pixel y {y}, x {x}, channel {channel} "
                f"({value[i]}); give raw counts, not processed or averaged ones.",
            )

    if value.dtype.kind == "f":
        refuse(~np.isfinite(value), "are not finite")
        refuse(value != np.floor(value), "are not whole numbers")
    if value.dtype.kind in "fi":
        refuse(value < 0, "are negative")
    largest = float(value.max(initial=0))
    return value.astype(np.min_scalar_type(int(largest)) if largest < 2**63 else np.int64)
