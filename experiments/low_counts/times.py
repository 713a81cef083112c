"""Seconds from a file to the report, by the command line, without and with compiled programs.

    python experiments/low_counts/times.py [--repeats N] [--quick]

Writes spheres with 18 and 293 counts per pixel (128 x 128 x 1980) to .hspy files and runs
`esmpy-jax fit` on each, a new process every time: once with an empty cache of compiled programs,
then with what that left. The table goes between the markers `times` of this folder's README.md;
with `--quick`, a small run, it is printed only.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from readme import fill

HERE = pathlib.Path(__file__).resolve().parent
DOSES = {18: (30, 10), 293: (40, 20)}  # aims in seconds: with compilation and without
ELEMENTS = "O,Mg,Al,Si,Ca,Ti,Fe,Nd,Sm,Lu,Hf"


def main(arguments: list[str] | None = None) -> str:
    """Run it; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="images of each dose")
    parser.add_argument("--quick", action="store_true", help="a small run, printed only")
    options = parser.parse_args(arguments)
    size, repeats = (32, 1) if options.quick else (128, options.repeats)
    program = pathlib.Path(sys.executable).with_name("esmpy-jax")
    rows = [
        "| counts per pixel | without compiled programs, s (aim) | with them, s (aim) |",
        "|---|---|---|",
    ]
    for dose, (cold_aim, warm_aim) in DOSES.items():
        cold, warm = [], []
        for seed in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                file, cache = pathlib.Path(folder) / "scan.hspy", pathlib.Path(folder) / "cache"
                simulate = ["simulate", "--out", file, "--counts", dose, "--size", size]
                _run([program, *simulate, "--seed", seed, "--thickness", 0], cache / "other")
                call = ["fit", file, "--elements", ELEMENTS, "--stray", "Cu", "--phases", 3]
                for i, seconds in enumerate((cold, warm, warm)):
                    out = ["--out", pathlib.Path(folder) / f"out{i}"]
                    seconds.append(_run([program, *call, *out], cache / "fit"))
        rows.append(f"| {dose} | {_range(cold)} ({cold_aim}) | {_range(warm)} ({warm_aim}) |")
        print(rows[-1], flush=True)
    text = "\n".join(rows)
    if not options.quick:
        fill(HERE, text, "times")
    return text


def _run(command: list, cache: pathlib.Path) -> float:
    """Wall seconds of a command that keeps compiled programs in `cache`."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    began = time.perf_counter()
    subprocess.run(
        [str(c) for c in command],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def _range(seconds: list[float]) -> str:
    """Median, and the largest."""
    return f"{statistics.median(seconds):.1f}, at most {max(seconds):.1f}"


if __name__ == "__main__":
    main()
