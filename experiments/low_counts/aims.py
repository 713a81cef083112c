"""What the defaults are meant to reach, checked draw by draw.

    python experiments/low_counts/aims.py [--only NAME ...] [--draws N] [--quick] [--out DIR]
                                          [--resume]

Fits every scene below with the defaults, counts the draws within the aim and writes the table
between the markers `aims` of this folder's README.md and `aims.csv` with every draw (with `--out`,
or a part of the lines, DIR or a temporary folder). `aims.csv` is written draw by draw; `--resume`
takes what it holds as done, so begin anew when the program has changed. `--quick` is a small run.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from judging import Found
from programs import judged
from readme import fill
from scenes import SCENES, make_image, make_models, peak_ratio

from esmpy_jax import Solution, SpectrumImage, fit

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS = ("line", "scene", "counts_per_pixel", "draw", "phase", "map_correlation")
COLUMNS += ("spectral_angle_deg", "at_percent_error", "within", "value", "wall_seconds", "open")


@dataclasses.dataclass(frozen=True)
class Figures:
    """How well the phases were found, each (phase,): correlation, degrees, at%."""

    correlation: np.ndarray
    angle: np.ndarray
    error: np.ndarray


@dataclasses.dataclass(frozen=True)
class Draw:
    """One fit: whether it is within the aim, and the figure that the aim is about."""

    within: bool
    value: str
    found: Figures | None
    open_phases: int
    seconds: float


Test = Callable[[Solution, Found, SpectrumImage], tuple[bool, str]]


@dataclasses.dataclass(frozen=True)
class Line:
    """One thing that is to be shown: scenes, number of draws, how many have to be within."""

    scenes: Sequence[str]
    dose: float | None  # counts per pixel; None: that of the scene
    draws: int
    needed: float  # share of the draws
    aim: str
    test: Test
    auto: bool = False  # the number of phases is asked for

    def counts(self, scene: str) -> float:
        """Per pixel."""
        return SCENES[scene].dose if self.dose is None else self.dose


def maps_and_compositions(
    correlation: float, angles: Sequence[float], errors: Sequence[float]
) -> Test:
    """Every phase within: correlation at least, angle (degrees) and at% error at most."""

    def test(_, found, __):
        good = (
            (found.correlation >= correlation)
            & (found.angle <= np.array(angles))
            & (found.error <= np.array(errors))
        )
        return bool(good.all()), f"{found.correlation.min():.3f}"

    return test


def correlations(least: float) -> Test:
    """Every map correlates with the truth at least so much."""

    def test(_, found, __):
        return bool((found.correlation >= least).all()), f"{found.correlation.min():.3f}"

    return test


def peak(solution: Solution, _, image: SpectrumImage) -> tuple[bool, str]:
    """The peak of the profile of Ca within 15 %."""
    ratio = peak_ratio(image, solution)
    return abs(ratio - 1) <= 0.15, f"{ratio:.3f}"


def said_open(solution: Solution, _, __) -> tuple[bool, str]:
    """At least one phase is said to be open."""
    n = _open(solution)
    return n > 0, str(n)


def not_said_open(solution: Solution, _, __) -> tuple[bool, str]:
    """No phase is said to be open."""
    n = _open(solution)
    return n == 0, str(n)


def covered(solution: Solution, found: Found, image: SpectrumImage) -> tuple[bool, str]:
    """The true at% lie in the ranges given (95 %), but for one in eight at most."""
    data = solution.dataset
    low, high, own = (
        data[name].transpose("element", "phase").values
        for name in ("composition_low", "composition_high", "composition")
    )
    # the phases of `found` are in the order of the truth
    apart = np.abs(own[:, :, None] - found.composition[:, None, :]).sum(0)
    order = apart.argmin(0)
    truth = 100 * np.asarray(image.truth.composition, float)
    outside = (truth < low[:, order]) | (truth > high[:, order])
    return bool(outside.mean() <= 1 / 8), f"{outside.sum()} of {outside.size} out"


def bounded(solution: Solution, _, image: SpectrumImage) -> tuple[bool, str]:
    """How much of the other phases the matrix may hold, by the fit, is no less than it holds.

    It holds a tenth of each of them everywhere, which no program can know: only how much it can be.
    """
    own = solution.dataset["composition"].transpose("element", "phase").values
    truth = 100 * np.asarray(image.truth.composition, float)[:, :1]
    matrix = int(np.abs(own - truth).sum(0).argmin())
    bounds = json.loads(solution.dataset.attrs["ambiguities"])[matrix]["hidden"]
    least = min(t for b, t in enumerate(bounds) if b != matrix)
    return least >= 0.1, f"{least:.3f}"


def right_number(solution: Solution, _, image: SpectrumImage) -> tuple[bool, str]:
    """The number of phases."""
    n = len(solution.abundance)
    return n == len(image.truth.phase_names), str(n)


FEW = maps_and_compositions(0.97, (1, 3.5, 5), (0.2, 1.8, 1.4))
MANY = maps_and_compositions(0.99, (0.5, 2, 2), (0.1, 0.6, 0.5))
FEW_AIM = "correlations ≥ .97, angles ≤ 1/3.5/5°, at% ≤ .2/1.8/1.4"
MANY_AIM = "correlations ≥ .99, angles ≤ .5/2/2°, at% ≤ .1/.6/.5"

LINES = {
    "spheres": Line(("spheres",), None, 20, 1.0, FEW_AIM, FEW),
    "spheres, 293": Line(("spheres",), 293.0, 20, 1.0, MANY_AIM, MANY),
    "thickness": Line(("varying thickness",), None, 20, 1.0, FEW_AIM, FEW),
    "thickness, 293": Line(("varying thickness",), 293.0, 20, 1.0, MANY_AIM, MANY),
    "radius 8": Line(("radius 8",), None, 10, 0.9, "correlations ≥ .9", correlations(0.9)),
    "boundary": Line(("grain boundary",), None, 10, 1.0, "peak of Ca within 15 %", peak),
    "open": Line(
        ("thick foil", "grain boundary", "same elements"),
        None,
        10,
        0.9,
        "a phase is called open",
        said_open,
    ),
    "not open": Line(
        ("spheres", "varying thickness", "radius 8", "3 phases"),
        None,
        20,
        0.95,
        "no phase is called open",
        not_said_open,
    ),
    "bounds": Line(
        ("no pure matrix",),
        None,
        10,
        0.9,
        "the tenth that the matrix holds is within the bound given",
        bounded,
    ),
    "ranges": Line(
        ("spheres", "varying thickness", "radius 8", "3 phases"),
        None,
        10,
        0.9,
        "at most 1 in 8 true at% outside its 95 % range",
        covered,
    ),
} | {
    f"{k} phases": Line((f"{k} phases",), 50.0, 10, 0.8, f'"auto" finds {k}', right_number, True)
    for k in (2, 3, 4, 5)
}


def main(arguments: list[str] | None = None) -> pathlib.Path:
    """Run the check; returns the folder with what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=LINES, help="some lines")
    parser.add_argument("--draws", type=int, help="fewer or more draws of each scene")
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--quick", action="store_true", help="a small run of one draw")
    parser.add_argument("--resume", action="store_true", help="go on where a run was cut off")
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    names = options.only or (["boundary"] if options.quick else list(LINES))
    partial = options.quick or options.only or options.draws or options.first
    out = options.out or (pathlib.Path(tempfile.mkdtemp()) if partial else HERE)
    out.mkdir(parents=True, exist_ok=True)
    if options.resume and partial and set(_read_csv(out / "aims.csv")) - _asked(options, names):
        parser.error(
            f"{out / 'aims.csv'} holds draws that were not asked for and would be lost; give "
            "another folder with --out, or ask for them, too."
        )
    size = 32 if options.quick else 128
    began = time.perf_counter()
    fits: dict[tuple, tuple[Solution, float]] = {}
    done = _read_csv(out / "aims.csv") if options.resume else {}
    groups: list[tuple[str, str, list[Draw]]] = []
    for name in names:
        line = LINES[name]
        n = 1 if options.quick else options.draws or line.draws
        for scene in line.scenes:
            draws = []
            for seed in range(options.first, options.first + n):
                draw = done.get((name, scene, seed)) or _draw(line, scene, seed, size, fits)
                draws.append(draw)
                print(f"{name} | {scene} {seed}: {_words(draw)}", flush=True)
                _write_csv(out / "aims.csv", [*groups, (name, scene, draws)], options.first)
            groups.append((name, scene, draws))
            # programs map memory, of which a process may have some 65 000 pieces
            jax.clear_caches()
    minutes = (time.perf_counter() - began) / 60
    text = _table(groups, size)
    if out == HERE:
        _into_readme(text)
    else:
        (out / "aims.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out} after {minutes:.1f} min")
    return out


