"""Do intervals of one and two standard errors hold the truth as often as they should?

    python experiments/detector_refinement/coverage.py [--images N] [--out DIR]

Every image has its own true detector, calibration and mass-thickness, drawn from the priors, and
one phase; `refine` starts from the medians. Counts how often the interval of each parameter, and of
each at% with the parameters' share, holds the truth, beside the binomial error of that share, and
how often held-out counts (one half of the image's, by thinning) are explained better by the refined
model. Writes the table between the markers `coverage` of this folder's README.md (with `--out`,
into DIR/coverage.md).
"""

import argparse
import dataclasses
import pathlib
import sys

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from readme import fill
from run import NAMES, believed_model

import esmpy_jax as ej
from esmpy_jax.model import adjustables, adjusted
from esmpy_jax.simulate import mineral_phases, simulate

HERE = pathlib.Path(__file__).resolve().parent
COUNTS = 4e5  # of an image
_TRACES = 1.0  # at%


def main(arguments: list[str] | None = None) -> str:
    """Run it; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, help="folder for the table")
    options = parser.parse_args(arguments)
    believed = believed_model()
    known = adjustables(believed)
    priors = [known[name].usual_prior(believed) for name in NAMES]
    scores: list[list[float]] = []
    gains: list[float] = []
    labels: list[str] = []
    for seed in range(options.images):
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal(len(NAMES))
        exact = {n: float(p.value(u)) for n, p, u in zip(NAMES, priors, drawn, strict=True)}
        image, truth = one_phase(adjusted(believed, exact), believed, seed)
        fitted, held = ej.thin(image.counts, 0.5, key=jax.random.key(1000 + seed))
        half = dataclasses.replace(image, counts=fitted)
        refined = ej.refine(half, believed, parameters=NAMES)
        at = refined.dataset["composition"].values[:, 0]
        error = refined.dataset["composition_stderr_total"].values[:, 0]
        shown = np.flatnonzero(truth > _TRACES)
        symbols = [believed.elements[i].symbol for i in shown]
        labels = [*NAMES, *(f"{s} at%" for s in symbols)]
        found = [refined.parameters[n] for n in NAMES]
        scores.append(
            [(f.coordinate - u) / f.coordinate_stderr for f, u in zip(found, drawn, strict=True)]
            + list((at[shown] - truth[shown]) / error[shown])
        )
        gains.append(held_out_gain(held, refined))
        if seed % 10 == 0:
            print(seed, np.round(scores[-1], 2), round(gains[-1], 1), flush=True)
    text = table(np.array(scores), labels, np.array(gains))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "coverage.md").write_text(text + "\n", encoding="utf-8")
        return text
    fill(HERE, text, "coverage")
    return text


def one_phase(
    true: ej.EDSModel, believed: ej.EDSModel, seed: int
) -> tuple[ej.SpectrumImage, np.ndarray]:
    """An image of bridgmanite as the believed axis has it, and its at%."""
    image = simulate(
        true, mineral_phases()[:1], np.ones((1, 2, 2)), COUNTS / 4, key=jax.random.key(seed)
    )
    truth = 100 * np.asarray(image.truth.composition, float)[:, 0]
    return dataclasses.replace(image, energy_axis=believed.energy_axis), truth


def held_out_gain(held: ej.AbstractCounts, refined: ej.Refinement) -> float:
    """Nats by which the refined model explains the other half better."""
    seen = np.asarray(held.sum_spectrum(), float)
    losses = []
    for name in ("fit_sum_before", "fit_sum"):
        mean = np.maximum(refined.dataset[name].values, 1e-12)
        losses.append((mean - seen * np.log(mean)).sum())
    return float(losses[0] - losses[1])


def table(scores: np.ndarray, labels: list[str], gains: np.ndarray) -> str:
    """Coverage of both intervals as Markdown."""
    n = len(scores)
    lines = ["| | within 1 standard error, % | within 1.96, % |", "|---|---|---|"]
    for label, z in zip(labels, scores.T, strict=True):
        inside = [100 * (np.abs(z) < k).mean() for k in (1.0, 1.96)]
        lines.append(f"| {label} | {inside[0]:.1f} | {inside[1]:.1f} |")
    inside = [100 * (np.abs(scores) < k).mean() for k in (1.0, 1.96)]
    lines.append(f"| all | {inside[0]:.1f} | {inside[1]:.1f} |")
    expected = [68.3, 95.0]
    errors = [np.sqrt(e * (100 - e) / n) for e in expected]
    lines.append(f"| expected | 68.3 ± {errors[0]:.1f} | 95.0 ± {errors[1]:.1f} |")
    lines += [
        "",
        f"{n} images of {COUNTS:g} counts, one half fitted. The other half is explained better by "
        f"the refined model in {int((gains > 0).sum())} of {n}, by {np.median(gains):.0f} nats in "
        f"the median and {gains.min():.1f} at least.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(main())
