"""The figure of the study."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from programs import ESPM, NMF, OURS, Fit

from esmpy_jax.plot import phase_colour

INK, SOFT = "#262626", "#8C8C8C"
COLOURS = {OURS: INK, NMF: "#CC79A7", ESPM: "#E69F00"}
MARKERS = {OURS: "o", NMF: "s", ESPM: "D"}
_STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_PANELS = (
    ("correlation", "map correlation", "linear"),
    ("angle", "spectral angle (°)", "log"),
    ("error", "at% error", "log"),
)


def composite(maps: np.ndarray) -> np.ndarray:
    """Each pixel the mean of the phases' colours, weighted by their shares."""
    colours = np.array([to_rgb(phase_colour(a)) for a in range(len(maps))])
    return np.clip(np.einsum("pyx,pc->yxc", maps, colours), 0, 1)


def plot_low_counts(
    truth: np.ndarray,
    shown: Mapping[float, Mapping[str, Fit]],
    fits: Sequence[Fit],
    names: Sequence[str],
) -> Figure:
    """Above: one scene as it is and as it is found, dose by dose. Below: errors against dose.

    A point is the mean over seeds and phases; a band spans the worst to the best phase and seed.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(12.8, 8.6))
        figure.set_layout_engine("constrained")
        above, below = figure.subfigures(2, 1, height_ratios=[1.12, 1])
        _maps(above, truth, shown, names)
        _errors(below, fits)
        return figure


def _maps(part, truth, shown, names):
    doses = list(shown)
    grid = part.subplots(2, len(doses) + 1, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    grid[0, 0].imshow(composite(truth), interpolation="nearest")
    grid[0, 0].set_title("truth", fontweight="bold", fontsize=12)
    handles = [Patch(color=phase_colour(a), label=name) for a, name in enumerate(names)]
    grid[1, 0].legend(handles=handles, loc="upper left", fontsize=11, borderaxespad=0)
    for column, dose in enumerate(doses, 1):
        grid[0, column].set_title(f"{dose:g} counts\nper pixel", fontweight="bold", fontsize=12)
        for row, program in enumerate((NMF, OURS)):
            if program not in shown[dose]:
                continue
            axes = grid[row, column]
            axes.imshow(composite(shown[dose][program].found.maps), interpolation="nearest")
            if column == 1:
                axes.set_ylabel(program, fontsize=12, color=COLOURS[program])


def _errors(part, fits):
    programs = [p for p in (OURS, NMF, ESPM) if any(f.found.method == p for f in fits)]
    for axes, (field, label, scale) in zip(part.subplots(1, 3), _PANELS, strict=True):
        axes.set(xscale="log", yscale=scale, xlabel="counts per pixel", ylabel=label)
        axes.grid(axis="y", color="#E3E3E3", lw=0.8)
        axes.set_axisbelow(True)
        for program in programs:
            mine = [f for f in fits if f.found.method == program]
            doses = sorted({f.dose for f in mine})
            values = [
                np.array([getattr(f.found, field) for f in mine if f.dose == d]) for d in doses
            ]
            axes.fill_between(
                doses, [v.min() for v in values], [v.max() for v in values],
                color=COLOURS[program], alpha=0.14, lw=0,
            )  # fmt: skip
            axes.plot(
                doses, [v.mean() for v in values], color=COLOURS[program], lw=2,
                marker=MARKERS[program], ms=6.5,
            )  # fmt: skip
        limit = {"correlation": 0.9, "angle": 10.0}.get(field)
        if limit is not None:
            axes.axhline(limit, color=SOFT, lw=1, ls="--")
        ticks = sorted({f.dose for f in fits if f.found.method != ESPM})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        if scale == "log":
            axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    stopped = any(f.note for f in fits if f.found.method == ESPM)
    labels = {ESPM: "espm, stopped by time"} if stopped else {}
    handles = [
        Line2D([], [], color=COLOURS[p], marker=MARKERS[p], lw=2, label=labels.get(p, p))
        for p in programs
    ]
    part.legend(handles=handles, loc="outside lower center", ncols=len(handles))
