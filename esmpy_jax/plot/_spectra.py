"""Spectra: the summed spectrum with its fit, and the spectrum of each phase."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator, MaxNLocator

from .._checks import check
from ._labels import label_lines, visible_lines
from ._style import (
    INK,
    PALE,
    SOFT,
    LineLabels,
    Number,
    detectors,
    need,
    new_figure,
    phase_colour,
    phase_names,
    styled,
    values,
)

WIDTH = 10.0  # inches, of the figure
_SIZE = (WIDTH - 1.0, 3.3)  # of the main axes, roughly
_PANEL = (WIDTH - 1.0, 1.8)  # of one phase's axes
LIMIT = 8.0  # largest residual shown at its place, in standard deviations


@styled
def plot_spectra(
    dataset: xr.Dataset,
    *,
    lines: LineLabels = (),
    names: Sequence[str] | None = None,
    scale: str = "log",
    energy_range: tuple[Number, Number] | None = None,
) -> Figure:
    """The counts of the whole scan, the fit, each phase's part of it, and what is left.

    Of each detector on its own, where there are several.

    The fit is the sum of the phases' parts, `fit_sum(energy, phase)` (or, without it,
    `spectra[:, p] sum_yx H[p]`); below it the residual `(counts - fit) / sqrt(fit)`
    in standard deviations of a Poisson count, larger ones at the edge as triangles.

    **Arguments:**

    - `dataset`: with `counts_sum` and `fit_sum`, or `spectra` and `H`.
    - `lines`: (energy in keV, text), the most important first, as from `strongest_lines`; those
      that show as a peak are labelled.
    - `names`: of the phases, instead of the dataset's.
    - `scale`: "log" or "linear".
    - `energy_range`: (low, high) in keV; all by default.
    """
    need(dataset, "counts_sum")
    check_scale(scale)
    titles = phase_names(dataset, names)
    own = detectors(dataset)
    shown = [_phase_counts(part)[energies(part, energy_range)[1]] for _, part in own]
    shares = np.concatenate(shown).sum(0)
    percent = 100 * shares / max(shares.sum(), 1e-300)
    labels = [
        f"{name} ({share:.3g} % of the counts)" for name, share in zip(titles, percent, strict=True)
    ]
    figure = new_figure(WIDTH, 1.0 + 5.4 * len(own))
    grid = figure.subplots(2 * len(own), 1, height_ratios=(3.4, 1) * len(own))
    for i, (title, part) in enumerate(own):
        _summed(grid[2 * i], grid[2 * i + 1], part, labels, title, lines, scale, energy_range)
        if i < len(own) - 1:
            grid[2 * i + 1].set_xlabel("")
    handles, labels = grid[0].get_legend_handles_labels()
    order = [labels.index("counts"), labels.index("fit"), *range(1, len(labels) - 1)]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=_legend_columns([labels[i] for i in order]),
    )
    figure.align_ylabels(list(grid))
    return figure


def _summed(
    top: Axes,
    bottom: Axes,
    dataset: xr.Dataset,
    labels: Sequence[str],
    title: str,
    lines: LineLabels,
    scale: str,
    energy_range: tuple[Number, Number] | None,
) -> None:
    """One detector's summed spectrum with its fit, and what is left."""
    energy, inside = energies(dataset, energy_range)
    counts = values(dataset, "counts_sum", "energy")[inside]
    shares = _phase_counts(dataset)[inside]
    fit = shares.sum(1)
    bottom.sharex(top)
    top.fill_between(energy, counts, step="mid", color=PALE, linewidth=0, label="counts")
    for i, label in enumerate(labels):
        top.plot(energy, shares[:, i], color=phase_colour(i), linewidth=1.3, label=label)
    top.plot(energy, fit, color=INK, linewidth=0.9, label="fit")
    gain = float(energy[1] - energy[0]) if len(energy) > 1 else 0.0
    top.set_xlim(energy[0] - gain / 2, energy[-1] + gain / 2)
    set_height(top, scale, np.maximum(counts, fit), shares)
    top.set_ylabel(per_channel("counts", gain))
    top.tick_params(labelbottom=False)
    name_detector(top, title)
    residuals(bottom, energy, counts, fit)
    tick_energy(bottom)
    least = 0.01 * float(fit.max()) if scale == "linear" else 0.0
    shown = visible_lines(lines, energy, fit, least=least)
    label_lines(top, shown, energy, np.maximum(counts, fit), size=_SIZE)


