"""A file's spectrum image as runs of rows, one of which is read at a time."""

import os
import pathlib
from collections.abc import Sequence
from numbers import Integral
from typing import Any, overload

from .._checks import check
from ..inference import SpectrumImage
from ..inference._image import check_bin
from ..objective import AbstractCounts
from ._load import load, opened


class FileBatches(Sequence[AbstractCounts]):
    """The counts of a file, `rows` rows of the scan at a time; made by `load_batches`.

    `batches[i]` reads the i-th batch from the file, and nothing is kept of it, so that
    `factorise_batches` can go through a file that exceeds memory again and again. The last batch
    may have fewer rows.

    - `scan_shape`: (y, x) of all batches together, after `bin`.
    - `rows`: rows of a batch, after `bin`.
    """

    scan_shape: tuple[int, int]
    rows: int

    def __init__(self, path: pathlib.Path, file_shape: tuple[int, int], rows: int, options: dict):
        self._path, self._file_shape, self._options = path, file_shape, options
        self._step = rows
        factor = options.get("bin", 1)
        self.rows = rows // factor
        self.scan_shape = file_shape[0] // factor, file_shape[1] // factor

    def __len__(self) -> int:
        return -(-self._file_shape[0] // self._step)

    def image(self, index: int) -> SpectrumImage:
        """The i-th batch with its energy axis, acquisition and place in the scan."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no batch {index} among {len(self)}.")
        first = index % len(self) * self._step
        last = min(first + self._step, self._file_shape[0])
        region = first, last, 0, self._file_shape[1]
        return load(self._path, region=region, **self._options)

    @overload
    def __getitem__(self, index: int) -> AbstractCounts: ...
    @overload
    def __getitem__(self, index: slice) -> list[AbstractCounts]: ...
    def __getitem__(self, index: int | slice) -> AbstractCounts | list[AbstractCounts]:
        if isinstance(index, slice):
            return [self.image(i).counts for i in range(*index.indices(len(self)))]
        return self.image(index).counts


def load_batches(path: str | os.PathLike, rows: int, **options: Any) -> FileBatches:
    """`load` in batches of `rows` rows of the scan, for files that exceed memory.

    Opens the file to learn the shape of the scan, and reads no counts yet. Each batch is read
    when it is asked for, in every pass again. How little of the file that touches depends on the
    format. HDF5 and Zarr files are read chunk by chunk, so let `rows` be a multiple of a chunk's;
    other formats may be read as a whole each time.

    - `options`: what `load` takes, but for `region`. `rows` counts before `bin` and has to be a
        multiple of it.

    Raises `InputError` as `load` does, and for rows that cannot be used.
    """
    path = pathlib.Path(path)
    check("region" not in options, "A file is read as a whole in batches; leave region out.")
    factor = options.get("bin", 1)
    check(
        isinstance(factor, Integral) and int(factor) >= 1,
        f"The bin factor is {factor}; give a whole number of at least 1.",
    )
    check(
        isinstance(rows, Integral) and int(rows) >= 1 and int(rows) % int(factor) == 0,
        f"A batch of {rows} rows cannot be read with bin {factor}; give a positive multiple of it.",
    )
    with opened(path, options.get("signal"), options.get("lazy")) as (eds, _, _):
        shape = eds.scan_shape
    check_bin(int(factor), shape)
    return FileBatches(path, (int(shape[0]), int(shape[1])), int(rows), options)
