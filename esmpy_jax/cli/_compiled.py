"""Compiled programs, kept for the next run of the program."""

import hashlib
import os
import pathlib
import platform
from collections.abc import MutableMapping

import platformdirs

#: Bytes above which JAX deletes what was not used for the longest time; one fit makes some 2 MB.
_MOST = 2**29


def keep_compiled(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let JAX, before it is imported, keep compiled programs in the user's folder for caches.

    Each kind of processor has a folder of its own, since programs for one may not run on another.
    Nothing is done where the environment says where to keep them, or where the folder cannot be
    written to.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    folder = platformdirs.user_cache_path("esmpy_jax") / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environment.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_MOST))
    # small programs, too: there are many
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _processor() -> str:
    """A short name for the instructions that this processor knows."""
    known = platform.machine() + platform.processor()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(known.encode()).hexdigest()[:12]
