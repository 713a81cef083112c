"""The section "first": import and first fit of a new process, without and with a cache on disk.

    python first.py COUNTS.npy {default|joint}

prints one JSON object of seconds. The image has 64 × 64 pixels and
1000 channels and is fitted with all options by default. The labelled table is apart, as it
imports xarray and pandas. Then a part of the image is fitted that is 3 pixels smaller along each
axis, twice: the first of these fits compiles what it does not share with the whole image.

`joint`: one fit of W and H together by `VariableProjectionNewton`, without anything that the
default chooses by held-out counts, nor what it asks after mixtures.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ELEMENTS = ("O", "Mg", "Al", "Si", "Ca", "Fe")
SIZE, CHANNELS, COUNTS = 64, 1000, 50.0


def write_image(path: pathlib.Path) -> None:
    """Three phases in a file of counts."""
    import jax
    import numpy as np

    import esmpy_jax as ej
    from esmpy_jax.simulate import Phase, simulate, spheres

    place, noise = jax.random.split(jax.random.key(0))
    phases = (
        Phase("bridgmanite", {"O": 60, "Mg": 18, "Al": 2, "Si": 20}, 4.6),
        Phase("ferropericlase", {"O": 50, "Mg": 38, "Fe": 12}, 4.7),
        Phase("Ca-perovskite", {"O": 60, "Ca": 20, "Si": 20}, 4.3),
    )
    maps = spheres((SIZE, SIZE), key=place, radius=12, count=(1, 1))
    axis = ej.EnergyAxis(offset=0.2, gain=0.01, size=CHANNELS)
    model = ej.EDSModel.from_axis(axis, ELEMENTS, beam_energy=200.0)
    image = simulate(model, phases, maps, COUNTS, key=noise)
    np.save(path, image.counts.to_dense().reshape(SIZE, SIZE, CHANNELS).astype(np.uint8))


def first_fit(path: str, solver: str) -> dict[str, float]:
    """What a user's first cell does."""
    began = time.perf_counter()
    import numpy as np

    import esmpy_jax as ej

    imported = time.perf_counter()
    axis = ej.EnergyAxis(offset=0.2, gain=0.01, size=CHANNELS)
    model = ej.EDSModel.from_axis(axis, ELEMENTS, beam_energy=200.0)
    acquisition = ej.Acquisition(beam_energy=200.0)
    counts = np.load(path)
    image = ej.SpectrumImage(ej.as_counts(counts), axis, acquisition)
    options = {} if solver == "default" else {"solver": ej.solve.VariableProjectionNewton()}
    solution = ej.fit(image, model, 3, **options)
    if not solution.converged:
        raise RuntimeError(solution.result)
    fitted = time.perf_counter()
    if solver == "joint":
        return {"import and joint fit": fitted - began}
    solution.dataset["composition"].to_pandas()
    labelled = time.perf_counter()
    part = ej.SpectrumImage(ej.as_counts(counts[3:, 3:]), axis, acquisition)
    of_part = []
    for _ in range(2):
        start = time.perf_counter()
        ej.fit(part, model, 3)
        of_part.append(time.perf_counter() - start)
    return {
        "import": imported - began,
        "import and fit": fitted - began,
        "and a labelled table": labelled - began,
        "then fit a part": of_part[0],
        "and again": of_part[1],
    }


def first(repeats: int) -> dict:
    """Medians over several new processes, each without a cache and with a filled one."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "counts.npy")
        write_image(path)
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(folder, "cache")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, "-W", "ignore", str(HERE / "first.py"), str(path)]
        kinds = {"no cache": {}, "filling the cache": cache, "from the cache": cache}
        for kind, variables in kinds.items():
            runs = []
            for _ in range(1 if kind == "filling the cache" else repeats):
                found = {}
                for solver in ("default", "joint"):
                    done = subprocess.run(
                        [*command, solver],
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                        env=os.environ | variables,
                    )
                    found |= json.loads(done.stdout.splitlines()[-1])
                runs.append(found)
            rows[kind] = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    return {"size": SIZE, "channels": CHANNELS, "counts per pixel": COUNTS, "rows": rows}


if __name__ == "__main__":
    print(json.dumps(first_fit(*sys.argv[1:])))
