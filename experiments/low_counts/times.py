"""Seconds from a file to the report, by the command line, without and with compiled programs.

    python experiments/low_counts/times.py [--repeats N] [--quick]

Writes spheres with 18 and 293 counts per pixel (128 x 128 x 1980) to .hspy files, without
absorption in the sample, and runs `esmpy-jax fit` on each: in a new process with an empty cache of
compiled programs, in new processes with what that left, and again in a process that has compiled
them, as a notebook would. The table goes between the markers `times` of this folder's README.md;
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
    parser.add_argument("--again", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.again:
        return _in_this_process(options.again)
    size, repeats = (32, 1) if options.quick else (128, options.repeats)
    program = pathlib.Path(sys.executable).with_name("esmpy-jax")
    rows = [
        "| counts per pixel | without compiled programs, s (aim) | a new process that reads them, "
        "s (aim) | a process that has them, s (aim) |",
        "|---|---|---|---|",
    ]
    for dose, (cold_aim, warm_aim) in DOSES.items():
        cold, warm, again = [], [], []
        for seed in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                file, cache = pathlib.Path(folder) / "scan.hspy", pathlib.Path(folder) / "cache"
                simulate = ["simulate", "--out", file, "--counts", dose, "--size", size]
                _run([program, *simulate, "--seed", seed, "--thickness", 0], cache / "other")
                call = ["fit", file, "--elements", ELEMENTS, "--stray", "Cu", "--phases", 3]
                for i, seconds in enumerate((cold, warm, warm)):
                    out = ["--out", pathlib.Path(folder) / f"out{i}"]
                    seconds.append(_run([program, *call, *out], cache / "fit"))
                out = ["--out", pathlib.Path(folder) / "again"]
                again += _several_times([*call, *out], cache / "fit")
        numbers = ((cold, cold_aim), (warm, warm_aim), (again, warm_aim))
        cells = " | ".join(f"{_range(seconds)} ({aim})" for seconds, aim in numbers)
        rows.append(f"| {dose} | {cells} |")
        print(rows[-1], flush=True)
    text = "\n".join(rows)
    if not options.quick:
        fill(HERE, text, "times")
    return text


def _environment(cache: pathlib.Path) -> dict[str, str]:
    """Compiled programs, small ones too, are kept in `cache`."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _several_times(call: list, cache: pathlib.Path) -> list[float]:
    """Wall seconds of a command in a process that has run it before."""
    command = [sys.executable, __file__, "--again", *call]
    done = subprocess.run(
        [str(c) for c in command],
        check=True,
        env=_environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def _in_this_process(call: list[str]) -> str:
    """Run a command three times and print the seconds of the last two, in one line."""
    from esmpy_jax.cli import app

    seconds = []
    for i in range(3):
        began = time.perf_counter()
        status = app([*call[:-1], f"{call[-1]}{i}"], standalone_mode=False)
        if status:
            raise SystemExit(status)
        seconds.append(time.perf_counter() - began)
    words = " ".join(f"{s:.3f}" for s in seconds[1:])
    print(words)
    return words


def _run(command: list, cache: pathlib.Path) -> float:
    """Wall seconds of a command that keeps compiled programs in `cache`."""
    began = time.perf_counter()
    subprocess.run(
        [str(c) for c in command],
        check=True,
        env=_environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def _range(seconds: list[float]) -> str:
    """Median, and the largest."""
    return f"{statistics.median(seconds):.1f}, at most {max(seconds):.1f}"


if __name__ == "__main__":
    main()
