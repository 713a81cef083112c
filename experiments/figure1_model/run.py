"""Pictures of the model Y = G W H: G's columns, and W and H found in a simulated image.

    python experiments/figure1_model/run.py [--quick] [--out DIR]

Simulates the demo's minerals, fits them with the defaults, and writes the figures and the table
between the markers of this folder's README.md (with `--out`, into DIR/table.md). `--quick` takes a
small image and writes into DIR or a temporary folder.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from equation import order_like_truth, plot_equation, plot_weights, row_through_particles
from readme import fill

import esmpy_jax as ej
from esmpy_jax.simulate import demo_image, demo_model

HERE = pathlib.Path(__file__).resolve().parent
DOSE = 293.0  # counts per pixel


def main(arguments: list[str] | None = None) -> pathlib.Path:
    """Make the figures; returns the folder with what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small image")
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    size = 32 if options.quick else 128
    out = options.out or (pathlib.Path(tempfile.mkdtemp()) if options.quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    model = demo_model()
    image = best_scene(model, size, tries=1 if options.quick else 6)
    truth = image.truth
    solution = ej.fit(image, model, len(truth.phase_names), key=jax.random.key(0))
    names = list(truth.phase_names)
    order = order_like_truth(np.asarray(truth.abundance, float), solution.abundance)
    dataset = solution.dataset.isel(phase=order).assign_coords(phase=names)

    row = row_through_particles(np.asarray(truth.abundance, float))
    line = image.counts.to_dense().reshape(size, size, -1)[row].astype(float)
    plot_equation(dataset, line, row).savefig(out / "equation.png", dpi=90)
    ej.plot.plot_basis(dataset, energy_range=(0.2, 12.0)).savefig(out / "columns.png", dpi=90)
    plot_weights(dataset).savefig(out / "weights.png", dpi=90)
    ej.plot.plot_abundances(dataset).savefig(out / "abundances.png", dpi=100)

    text = table(dataset, 100 * np.asarray(truth.composition, float))
    text += f"\n\n{size} × {size} pixels, {DOSE:g} counts per pixel; made in "
    text += f"{time.perf_counter() - began:.0f} s."
    if out == HERE:
        fill(out, text)
    else:
        (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out}")
    return out


def best_scene(model: ej.EDSModel, size: int, tries: int) -> ej.SpectrumImage:
    """The first scene in which one scan line crosses both particles well."""

    def crossed(image):
        maps = np.asarray(image.truth.abundance, float)
        return maps[1:, row_through_particles(maps)].max(1).min()

    def draw(seed, dose=1.0):
        key = jax.random.key(seed)
        return demo_image(key, counts_per_pixel=dose, shape=(size, size), model=model)

    best = max(range(tries), key=lambda seed: crossed(draw(seed)))
    return draw(best, DOSE)


def table(dataset, true_percent: np.ndarray) -> str:
    """At% found ± one standard error, and true, as Markdown; elements above 0.05 at%."""
    names = [str(name) for name in dataset["phase"].values]
    found = dataset["composition"].transpose("element", "phase").values
    error = dataset["composition_stderr"].transpose("element", "phase").values
    lines = [
        "| at% | " + " | ".join(f"{name} | true" for name in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for e, symbol in enumerate(dataset["element"].values):
        cells = [
            f"{found[e, a]:.2f} ± {error[e, a]:.2f} | {true_percent[e, a]:.2f}"
            for a in range(len(names))
        ]
        lines.append(f"| {symbol} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
