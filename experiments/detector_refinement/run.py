"""A detector that is not the one the model believes: at% before and after `refine`, with the truth.

    python experiments/detector_refinement/run.py [--seeds N] [--size N] [--dose D] [--out DIR]

Simulates the demo's minerals with a detector, a calibration and a thickness that the fit does not
know of, fits with what is believed, refines with the maps of that fit, and fits again. Writes
results.csv and refinement.png, and the tables between the markers of this folder's README.md (with
`--out`, into DIR/table.md). `--quick` takes one small image.
"""

import argparse
import csv
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from figures import plot_results
from readme import fill
from scipy.optimize import linear_sum_assignment

import esmpy_jax as ej
from esmpy_jax.model import adjustables, adjusted
from esmpy_jax.physics import Layer, detector_window
from esmpy_jax.simulate import demo_image, demo_model

HERE = pathlib.Path(__file__).resolve().parent

#: What is wrong: the truth over (or, of the offset, less) what is believed.
FACTORS = {
    "window_Al": 1.3,
    "window_Si": 1.3,
    "noise_fwhm": 1.08,
    "fano": 1.08**2,
    "energy_gain": 1.003,
    "mass_thickness": 1.5,
}
OFFSET = 0.015  # keV
NAMES = ("energy_offset", *FACTORS)
_TRACES = 1.0  # at%, below which an element is left out of the comparison


def main(arguments: list[str] | None = None) -> pathlib.Path:
    """Run it; returns the folder with what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="images")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--dose", type=float, default=300.0, help="counts per pixel")
    parser.add_argument("--ideal", type=int, default=3, help="images fitted by the true model, too")
    parser.add_argument("--resume", action="store_true", help="go on with results.csv")
    parser.add_argument("--quick", action="store_true", help="one small image")
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.size = 1, 32
    out = options.out or (pathlib.Path(tempfile.mkdtemp()) if options.quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    believed = believed_model()
    true = true_model(believed)
    rows = read(out / "results.csv") if options.resume else []
    for seed in range(len(rows), options.seeds):
        ideal = seed < options.ideal
        rows.append(one_image(seed, options.size, options.dose, believed, true, ideal))
        print(rows[-1], flush=True)
        with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    plot_results(rows, NAMES).savefig(out / "refinement.png", dpi=120)
    text = table(rows, believed, true)
    text += f"\n\n{options.seeds} images of {options.size} × {options.size} pixels, "
    text += f"{options.dose:g} counts per pixel."
    if out == HERE:
        fill(out, text)
    else:
        (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out}")
    return out


def believed_model() -> ej.EDSModel:
    """The demo's model behind a contact of 30 nm aluminium and 50 nm of dead silicon."""
    model = demo_model()
    layers = (Layer.of("Al", 2.70, 30), Layer.of("Si", 2.33, 50))
    efficiency = ej.LayeredEfficiency(layers, detector_window("windowless").active)
    detector = dataclasses.replace(model.detector, efficiency=efficiency)
    return dataclasses.replace(model, detector=detector)


def true_model(believed: ej.EDSModel) -> ej.EDSModel:
    """What the simulation is made with."""
    known = adjustables(believed)
    values = {name: f * float(known[name].of(believed)) for name, f in FACTORS.items()}
    values["energy_offset"] = float(believed.energy_axis.offset) + OFFSET
    return adjusted(believed, values)


def one_image(
    seed: int, size: int, dose: float, believed: ej.EDSModel, true: ej.EDSModel, ideal: bool
) -> dict[str, float]:
    """Errors of at% and of the parameters, in standard errors, of one image."""
    key = jax.random.key(seed)
    image = demo_image(key, counts_per_pixel=dose, shape=(size, size), model=true)
    seen = dataclasses.replace(image, energy_axis=believed.energy_axis)
    before = ej.fit(seen, believed, 3, key=key)
    began = time.perf_counter()
    refined = ej.refine(seen, believed, before, NAMES)
    seconds = time.perf_counter() - began
    after = ej.fit(seen, refined.model, 3, key=key)
    known = adjustables(believed)
    row: dict[str, float] = {"seed": seed, "seconds": round(seconds, 2), "steps": refined.steps}
    for name in NAMES:
        found, exact = refined.parameters[name], float(known[name].of(true))
        row[f"{name}"] = found.after
        row[f"{name} z"] = round((found.after - exact) / found.stderr, 3)
    row["at% before"] = at_percent_error(before, image.truth)
    row["at% after"] = at_percent_error(after, image.truth)
    best = ej.fit(image, true, 3, key=key) if ideal else None
    row["at% true model"] = np.nan if best is None else at_percent_error(best, image.truth)
    return row


def read(path: pathlib.Path) -> list[dict[str, float]]:
    """What was written before."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def at_percent_error(solution: ej.Solution, truth: ej.GroundTruth) -> float:
    """Median |at% - true at%| over the phases and their elements above `_TRACES`."""
    n = len(truth.phase_names)
    maps = np.concatenate(
        [solution.abundance.reshape(n, -1), np.asarray(truth.abundance).reshape(n, -1)]
    )
    rows, order = linear_sum_assignment(-np.corrcoef(maps)[n:, :n])
    exact = 100 * np.asarray(truth.composition, float)[:, rows]
    off = np.abs(solution.composition.values[:, order] - exact)
    return round(float(np.median(off[exact > _TRACES])), 4)


def table(rows: list[dict[str, float]], believed: ej.EDSModel, true: ej.EDSModel) -> str:
    """Both tables as Markdown."""
    known = adjustables(believed)
    lines = [
        "| parameter | believed | true | found, mean | within 1 / 2 standard errors | rms of it |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        z = np.array([row[f"{name} z"] for row in rows])
        unit = known[name].unit
        values = [
            float(known[name].of(believed)),
            float(known[name].of(true)),
            statistics.mean(row[name] for row in rows),
        ]
        cells = " | ".join(f"{v:.6g} {unit}".strip() for v in values)
        inside = [int((np.abs(z) < k).sum()) for k in (1, 2)]
        rms = np.sqrt((z**2).mean())
        lines.append(f"| {name} | {cells} | {inside[0]} / {inside[1]} of {len(z)} | {rms:.2f} |")
    columns = ("at% before", "at% after", "at% true model")
    middle = [float(np.nanmedian([row[c] for row in rows])) for c in columns]
    lines += [
        "",
        "| median error of at% | median over images |",
        "|---|---|",
        *(f"| {c.removeprefix('at% ')} | {m:.3f} |" for c, m in zip(columns, middle, strict=True)),
        "",
        f"The error falls {middle[0] / middle[1]:.1f} times. "
        f"`refine` takes {statistics.median(row['seconds'] for row in rows):.1f} s, "
        f"{max(row['seconds'] for row in rows):.1f} s where it is compiled.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
