"""Time and memory of loading, fitting and reporting a large image.

    python experiments/big_image/run.py [--quick]

Every step runs in a process of its own, so that its peak of memory is its own. The table goes into
the README; `--quick` takes 64 × 64 pixels and only prints it.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ELEMENTS, STRAY = ["O", "Mg", "Si", "Fe", "Ca", "Al", "Ti", "Na", "K", "Mn"], ["Cu"]
CHANNELS, COUNTS = 2048, 50.0
AIM, AIM_SECONDS = 4.0, 60.0  # GiB; seconds of the fit
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def make(folder: pathlib.Path, size: int) -> None:
    """The simulated image in both formats."""
    import jax

    import esmpy_jax as ej

    model = ej.EDSModel.from_axis(
        ej.EnergyAxis(0.2, 0.01, CHANNELS), ELEMENTS, beam_energy=200.0, stray=STRAY
    )
    phase = ej.simulate.Phase
    phases = (
        phase("a", {"O": 60, "Mg": 20, "Si": 20}, density=4.0),
        phase("b", {"O": 40, "Fe": 40, "Mg": 20}, density=4.0),
        phase("c", {"O": 50, "Ca": 30, "Al": 20}, density=4.0),
    )
    scene, photons = jax.random.split(jax.random.key(0))
    radius = 0.2 * size
    maps = ej.simulate.spheres(
        (size, size), key=scene, radius=radius, count=(1, 1), foil_thickness=2 * radius
    )
    image = ej.simulate.simulate(model, phases, maps, COUNTS, key=photons)
    for extension in (".hspy", ".zspy"):
        ej.save_image(image, folder / f"image{extension}")


def make_at(path: pathlib.Path) -> None:
    """The folder for the images, named by their size."""
    make(path, int(path.name))


def load(path: pathlib.Path) -> None:
    import esmpy_jax as ej

    ej.load(path)


def fit(path: pathlib.Path) -> dict[str, float]:
    """Also the seconds after the image was loaded, compilation included."""
    import esmpy_jax as ej

    image = ej.load(path)
    began = time.perf_counter()
    solution = ej.fit(image, ej.EDSModel.from_image(image, ELEMENTS, stray=STRAY), 3)
    return {"after load": time.perf_counter() - began, "converged": solution.converged}


def report(path: pathlib.Path) -> None:
    from esmpy_jax.cli import main

    sys.argv = ["esmpy-jax", "fit", str(path), "--elements", ",".join(ELEMENTS)]
    sys.argv += ["--stray", ",".join(STRAY), "--phases", "3"]
    sys.argv += ["--out", str(path.with_suffix(".results")), "--overwrite"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


STEPS = {"make": make_at, "load": load, "fit": fit, "report": report}


def measure(step: str, path: pathlib.Path) -> dict[str, float]:
    """Run one step in a process of its own, which compiles everything that it needs."""
    command = [sys.executable, __file__, "--step", step, "--file", str(path)]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def run_step(step: str, path: pathlib.Path) -> None:
    began = time.perf_counter()
    more = STEPS[step](path) or {}
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 2**30 if sys.platform == "darwin" else 2**20
    found = {
        "seconds": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / unit,
    }
    print(json.dumps(found | more))


def table(rows: list[tuple[str, dict[str, float]]], size: int, load_before: float) -> str:
    lines = ["| step | seconds | processor seconds | peak memory, GiB |", "|---|---|---|---|"]
    for name, row in rows:
        lines.append(f"| {name} | {row['seconds']:.1f} | {row['cpu']:.1f} | {row['peak']:.2f} |")
    most = max(row["peak"] for _, row in rows)
    met = "met" if most < AIM else "not met"
    fits = dict(rows)["fit, .hspy"]
    in_time = "met" if fits["converged"] and fits["after load"] < AIM_SECONDS else "not met"
    lines += [
        "",
        f"- The fit itself, once the image is loaded, takes {fits['after load']:.1f} s, "
        f"compilation included, and {'converges' if fits['converged'] else 'does NOT converge'} "
        f"(aim: less than {AIM_SECONDS:g} s, {in_time}).",
        f"- The most is {most:.2f} GiB (aim: less than {AIM:g}, {met}).",
        f"- {size} × {size} pixels, {CHANNELS} channels, {COUNTS:g} counts per pixel, "
        f"{platform.machine()}, {os.cpu_count()} cores, load {load_before:.1f} before.",
    ]
    if load_before > 0.5:
        lines.append("- **Not to be quoted**: the machine was busy with other work.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        run_step(given.step, given.file)
        return
    size, load_before = 64 if given.quick else 512, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, str(size))
        folder.mkdir()
        # apart, too: Linux counts the memory of the process that starts another as the other's
        measure("make", folder)
        rows = [
            (f"{step}, {extension}", measure(step, folder / f"image{extension}"))
            for step, extension in (
                ("load", ".hspy"),
                ("load", ".zspy"),
                ("fit", ".hspy"),
                ("report", ".hspy"),
            )
        ]
    found = table(rows, size, load_before)
    print(found)
    if not given.quick:
        readme = HERE / "README.md"
        text = readme.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        readme.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
