"""Which reader opens a file, and one sentence whatever goes wrong inside it."""

import contextlib
import importlib
import logging
import pathlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import dask.config
import numpy as np
import rsciio

from .._checks import InputError, check
from ._chunks import BLOCK

#: The formats that spectrum images usually come in, named when an extension is unknown.
USUAL = ("hspy", "zspy", "emd", "bcf", "spx", "dm3", "dm4", "rpl", "msa", "spd", "pts", "eds")


def find_readers(path: pathlib.Path) -> list[dict[str, Any]]:
    """The RosettaSciIO plugins that claim the file's extension; HyperSpy's own formats first."""
    extension = path.suffix[1:].lower()
    readers = [
        plugin
        for plugin in rsciio.IO_PLUGINS
        if extension in {e.lower() for e in plugin["file_extensions"]}
    ]
    check(
        [plugin["name"] for plugin in readers] != ["Image"],
        f"{path.name} is a picture and holds no spectra; give the spectrum image's own file.",
    )
    check(
        bool(readers),
        f"The extension '{path.suffix}' of {path.name} belongs to no known format; give a file "
        f"that RosettaSciIO reads, such as {', '.join('.' + e for e in USUAL)}.",
    )
    return sorted(readers, key=lambda plugin: plugin["name"] not in ("HSPY", "ZSPY"))


def check_path(path: pathlib.Path) -> None:
    """Raise `InputError` unless there is something to read."""
    check(path.exists(), f"There is no file {path}; check the name and the folder.")
    check(
        path.is_file() or path.suffix.lower() == ".zspy",
        f"{path} is a folder; give the file of one spectrum image.",
    )


def read(
    path: pathlib.Path, lazy: bool | None, options: dict[str, Any] | None = None
) -> tuple[list[dict[str, Any]], str, list[str]]:
    """What the file holds, the name of the reader that understood it, and its warnings.

    `lazy=None` reads lazily where the reader can. The file stays open when it was read lazily:
    see `close`.
    """
    check_path(path)
    failures = []
    for plugin in find_readers(path):
        try:
            with _listening() as said:
                signals = _read_with(plugin, path, lazy, options or {})
                if not signals:
                    raise ValueError(said[0] if said else "it holds no data")
                _check_complete(signals)
        except InputError:
            raise
        except ImportError as error:
            failures.append(f"the {plugin['name']} reader needs a package: {sentence(error)}")
        except MemoryError:
            raise
        except Exception as error:  # readers raise whatever the bytes provoke
            failures.append(f"the {plugin['name']} reader says: {sentence(error)}")
        else:
            return signals, plugin["name"], said
    raise InputError(unreadable(path, "; ".join(failures)))


def _read_with(plugin, path, lazy, options) -> list[dict[str, Any]]:
    module = importlib.import_module(plugin["api"])
    options = _options(plugin["name"], path) | options
    if lazy is not False:
        try:
            with dask.config.set({"array.chunk-size": BLOCK}):
                return module.file_reader(str(path), lazy=True, **options)
        except NotImplementedError:
            check(
                lazy is None,
                f"The {plugin['name']} reader cannot read {path.name} lazily; leave `lazy` out.",
            )
        except Exception:  # some readers fail on valid files, but only lazily
            if lazy:
                raise
    return module.file_reader(str(path), lazy=False, **options)


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Collects what a reader warns of and logs, which it would otherwise write to the screen."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record):
            said.append(" ".join(record.getMessage().split()))

    logger = logging.getLogger("rsciio")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Listener(logging.WARNING)], False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        logger.handlers, logger.propagate = before
        said += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def _check_complete(signals: list[dict[str, Any]]) -> None:
    """Text spectra say how many points they hold, which their reader does not check."""
    for signal in signals:
        original = signal.get("original_metadata") or {}
        if "NPOINTS" in original and original.get("FORMAT", "").startswith("EMSA"):
            listed, held = int(float(original["NPOINTS"])), len(signal["data"])
            if listed != held:
                raise ValueError(f"it announces {listed} points but holds {held}")


def _options(reader: str, path: pathlib.Path) -> dict[str, Any]:
    """What a reader must be told so that no count is lost and nothing is loaded in vain."""
    if reader == "ZSPY" and not zipfile.is_zipfile(path):
        return {"mode": "r"}
    if reader == "EMD":
        return {"SI_dtype": np.uint32}
    if reader == "JEOL":
        return {"SI_dtype": np.uint16} if path.suffix.lower() == ".pts" else {}
    if reader == "Bruker" and path.suffix.lower() == ".bcf":
        return {"select_type": "spectrum_image"}
    return {}


def close(signals: list[dict[str, Any]]) -> None:
    """Close the HDF5 files that lazily read signals still hold open."""
    from rsciio.utils.file import get_file_handle

    for signal in signals:
        data = signal.get("data")
        if hasattr(data, "dask"):
            handle = get_file_handle(data, warn=False)
            if handle is not None:
                handle.close()


def sentence(error: BaseException) -> str:
    """The first words of an exception on one line, without the full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:197] + "...").rstrip(".")


def unreadable(path: pathlib.Path, why: str) -> str:
    return (
        f"{path.name} cannot be read, it may be damaged, cut short or of another kind ({why}); "
        "copy it again, or give another file."
    )
