"""Tables and figures of refined parameters; shared by the studies of measured spectra."""

import argparse
import pathlib
import tempfile

import numpy as np
from matplotlib.figure import Figure
from readme import fill

import esmpy_jax as ej
from esmpy_jax.physics import (
    IncompleteCharge,
    Layer,
    Resolution,
    Response,
    SiliconEscape,
    detector_window,
)

WINDOW = 7  # channels that one point of a residual joins


def options(doc: str, quick: str) -> argparse.ArgumentParser:
    """The arguments that the studies have in common."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    return parser


def folder(out: pathlib.Path | None, quick: bool, here: pathlib.Path) -> pathlib.Path:
    """Where to write: as asked for, else a temporary folder if quick, else `here`."""
    out = out or (pathlib.Path(tempfile.mkdtemp()) if quick else here)
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(text: str, out: pathlib.Path, here: pathlib.Path) -> None:
    """The tables, between the markers of the README or into a file of their own."""
    if out.resolve() != here:
        (out / "tables.md").write_text(text + "\n", encoding="utf-8")
        return
    fill(out, text)


def detector(mn_ka: float, tail: bool = True) -> ej.Detector:
    """A windowless silicon drift detector with contact, dead layer and incomplete charge."""
    active = detector_window("windowless").active
    layers = Layer.of("Al", 2.7, 30), Layer.of("Si", 2.33, 50)
    response = Response(IncompleteCharge() if tail else None, SiliconEscape())
    efficiency = ej.LayeredEfficiency(layers, active)
    return ej.Detector(efficiency, Resolution.from_mn_ka(mn_ka), response)


def per_dof(refinement: ej.Refinement) -> float:
    return refinement.deviance_after / refinement.dof


def far(refinement: ej.Refinement) -> str:
    """Parameters beyond three standard deviations of their priors."""
    found = refinement.parameters.items()
    return (
        ", ".join(f"{n} {p.coordinate:+.1f}" for n, p in found if abs(p.coordinate) > 3) or "none"
    )


def parameter_table(refinement: ej.Refinement) -> str:
    """Every parameter before and after, as Markdown; with a star where the prior says it all."""
    lines = ["| parameter | before | after | prior | prior sd |", "|---|---|---|---|---|"]
    for name, p in refinement.parameters.items():
        value = f"{p.after:.{_figures(p.after, p.stderr)}g} ± {p.stderr:.2g}"
        value += f" {p.unit}".rstrip() + ("" if p.determined else " *")
        lines.append(f"| {name} | {p.before:.4g} | {value} | {p.prior} | {p.coordinate:+.1f} |")
    return (
        "\n".join(lines) + "\n\n\\* not determined by the counts: the error is that of the prior."
    )


def _figures(value: float, error: float) -> int:
    """Significant figures by which a value ends where its error does."""
    return max(int(np.floor(np.log10(abs(value) or error)) - np.floor(np.log10(error))) + 2, 1)


def running_sigma(counts: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Residual of neighbouring channels together, in standard deviations of their counts."""
    ones = np.ones(WINDOW)
    difference, variance = (np.convolve(x, ones, "same") for x in (counts - fit, fit))
    return difference / np.sqrt(np.maximum(variance, 1.0))


def plot_fit(refinement: ej.Refinement, ranges, marks: dict[str, float] | None = None) -> Figure:
    """Summed counts with the fit before and after, and the residuals, one pair for each range."""
    data = refinement.dataset
    energy, counts = data["energy"].values, data["counts_sum"].values
    fits = {"before": data["fit_sum_before"].values, "after": data["fit_sum"].values}
    colours = {"before": "#b0413e", "after": "#1f5fa8"}
    figure = Figure(figsize=(11, 4.2 * len(ranges)), layout="constrained")
    axes = figure.subplots(2 * len(ranges), 1, height_ratios=[2, 1.2] * len(ranges))
    for i, (low, high) in enumerate(ranges):
        part = (energy >= low) & (energy <= high)
        top, bottom = axes[2 * i], axes[2 * i + 1]
        top.step(
            energy[part], np.maximum(counts[part], 0.5), "0.6", where="mid", lw=0.8, label="counts"
        )
        for name, fit in fits.items():
            top.plot(energy[part], fit[part], color=colours[name], lw=1.0, label=name)
            sigma = running_sigma(counts, fit)[part]
            bottom.plot(energy[part], np.clip(sigma, -12, 12), color=colours[name], lw=0.9)
        top.set(yscale="log", ylabel="counts per channel", xlim=(low, high))
        bottom.set(
            ylabel=f"residual of\n{WINDOW} channels (σ)", xlabel="energy (keV)", xlim=(low, high)
        )
        bottom.axhspan(-2, 2, color="0.92")
        for text, place in (marks or {}).items():
            if low < place < high:
                bottom.annotate(
                    text, (place, 12.5), ha="center", va="bottom", fontsize=8, annotation_clip=False
                )
        bottom.set_ylim(-12, 12)
    axes[0].legend(frameon=False, ncols=3)
    return figure
