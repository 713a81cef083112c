"""The environment of espm, which pins old versions of what others need."""

import os
import pathlib
import subprocess
import sys

ESPM = "espm==1.1.3"


def espm_python(given: pathlib.Path | None) -> pathlib.Path:
    """The Python of espm's environment, which is made on first use."""
    if given is not None:
        return given
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    folder = cache / "esmpy_jax" / ESPM.replace("==", "-")
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"Installing {ESPM}, with the old versions it pins, in {folder} (once).")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", ESPM], check=True)
        complete.touch()
    return python
