"""Physical parameters of a measured image, refined in stages and judged by held-out counts.

    python experiments/real_bridgmanite/run.py [--file FILE] [--quick] [--out DIR]

Writes the figures, and the tables between the markers of this folder's README.md (with `--out`,
into DIR/tables.md). `--quick` refines the first stage only, holds out once and bins the image; it
writes into DIR or a temporary folder. Without the file it does nothing.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np

import esmpy_jax as ej
from esmpy_jax.inference import propagate

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))

import refinements  # noqa: E402
from residuals import explanations  # noqa: E402
from tables import attenuation_table, composition_table, sensitivity_table  # noqa: E402

FILE = HERE.parents[2] / "shared" / "data" / "88_ES-LP_G8_selection2_cropped2.hspy"
ELEMENTS = ["Mg", "Al", "Si", "Ca", "Fe", "Sm", "Nd", "Lu", "Hf", "U", "Ti"]
STRAY = ["Cu", "Ga", "Mo", "Co", "Cr", "Mn", "K", "Zr", "Ni"]
STRAY += ["S", "P", "Cl", "Ar", "Na", "Zn", "Pt", "W"]
_GROUPS = ["Mg K-M", "Si K-M", "Ca K-M", "Fe K-M", "Cu K-M", "Hf M", "Lu M", "Hf L2", "Lu L2"]
RATIOS = [f"{group} ratio" for group in _GROUPS]
SMOOTH = ["shelf_depth", *(f"continuum_correction_{k}" for k in (1, 2, 3, 4))]
MARKS = {"2.2": 2.2, "Ca K": 3.69, "6.7": 6.72, "8.3": 8.3, "17.2": 17.2}


def main(arguments: list[str] | None = None) -> pathlib.Path | None:
    """Make tables and figures; returns the folder with what it wrote."""
    parser = refinements.options(__doc__, "one stage, held out once, a binned image")
    parser.add_argument("--file", type=pathlib.Path, default=FILE, help="the measured image")
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        print(f"There is no file {options.file}; give the measured image with --file.")
        return None
    out = refinements.folder(options.out, options.quick, HERE)
    began = time.perf_counter()
    parts = []
    for title, text in sections(ej.load(options.file), options.quick, out):
        parts.append(f"### {title}\n\n{text}")  # written as they come: the last ones take long
        made = f"Made in {time.perf_counter() - began:.0f} s."
        refinements.write("\n\n".join([*parts, made]), out, HERE)
    print(f"wrote {out}")
    return out


def sections(image: ej.SpectrumImage, quick: bool, out: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Title and text of each table; draws the figures on the way."""
    model = build(image)
    rows, last = staged(image, model, 1 if quick else 3)
    names = list(last.parameters)
    figure = refinements.plot_fit(last, [(0.8, 4.0), (4.0, 20.0)], MARKS)
    figure.savefig(out / "fit.png", dpi=100)
    yield "Stages", stage_table(rows, last)
    yield "Parameters of the last stage", refinements.parameter_table(last)
    yield "Attenuation without oxygen", attenuation_table()
    if not quick:
        yield "What one more column would explain", explanations(image, last, build)
        yield "Variants of the last stage", variants(image, model, names)
    yield "Held-out counts", held_out(image, model, names, 1 if quick else 10)
    yield "The image", of_image(image.bin(8) if quick else image, model, last, out)


def build(
    image: ej.SpectrumImage, more: tuple[str, ...] = (), tail: bool = True, oxygen: bool = True
) -> ej.EDSModel:
    """The model before anything is refined; `more`: further stray elements."""
    return ej.EDSModel.from_image(
        image,
        ELEMENTS,
        stray=[*STRAY, *more],
        detector=refinements.detector(130.0, tail),
        thickness=100,
        density=4.5,
        bound_oxygen=oxygen,  # the axis begins above oxygen's line
    )


def timed(image, model, names):
    began = time.perf_counter()
    found = ej.refine(image, model, parameters=names)
    return found, time.perf_counter() - began


def staged(image: ej.SpectrumImage, model: ej.EDSModel, n_stages: int):
    """(label, refinement, seconds) of each stage, and the last refinement."""
    first, seconds = timed(image, model, None)
    rows = [("the default first look", first, seconds)]
    names = list(first.parameters)
    for label, more in (("and line ratios", RATIOS), ("and the smooth continuum", SMOOTH)):
        if len(rows) < n_stages:
            names += more
            rows.append((label, *timed(image, model, names)))
    return rows, rows[-1][1]


