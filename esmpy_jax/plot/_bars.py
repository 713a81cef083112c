"""Numbers of a solution: composition as bars, and the way the likelihood went down."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .._checks import check
from ._style import INK, PALE, need, new_figure, phase_colour, phase_names, styled, values


@styled
def plot_composition(
    dataset: xr.Dataset,
    *,
    names: Sequence[str] | None = None,
    scale: str = "linear",
) -> Figure:
    """Bars of each element's at% in each phase, with one standard error where it is known.

    Elements are ordered by their mean. `scale="log"` shows traces; there, elements of less than
    0.01 at% sink below the axis.
    """
    need(dataset, "composition")
    check(scale in ("log", "linear"), f"Unknown scale '{scale}'; choose 'log' or 'linear'.")
    percent = values(dataset, "composition", "element", "phase")
    error = None
    if "composition_stderr" in dataset:
        error = values(dataset, "composition_stderr", "element", "phase")
    symbols = [str(symbol) for symbol in dataset["element"].values]
    order = np.argsort(-percent.mean(1), kind="stable")
    titles = phase_names(dataset, names)
    n = len(titles)
    figure = new_figure(max(6.0, 1.6 + len(symbols) * (0.30 + 0.17 * n)), 4.2)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    width = 0.78 / n
    for i, title in enumerate(titles):
        at = np.arange(len(symbols)) + (i - (n - 1) / 2) * width
        axes.bar(at, percent[order, i], 0.92 * width, color=phase_colour(i), label=title)
        if error is not None:
            known = np.isfinite(error[order, i]) & (error[order, i] > 0)
            axes.errorbar(
                at[known],
                percent[order, i][known],
                error[order, i][known],
                fmt="none",
                ecolor=INK,
                elinewidth=1.0,
                capsize=2.5,
            )
    axes.set_xticks(np.arange(len(symbols)), labels=[symbols[j] for j in order])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(symbols) - 0.4)
    axes.set_ylabel("composition (at%)")
    if scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(0.01, 1.5 * max(float(percent.max()), 1.0))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        reach = percent if error is None else percent + np.nan_to_num(error)
        axes.set_ylim(0, 1.06 * float(reach.max()))
    axes.legend(loc="upper right")
    return figure


@styled
def plot_convergence(dataset: xr.Dataset, *, label: str = "") -> Figure:
    """The negative log-likelihood (with penalties) above its lowest value, against the steps.

    `dataset` carries `nll(check)` and `steps(check)`; values that are not finite are left out.
    `label` names the curve, as with the solver.
    """
    need(dataset, "nll", "steps")
    trace = np.asarray(dataset["nll"].values, np.float64)
    steps = np.asarray(dataset["steps"].values)
    steps, trace = steps[np.isfinite(trace)], trace[np.isfinite(trace)]
    above = trace - (trace.min() if len(trace) else 0.0)
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    shown = above > 0
    style = {"marker": "o", "markersize": 4} if shown.sum() <= 60 else {}
    axes.plot(steps[shown], above[shown], color=INK, linewidth=1.6, label=label or None, **style)
    if shown.any():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("NLL above its minimum (nats)")
    if label:
        axes.legend(loc="upper right")
    return figure