def _asked(options: argparse.Namespace, names: Sequence[str]) -> set[tuple[str, str, int]]:
    """Line, scene and seed of all draws that were asked for."""
    asked = set()
    for name in names:
        n = 1 if options.quick else options.draws or LINES[name].draws
        seeds = range(options.first, options.first + n)
        asked |= {(name, scene, seed) for scene in LINES[name].scenes for seed in seeds}
    return asked


def _draw(line: Line, scene: str, seed: int, size: int, fits: dict) -> Draw:
    """The fit, or the same fit from an earlier line, and its test."""
    kind = SCENES[scene]
    dose = line.counts(scene)
    key = (scene, dose, seed, line.auto)
    true_model, model = make_models(kind)
    image = make_image(kind, true_model, dose, seed, size)
    if key not in fits:
        began = time.perf_counter()
        n = "auto" if line.auto else len(kind.phases)
        solution = fit(image, model, n, key=jax.random.key(seed))
        fits[key] = solution, time.perf_counter() - began
    solution, seconds = fits[key]
    same = len(solution.abundance) == len(kind.phases)
    found = judged(image, solution, seconds) if same else None
    within, value = line.test(solution, found, image)
    figures = None if found is None else Figures(found.correlation, found.angle, found.error)
    return Draw(within, value, figures, _open(solution), seconds)


