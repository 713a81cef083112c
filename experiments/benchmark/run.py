"""This program, scikit-learn and espm side by side: one command, one table.

    python experiments/benchmark/run.py [--quick] [--only SECTION ...] [--without-espm]

Sections, in this order: `iterations` (`programs.py`), `optimum` (`to_optimum.py`), `limits`,
`scaling`, `memory`, `precision`, `storage`, `starts` and `first` (modules of the same names, whose
docstrings say what is measured and how). `--only` runs some of them and puts their results among
those of `results.json`.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import sklearn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from espm_environment import ESPM, espm_python
from espm_program import EspmWorker
from first import first
from limits import limits
from memory import memory
from plan import FULL, QUICK, Plan
from precision import precision
from programs import iterations
from report import SECTIONS, lines, write
from scaling import scaling
from scene import Scenes
from starts import starts
from storage import storage
from to_optimum import to_optimum

HERE = pathlib.Path(__file__).resolve().parent


def machine(worker: EspmWorker | None) -> dict:
    """What was run on, and how busy it was."""
    import threadpoolctl

    blas = {i["internal_api"]: i["num_threads"] for i in threadpoolctl.threadpool_info()}
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        text = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(v.split(":")[1].strip() for v in text if v.startswith("model name"))
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores usable": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "threads of BLAS and OpenMP": blas,
        "threads of XLA": "all usable cores",
        "jax device": str(jax.devices()[0]),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "espm environment": None if worker is None else worker.versions,
        },
    }


def peaks(scenes: Scenes, plan: Plan, python: pathlib.Path | None) -> dict:
    """The section "memory" at every dose."""
    doses = []
    for dose in plan.doses:
        scene, path = scenes.get(dose, plan.size)
        doses.append(scene.facts() | {"programs": memory(path, plan.size, python)})
    return {"size": plan.size, "doses": doses}


def run(
    plan: Plan, names: list[str], python: pathlib.Path | None, keep: Callable[[dict], None]
) -> dict:
    """The sections, each with its machine, its wall-clock and an identifier of the run.

    What there is so far is given to `keep` after each, so that a failure costs one section.
    """
    results = {}
    number = datetime.datetime.now().isoformat(timespec="seconds")
    whole = time.perf_counter()
    worker = None if python is None else EspmWorker(python)
    info = machine(worker)
    info["busy"] = info["load before"] > 0.5 * info["cores usable"]
    with tempfile.TemporaryDirectory() as folder:
        scenes = Scenes(pathlib.Path(folder))
        calls = {
            "iterations": lambda: iterations(scenes, plan, worker),
            "optimum": lambda: to_optimum(scenes, plan, worker),
            "limits": lambda: limits(scenes, plan),
            "scaling": lambda: scaling(plan),
            "memory": lambda: peaks(scenes, plan, python),
            "precision": lambda: precision(scenes, plan),
            "storage": lambda: storage(plan),
            "starts": lambda: starts(scenes, plan),
            "first": lambda: first(plan.processes),
        }
        for name in names:
            print(f"{name} ...", flush=True)
            began = time.perf_counter()
            section = calls[name]()
            took = time.perf_counter() - began
            about = {"seconds": took, "run": number, "quick": plan.quick, "machine": info}
            results[name] = section | about
            keep(results)
            print(f"{name}: {took:.0f} s", flush=True)
    print(f"all: {time.perf_counter() - whole:.0f} s", flush=True)
    if worker is not None:
        worker.close()
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--espm-python",
        type=pathlib.Path,
        help=f"Python of an environment with {ESPM}; by default one is made in the user's cache "
        "folder, ~/.cache/esmpy_jax",
    )
    parser.add_argument("--without-espm", action="store_true", help="leave espm out")
    parser.add_argument(
        "--quick", action="store_true", help="small and short; writes only where --out says"
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--out", type=pathlib.Path, help="default: the folder of this script")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else FULL
    names = [n for n in SECTIONS if given.only is None or n in given.only]
    needs_espm = not given.without_espm and {"iterations", "optimum", "memory"} & set(names)
    python = espm_python(given.espm_python) if needs_espm else None
    folder = given.out or (None if given.quick else HERE)
    before = {}
    if folder is not None and given.only is not None and (folder / "results.json").exists():
        kept = json.loads((folder / "results.json").read_text())
        before = {n: s for n, s in kept.items() if n in SECTIONS and "run" in s}

    def keep(results: dict) -> None:
        if folder is not None:
            write(before | results, folder)

    with jax.enable_x64(False):
        results = run(plan, names, python, keep)
    print("\n".join(lines(before | results)))


if __name__ == "__main__":
    main()
