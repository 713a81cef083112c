"""G's columns, drawn one above the other in groups."""

import json

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._checks import check
from ._style import INK, Number, detectors, need, new_figure, styled, values

_GROUPS = (
    ("element", "elements", "#33517E"),
    ("stray", "stray lines", "#8A5A2B"),
    ("bremsstrahlung", "continuum", "#5B5B5B"),
    ("custom", "custom", "#6B4E8A"),
)
_WIDTH, _NARROW = 9.0, 6.0  # inches, of the figure, and of each of several detectors
_ROW = 0.36  # inches for each column


@styled
def plot_basis(
    dataset: xr.Dataset,
    *,
    phase: int = 0,
    energy_range: tuple[Number, Number] | None = None,
) -> Figure:
    """Each column of G as a curve, grouped into elements, stray lines and continuum.

    Every curve is scaled to its own maximum and drawn as its square root, so that weak lines
    show beside strong ones. Several detectors stand side by side, each with the columns it sees.

    **Arguments:**

    - `dataset`: with `G(energy, column)` or `G(phase, energy, column)`; the attribute
      `columns` says what each column is.
    - `phase`: whose columns to show where G depends on the phase, counted from 0.
    - `energy_range`: (low, high) in keV; all by default.
    """
    need(dataset, "G")
    if "phase" in dataset["G"].dims:
        n = int(dataset.sizes["phase"])
        check(0 <= phase < n, f"There is no phase {phase} of {n}, counted from 0.")
    labels = [str(label) for label in dataset["column"].values]
    kinds, own = _kinds(dataset, labels), detectors(dataset)
    matrices = [_matrix(part, phase) for _, part in own]
    # of several detectors each sees some of the columns only
    seen = [
        [len(own) == 1 or float(matrix[:, j].max()) > 0 for j in range(len(labels))]
        for matrix in matrices
    ]
    groups = [
        (title, colour, [j for j, kind in enumerate(kinds) if kind == group])
        for group, title, colour in _GROUPS
    ]
    groups = [group for group in groups if group[2]]
    sizes = [max(sum(sees[j] for j in members) for sees in seen) + 0.5 for _, _, members in groups]
    width = _WIDTH if len(own) == 1 else _NARROW * len(own)
    figure = new_figure(width, 0.9 + _ROW * sum(sizes))
    grid = figure.subplots(len(groups), len(own), sharex="col", squeeze=False, height_ratios=sizes)
    for k, (title, part) in enumerate(own):
        energy = np.asarray(part["energy"].values, np.float64)
        for axes, (group, colour, members) in zip(grid[:, k], groups, strict=True):
            shown = [j for j in members if seen[k][j]]
            _draw(axes, energy, matrices[k][:, shown], [labels[j] for j in shown], colour)
            axes.text(
                0.995, 1.0, ", ".join(filter(None, (group, title))), transform=axes.transAxes,
                ha="right", va="bottom", color=colour, fontweight="bold",
            )  # fmt: skip
        low, high = (energy[0], energy[-1]) if energy_range is None else energy_range
        grid[-1, k].set_xlim(low, high)
        grid[-1, k].xaxis.set_major_locator(MaxNLocator(11, steps=[1, 2, 5, 10]))
        grid[-1, k].set_xlabel("energy (keV)")
    figure.supylabel("square root of G, each column to its maximum", fontsize=10, color=INK)
    return figure


def _matrix(dataset: xr.Dataset, phase: int) -> np.ndarray:
    """G of one phase, (channel, column)."""
    if "phase" in dataset["G"].dims:
        return values(dataset, "G", "phase", "energy", "column")[phase]
    return values(dataset, "G", "energy", "column")


def _draw(
    axes: Axes, energy: np.ndarray, matrix: np.ndarray, labels: list[str], colour: str
) -> None:
    """One group of columns, the first at the top."""
    n = len(labels)
    for row, label in enumerate(labels):
        floor = n - 1 - row
        column = matrix[:, row]
        curve = np.sqrt(np.maximum(column, 0) / max(float(column.max()), 1e-300))
        top = floor + 0.92 * curve
        axes.fill_between(energy, floor, top, color=colour, alpha=0.25, linewidth=0)
        axes.plot(energy, top, color=colour, linewidth=0.9, label=label)
    axes.set_ylim(-0.08, n + 0.05)
    axes.set_yticks([n - 0.75 - row for row in range(n)], labels=labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _kinds(dataset: xr.Dataset, labels: list[str]) -> list[str]:
    """The kind of each column; without a record of it, elements are those in the composition."""
    if "columns" in dataset.attrs:
        found = [str(record["kind"]) for record in json.loads(dataset.attrs["columns"])]
        check(
            len(found) == len(labels),
            f"The dataset describes {len(found)} columns but G has {len(labels)}; give the dataset "
            "of a solution as it is.",
        )
        return found
    symbols = {str(s) for s in dataset["element"].values} if "element" in dataset.coords else set()
    return ["element" if label in symbols else "custom" for label in labels]
