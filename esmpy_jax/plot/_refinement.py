"""The summed spectrum with the fits before and after a refinement."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._labels import label_lines, visible_lines
from ._spectra import (
    LIMIT,
    WIDTH,
    check_scale,
    energies,
    name_detector,
    per_channel,
    residuals,
    set_height,
    tick_energy,
)
from ._style import (
    INK,
    PALE,
    LineLabels,
    Number,
    detectors,
    need,
    new_figure,
    phase_colour,
    styled,
    values,
)

_SIZE = (WIDTH - 1.0, 3.2)  # inches, of the main axes, roughly


@styled
def plot_refinement(
    dataset: xr.Dataset,
    *,
    lines: LineLabels = (),
    scale: str = "log",
    energy_range: tuple[Number, Number] | None = None,
) -> Figure:
    """The counts that were refined on, summed, with the fits before and after, and what they leave.

    The residuals are `(counts - fit) / sqrt(fit)`, in standard deviations of a Poisson count, in
    both panels to the same limit, with larger ones at the edge as triangles. Each detector has
    panels of its own, where there are several.

    **Arguments:**

    - `dataset`: of a `Refinement`, with `counts_sum`, `fit_sum_before` and `fit_sum`.
    - `lines`, `scale`, `energy_range`: as in `plot_spectra`.
    """
    need(dataset, "counts_sum", "fit_sum_before", "fit_sum")
    check_scale(scale)
    own = detectors(dataset)
    figure = new_figure(WIDTH, 0.8 + 6.8 * len(own))
    grid = figure.subplots(3 * len(own), 1, height_ratios=(3.4, 1, 1) * len(own))
    for i, (title, part) in enumerate(own):
        _before_and_after(grid[3 * i : 3 * i + 3], part, title, lines, scale, energy_range)
        if i < len(own) - 1:
            grid[3 * i + 2].set_xlabel("")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.align_ylabels(list(grid))
    return figure


def _before_and_after(
    grid: Sequence[Axes] | np.ndarray,
    dataset: xr.Dataset,
    title: str,
    lines: LineLabels,
    scale: str,
    energy_range: tuple[Number, Number] | None,
) -> None:
    """One detector's spectrum, and both residuals."""
    top, middle, bottom = grid
    energy, inside = energies(dataset, energy_range)
    counts, before, after = (
        values(dataset, name, "energy")[inside]
        for name in ("counts_sum", "fit_sum_before", "fit_sum")
    )
    for axes in (middle, bottom):
        axes.sharex(top)
    top.fill_between(energy, counts, step="mid", color=PALE, linewidth=0, label="counts")
    top.plot(energy, before, color=phase_colour(1), linewidth=1.1, label="fit before")
    top.plot(energy, after, color=INK, linewidth=0.9, label="fit after")
    gain = float(energy[1] - energy[0])
    top.set_xlim(energy[0] - gain / 2, energy[-1] + gain / 2)
    set_height(top, scale, np.maximum(counts, np.maximum(before, after)), after)
    top.set_ylabel(per_channel("counts", gain))
    name_detector(top, title)
    for axes, fit, when in ((middle, before, "before"), (bottom, after, "after")):
        residuals(axes, energy, counts, fit, least=LIMIT)
        axes.set_ylabel(f"{when} (σ)")
    middle.set_xlabel("")
    tick_energy(bottom)
    for axes in (top, middle):
        axes.tick_params(labelbottom=False)
    least = 0.01 * float(after.max()) if scale == "linear" else 0.0
    shown = visible_lines(lines, energy, after, least=least)
    label_lines(top, shown, energy, np.maximum(counts, after), size=_SIZE)