def _open(solution: Solution) -> int:
    """How many phases the fit says are open."""
    return int((solution.dataset["determined"].values == 0).sum())


def _words(draw: Draw) -> str:
    found = draw.found
    numbers = [f"{'within' if draw.within else 'NOT within'} ({draw.value})"]
    if found is not None:
        numbers += [
            " ".join(f"{v:.3f}" for v in found.correlation),
            " ".join(f"{v:.2f}°" for v in found.angle),
            " ".join(f"{v:.2f}" for v in found.error),
        ]
    return " | ".join([*numbers, f"{draw.open_phases} open", f"{draw.seconds:.1f} s"])


def _write_csv(path: pathlib.Path, groups, first: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, scene, draws in groups:
            line = LINES[name]
            for seed, draw in enumerate(draws, first):
                tail = [int(draw.within), draw.value, f"{draw.seconds:.1f}", draw.open_phases]
                head = [name, scene, f"{line.counts(scene):g}", seed]
                found = draw.found
                if found is None:
                    writer.writerow([*head, "", "", "", "", *tail])
                    continue
                for a, phase in enumerate(SCENES[scene].phases):
                    numbers = (found.correlation[a], found.angle[a], found.error[a])
                    writer.writerow([*head, phase.name, *(f"{v:.4f}" for v in numbers), *tail])


def _read_csv(path: pathlib.Path) -> dict[tuple[str, str, int], Draw]:
    """The draws that a file of `_write_csv` holds, by line, scene and seed."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    draws = {}
    for key in dict.fromkeys((r["line"], r["scene"], int(r["draw"])) for r in rows):
        own = [r for r in rows if (r["line"], r["scene"], int(r["draw"])) == key]
        seconds, found = float(own[0]["wall_seconds"]), None
        if own[0]["phase"]:
            parts = (np.array([float(r[c]) for r in own]) for c in COLUMNS[5:8])
            found = Figures(*parts)
        within = own[0]["within"] == "1"
        draws[key] = Draw(within, own[0]["value"], found, int(own[0]["open"]), seconds)
    return draws


def _table(groups, size: int) -> str:
    """One row for each line and scene."""
    out = [
        f"{size} × {size} pixels, 1980 channels. Worst of all draws, phase by phase "
        "in the order of the list of scenes. Seconds: median of wall time.",
        "",
        "| scene | counts per pixel | aim | draws within | asked | correlation, worst | angle, "
        "worst (°) | at% error, worst | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, scene, draws in groups:
        line = LINES[name]
        found = [d.found for d in draws if d.found is not None]
        cells = ["–"] * 3
        if found:
            worst = (
                np.min([f.correlation for f in found], 0),
                np.max([f.angle for f in found], 0),
                np.max([f.error for f in found], 0),
            )
            forms = (".3f", ".2f", ".2f")
            cells = [
                " / ".join(format(v, form) for v in w) for w, form in zip(worst, forms, strict=True)
            ]
        within = f"{sum(d.within for d in draws)} of {len(draws)}"
        row = [
            scene,
            f"{line.counts(scene):g}",
            line.aim,
            within,
            f"{100 * line.needed:g} %",
            *cells,
        ]
        out.append("| " + " | ".join([*row, f"{np.median([d.seconds for d in draws]):.1f}"]) + " |")
    return "\n".join(out)


def _into_readme(text: str) -> None:
    fill(HERE, text, "aims")


if __name__ == "__main__":
    main()