def name_detector(axes: Axes, title: str) -> None:
    """Which detector the axes are of, in their corner."""
    axes.text(0.995, 0.97, title, transform=axes.transAxes, ha="right", va="top", fontweight="bold")


@styled
def plot_phase_spectra(
    dataset: xr.Dataset,
    *,
    lines: LineLabels = (),
    names: Sequence[str] | None = None,
    scale: str = "log",
    energy_range: tuple[Number, Number] | None = None,
) -> Figure:
    """One panel for each phase's own spectrum G W, normalised to sum one, with its composition.

    For each phase one of each detector, where there are several.

    Arguments as in `plot_spectra`; in each panel only lines that show as a peak there are
    labelled.
    """
    need(dataset, "spectra")
    check_scale(scale)
    titles, own = phase_names(dataset, names), detectors(dataset)
    panels = [(i, *one) for i in range(len(titles)) for one in own]
    figure = new_figure(WIDTH, 0.7 + 2.5 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    drawn = []
    for i, _, part in panels:
        energy, inside = energies(part, energy_range)
        spectrum = values(part, "spectra", "energy", "phase")[inside, i]
        drawn.append((energy, spectrum / max(spectrum.sum(), 1e-300)))
    gain = float(drawn[0][0][1] - drawn[0][0][0])
    ends = [energy[[0, -1]] for energy, _ in drawn]
    grid[0].set_xlim(np.min(ends) - gain / 2, np.max(ends) + gain / 2)
    every = np.concatenate([spectrum for _, spectrum in drawn])
    set_height(grid[0], scale, every, every)
    for axes, (i, detector, part), (energy, spectrum) in zip(grid, panels, drawn, strict=True):
        colour = phase_colour(i)
        axes.fill_between(energy, spectrum, color=colour, alpha=0.18, linewidth=0)
        axes.plot(energy, spectrum, color=colour, linewidth=1.2)
        least = 0.01 * float(every.max()) if scale == "linear" else 0.0
        shown = visible_lines(lines, energy, spectrum, least=least)
        label_lines(axes, shown, energy, spectrum, size=_PANEL)
        title = ", ".join(filter(None, (titles[i], detector)))
        axes.text(
            0.995, 0.95, title, transform=axes.transAxes, ha="right", va="top", color=colour,
            fontweight="bold", fontsize=12,
        )  # fmt: skip
        axes.text(
            0.995, 0.80, _composition_text(part, i), transform=axes.transAxes, ha="right",
            va="top", fontsize=9.5, zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    grid[-1].set_xlabel("energy (keV)")
    tick_energy(grid[-1])
    what = "share of the phase's counts" + " in the detector" * (len(own) > 1)
    figure.supylabel(per_channel(what, gain), fontsize=11)
    return figure


def _legend_columns(labels: Sequence[str]) -> int:
    """The most columns, up to 5, in which a legend of these labels is no wider than the figure."""
    sizes = [0.65 + 0.085 * len(label) for label in labels]  # inches, of handle and text
    for n in range(min(len(labels), 5), 1, -1):
        columns = np.array_split(sizes, n)  # as matplotlib fills them
        if sum(column.max() for column in columns) <= WIDTH - 0.4:
            return n
    return 1


def tick_energy(axes: Axes) -> None:
    """Ticks at whole energies, with small ones between them."""
    axes.xaxis.set_major_locator(MaxNLocator(11, steps=[1, 2, 5, 10]))
    axes.xaxis.set_minor_locator(AutoMinorLocator())


def check_scale(scale: str) -> None:
    """Raise `InputError` for a scale that no axis has."""
    check(scale in ("log", "linear"), f"Unknown scale '{scale}'; choose 'log' or 'linear'.")


def energies(
    dataset: xr.Dataset, energy_range: tuple[Number, Number] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The channels' energies inside the range, and which channels these are."""
    energy = np.asarray(dataset["energy"].values, np.float64)
    low, high = (-np.inf, np.inf) if energy_range is None else energy_range
    inside = (energy >= low) & (energy <= high)
    check(
        int(inside.sum()) >= 2,
        f"No channels lie between {low:g} and {high:g} keV; the axis runs from {energy[0]:.3g} to "
        f"{energy[-1]:.3g} keV.",
    )
    return energy[inside], inside


def _phase_counts(dataset: xr.Dataset) -> np.ndarray:
    """Expected counts of each phase in the summed spectrum, (energy, phase)."""
    if "fit_sum" in dataset:
        return values(dataset, "fit_sum", "energy", "phase")
    need(dataset, "spectra", "H")
    amounts = values(dataset, "H", "phase", "y", "x").sum((1, 2))
    return values(dataset, "spectra", "energy", "phase") * amounts


def set_height(axes: Axes, scale: str, upper: np.ndarray, level: np.ndarray) -> None:
    """Limits that hold the peaks and, on a log axis, show the continuum and no empty decades."""
    top = max(float(upper.max()), 1e-300)
    if scale == "linear":
        axes.set_ylim(0, 1.05 * top)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5), useMathText=True)
        return
    positive = level[level > 0]
    floor = float(np.quantile(positive, 0.05)) / 2 if positive.size else top / 1e4
    axes.set_yscale("log")
    axes.set_ylim(min(max(floor, top / 1e5), top / 30), 1.6 * top)


def per_channel(what: str, gain: float) -> str:
    """A label that tells the width of a channel."""
    return f"{what} per {1000 * gain:.3g} eV"


def residuals(
    axes: Axes, energy: np.ndarray, counts: np.ndarray, fit: np.ndarray, *, least: float = 4.0
) -> None:
    """What is left, in standard deviations, with marks at the edge for what lies beyond.

    The axes reach to the largest, at least to `least` and at most to `LIMIT`.
    """
    residual = (counts - fit) / np.sqrt(np.maximum(fit, 1e-12))
    residual = np.where((fit <= 1e-12) & (counts == 0), 0.0, residual)
    limit = float(np.clip(1.1 * np.abs(residual).max(), least, LIMIT))
    far = np.abs(residual) > limit
    axes.axhspan(-2, 2, color=PALE, alpha=0.6, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.plot(energy[~far], residual[~far], ".", color=INK, markersize=2.2, alpha=0.7)
    for sign, marker in ((1, "^"), (-1, "v")):
        beyond = far & (np.sign(residual) == sign)
        edge = np.full(int(beyond.sum()), sign * 0.93 * limit)
        axes.plot(energy[beyond], edge, marker, color="#C00000", markersize=4.5)
    axes.set_ylim(-limit, limit)
    axes.set_ylabel("residual (σ)")
    axes.set_xlabel("energy (keV)")


def _composition_text(dataset: xr.Dataset, phase: int, most: int = 5) -> str:
    """ "O 60.1  Si 20.2 at%": the most abundant elements of a phase."""
    if "composition" not in dataset:
        return ""
    percent = values(dataset, "composition", "element", "phase")[:, phase]
    symbols = [str(symbol) for symbol in dataset["element"].values]
    order = [i for i in np.argsort(-percent, kind="stable")[:most] if percent[i] >= 0.05]
    parts = [f"{symbols[i]} {percent[i]:.1f}" for i in order]
    return "  ".join(parts) + (" at%" if parts else "")
