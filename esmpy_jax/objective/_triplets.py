"""Triplets (pixel, channel, value) on the host: sorting and adding up in little memory.

An image of 512 × 512 pixels easily has 10⁷ nonzero counts. Indices are kept in the smallest type
that holds them, and whatever needs wide numbers goes over the counts in runs of `RUN`.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Integer

#: Counts that are looked at together.
RUN = 2**20


def runs(n: int) -> Iterator[slice]:
    """Slices of at most `RUN` that cover n counts."""
    for start in range(0, n, RUN):
        yield slice(start, min(start + RUN, n))


def index_type(n: int) -> type[np.unsignedinteger] | type[np.signedinteger]:
    """The type for indices below n."""
    return np.uint16 if n <= 2**16 else np.int32 if n <= 2**31 else np.int64


def numbers(
    index: Integer[np.ndarray, " count"], n: int, value: Integer[np.ndarray, " count"] | None = None
) -> Integer[np.ndarray, " index"] | Float[np.ndarray, " index"]:
    """How often every index below n comes, or the sum of its values."""
    total = np.zeros(n, np.int64 if value is None else np.float64)
    for run in runs(len(index)):
        total += np.bincount(index[run], None if value is None else value[run], minlength=n)
    return total


def rising(index: Integer[np.ndarray, " count"]) -> bool:
    """Whether no index is smaller than the one before."""
    return all((index[run] <= index[after]).all() for run, after in _neighbours(len(index)))


def increasing(major: Integer[np.ndarray, " count"], minor: Integer[np.ndarray, " count"]) -> bool:
    """Whether the pairs (major, minor) are sorted and each comes once."""
    return all(
        (
            (major[run] < major[after])
            | ((major[run] == major[after]) & (minor[run] < minor[after]))
        ).all()
        for run, after in _neighbours(len(major))
    )


def _neighbours(n: int) -> Iterator[tuple[slice, slice]]:
    for run in runs(n - 1):
        yield run, slice(run.start + 1, run.stop + 1)


def order_of(*keys: Integer[np.ndarray, " count"]) -> Integer[np.ndarray, " count"]:
    """The stable order by several non-negative keys, the last one first, as `np.lexsort` gives.

    Sixteen bits at a time, for which NumPy has a sort in linear time.
    """
    order = np.arange(len(keys[0]), dtype=index_type(len(keys[0])))
    for key in keys:
        for shift in range(0, max(int(key.max(initial=0)).bit_length(), 1), 16):
            digit = ((key >> shift) & 0xFFFF).astype(np.uint16)
            order = order[np.argsort(digit[order], kind="stable")]
    return order


def added(
    pixel: Integer[np.ndarray, " count"],
    channel: Integer[np.ndarray, " count"],
    value: Integer[np.ndarray, " count"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted by pixel and channel, with the values of pairs that come several times added."""
    if increasing(pixel, channel):
        return pixel, channel, value
    order = order_of(channel, pixel)
    pixel, channel, value = pixel[order], channel[order], value[order]
    del order
    first = np.ones(len(pixel), bool)
    first[1:] = (pixel[1:] != pixel[:-1]) | (channel[1:] != channel[:-1])
    if first.all():
        return pixel, channel, value
    sums = np.add.reduceat(value, np.flatnonzero(first), dtype=np.int64)
    return pixel[first], channel[first], sums