def stage_table(rows, last: ej.Refinement) -> str:
    first = rows[0][1]
    lines = [
        "| refined | parameters | deviance / dof | seconds | beyond 3 prior sd |",
        "|---|---|---|---|---|",
        f"| nothing (W only) | 0 | {first.deviance_before / first.dof_before:.3f} | | |",
    ]
    lines += [row(*one) for one in rows]
    said = "".join(f"\n- {note}" for note in last.notes)
    return "\n".join(lines) + ("\n\nNotes of the last stage:\n" + said if said else "")


def row(label: str, found: ej.Refinement, seconds: float) -> str:
    count, distant = len(found.parameters), refinements.far(found)
    return f"| {label} | {count} | {refinements.per_dof(found):.3f} | {seconds:.0f} | {distant} |"


def variants(image: ej.SpectrumImage, model: ej.EDSModel, names: list[str]) -> str:
    """The last stage with a parameter more, and without the tail."""
    lines = ["| variant | parameters | deviance / dof | seconds | beyond 3 prior sd | it |"]
    lines += ["|---" * 6 + "|"]
    for more in ("pile_up_share", "energy_quadratic", "Ca K energy"):
        if more in names:
            continue
        found, seconds = timed(image, model, [*names, more])
        one = found.parameters[more]
        value = f"{one.after:.3g} ± {one.stderr:.1g} {one.unit} ({one.coordinate:+.1f} sd)"
        lines.append(f"{row(f'and {more}', found, seconds)} {value} |")
    without = [n for n in names if not n.startswith(("tail", "shelf"))]
    lines.append(row("no tail, no shelf", *timed(image, build(image, tail=False), without)) + " |")
    found, seconds = timed(image, build(image, oxygen=False), names)
    one = found.parameters["mass_thickness"]
    value = (
        f"mass_thickness {one.after:.2g} ± {one.stderr:.1g} {one.unit} ({one.coordinate:+.1f} sd)"
    )
    lines.append(f"{row('no oxygen', found, seconds)} {value} |")
    return "\n".join(lines)


def held_out(image: ej.SpectrumImage, model: ej.EDSModel, names: list[str], n_seeds: int) -> str:
    """NLL of one half of the counts under what was fitted to the other, before less after."""
    lines = ["| seed | NLL unrefined | NLL refined | difference (nats) |", "|---|---|---|---|"]
    gained = []
    for seed in range(n_seeds):
        seen, kept = ej.thin(image.counts, 0.5, jax.random.key(seed))
        found = ej.refine(dataclasses.replace(image, counts=seen), model, parameters=names)
        counts = np.asarray(kept.sum_spectrum(), float)
        before, after = (
            nll(counts, found.dataset[n].values) for n in ("fit_sum_before", "fit_sum")
        )
        gained.append(before - after)
        lines.append(f"| {seed} | {before:.1f} | {after:.1f} | {gained[-1]:.1f} |")
    worse = sum(g < 0 for g in gained)
    lines.append(f"\nThe refined model is worse for {worse} of {n_seeds} halves.")
    return "\n".join(lines)


def nll(counts: np.ndarray, mean: np.ndarray) -> float:
    """Of the summed counts, less what depends on the counts alone (half the deviance)."""
    mean, some = np.maximum(mean, 1e-9), counts > 0
    return float((mean - counts).sum() + (counts[some] * np.log(counts[some] / mean[some])).sum())


def of_image(image, model: ej.EDSModel, refined: ej.Refinement, out: pathlib.Path) -> str:
    """Three phases by the unrefined and by the refined model: likelihood, maps, compositions."""
    lines = ["| model | NLL of the image (nats) | seconds | ended |", "|---|---|---|---|"]
    found = None
    for label, one in (("unrefined", model), ("refined", refined.model)):
        began = time.perf_counter()
        found = ej.fit(image, one, 3)
        seconds = time.perf_counter() - began
        lines.append(f"| {label} | {found.nll:.1f} | {seconds:.0f} | {found.result} |")
    assert found is not None
    ej.plot.plot_abundances(found.dataset).savefig(out / "maps.png", dpi=100)
    carried = propagate(image, refined.model, found, refined)
    return "\n\n".join(["\n".join(lines), composition_table(carried), sensitivity_table(carried)])


if __name__ == "__main__":
    main()
