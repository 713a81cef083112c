"""Compiled programs, kept for the next run of the program."""

import contextlib
import hashlib
import os
import pathlib
import platform
from collections.abc import MutableMapping

import platformdirs

#: Bytes of compiled programs that are kept; those of one kind of image take some 3 MB.
_MOST = 2**28


def keep_compiled(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let JAX, before it is imported, keep compiled programs in the user's folder for caches.

    Each kind of processor has a folder of its own, since programs for one may not run on another.
    The oldest go where there are more than `_MOST` bytes of them. Nothing is done where the
    environment says where to keep them, or where the folder cannot be written to.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    try:
        folder = platformdirs.user_cache_path("esmpy_jax") / f"compiled-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except (OSError, RuntimeError):  # the latter without a home directory
        return
    if not os.access(folder, os.W_OK):
        return
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # small programs, too: there are many
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _prune(folder: pathlib.Path) -> None:
    """Delete the oldest files until half of `_MOST` is left, where there is more than that.

    JAX can do so itself, but looks at all files for every program that it keeps.
    """
    with os.scandir(folder) as entries:
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries]
    total = sum(size for _, size, _ in files)
    if total <= _MOST:
        return
    for _, size, path in sorted(files):
        with contextlib.suppress(OSError):  # another process may have been faster
            os.remove(path)
        total -= size
        if total <= _MOST / 2:
            return


def _processor() -> str:
    """A short name for the instructions that this processor knows."""
    known = platform.machine() + platform.processor()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(known.encode()).hexdigest()[:12]
