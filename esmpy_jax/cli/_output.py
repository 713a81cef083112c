"""The folder of results: refused if it exists, and filled at the very end, all at once."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from .._checks import InputError, check


def program_version() -> str:
    """The version of this program, as installed."""
    try:
        return version("esmpy-jax")
    except PackageNotFoundError:
        return "not installed"


def check_folder(path: pathlib.Path, overwrite: bool) -> None:
    """Raise `InputError` unless results may go to this folder."""
    check(
        path.is_dir() or not (path.exists() or path.is_symlink()),
        f"{path} is a file, so the results cannot go into a folder of that name; give another "
        "--out.",
    )
    check(
        overwrite or not path.exists(),
        f"The output folder {path} exists already; give another --out, or --overwrite to replace "
        "the results in it.",
    )
    above = _existing(path)
    check(
        above.is_dir() and os.access(above, os.W_OK),
        f"Nothing can be written into {above}; give another --out.",
    )


@contextlib.contextmanager
def filled(path: pathlib.Path, known: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """A temporary folder whose files go to `path` when all went well, and vanish otherwise.

    In a folder that exists, files of the same name are replaced, those in `known` that are not
    made anew are removed, as left by an earlier run, and all others stay.
    """
    try:
        hidden = pathlib.Path(tempfile.mkdtemp(prefix=".esmpy_jax-", dir=_existing(path)))
        try:
            yield hidden
            path.mkdir(parents=True, exist_ok=True)
            for name in known:
                if not (hidden / name).exists():
                    (path / name).unlink(missing_ok=True)
            for file in hidden.iterdir():
                os.replace(file, path / file.name)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(
            f"The results cannot be written into {path} ({why}); give another --out."
        ) from error


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The nearest folder above a path that exists."""
    path = path.absolute().parent
    while not path.exists():
        path = path.parent
    return path
