"""Numbers of a solution: composition as bars, and the way the objective went down."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .._checks import check
from ._style import INK, PALE, SOFT, need, new_figure, phase_colour, phase_names, styled, values


@styled
def plot_composition(
    dataset: xr.Dataset,
    *,
    names: Sequence[str] | None = None,
    scale: str = "linear",
) -> Figure:
    """Bars of each element's at% in each phase, with one standard error and the range if known.

    The error is that of counting, with refined parameters' where it is known. The range, grey, is
    `composition_low` to `composition_high` (95 %): what mixtures of the phases and the counts of
    pure pixels leave open, with counting.
    Elements are ordered by their mean. `scale="log"` shows traces; there, elements of less than
    0.01 at% sink below the axis.
    """
    need(dataset, "composition")
    check(scale in ("log", "linear"), f"Unknown scale '{scale}'; choose 'log' or 'linear'.")
    percent = values(dataset, "composition", "element", "phase")
    error = None
    for name in ("composition_stderr_total", "composition_stderr"):
        if error is None and name in dataset:
            error = values(dataset, name, "element", "phase")
    ends = None
    if "composition_low" in dataset and "composition_high" in dataset:
        both = ("composition_low", "composition_high")
        ends = tuple(values(dataset, name, "element", "phase") for name in both)
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
        if ends is not None:
            low, high = (end[order, i] for end in ends)
            own = high > low
            above_zero = np.maximum(low[own], 1e-9)  # for a log axis
            axes.vlines(at[own], above_zero, high[own], color=SOFT, linewidth=4.0, zorder=2)
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
    reach = percent if error is None else percent + np.nan_to_num(error)
    reach = reach if ends is None else np.fmax(reach, ends[1])
    if scale == "log":
        axes.set_yscale("log")
        axes.set_ylim(0.01, 1.5 * max(float(reach.max()), 1.0))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(0, 1.06 * float(reach.max()))
    handles = axes.get_legend_handles_labels()[0]
    if ends is not None:
        handles.append(Line2D([], [], color=SOFT, linewidth=4.0, label="range (95 %)"))
    if error is not None:
        handles.append(Line2D([], [], color=INK, linewidth=1.0, label="± standard error"))
    axes.legend(handles=handles, loc="upper right")
    return figure


@styled
def plot_convergence(dataset: xr.Dataset, *, label: str = "") -> Figure:
    """How far the objective was above the optimum, in nats on a log axis, against the steps.

    `dataset` carries `objective(check)` and `steps(check)`; values that are not finite are left
    out, and of several at one step (before and after G followed W) the last is shown. The optimum
    is taken to be `remaining_nats`, an attribute, below the lowest value, or without it half of
    the smallest distance to that. `label` names the curve, as with the solver.
    """
    need(dataset, "objective", "steps")
    trace = np.asarray(dataset["objective"].values, np.float64)
    steps = np.asarray(dataset["steps"].values)
    steps, trace = steps[np.isfinite(trace)], trace[np.isfinite(trace)]
    last = np.append(np.diff(steps) > 0, True)[: len(steps)]
    steps, trace = steps[last], trace[last]
    above = trace - (trace.min() if len(trace) else 0.0)
    above = above + _left(above, dataset.attrs.get("remaining_nats"))
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    style = {"marker": "o", "markersize": 4} if len(steps) <= 60 else {}
    axes.plot(steps, above, color=INK, linewidth=1.6, label=label or None, **style)
    if len(steps):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("objective above the optimum (nats)")
    if label:
        axes.legend(loc="upper right")
    return figure


@styled
def plot_phase_number(dataset: xr.Dataset) -> Figure:
    """Held-out loss above the lowest, in nats, against the number of phases.

    `dataset` carries `held_out_loss(number)` and `held_out_error(number)`, as the solution of
    `fit(..., "auto")` does. Bars are one standard error; the axis is linear up to ten nats and
    logarithmic above. The number that was taken, that of the `phase` coordinate, is filled.
    """
    need(dataset, "held_out_loss", "held_out_error")
    number = np.asarray(dataset["number"].values)
    loss = np.asarray(dataset["held_out_loss"].values, np.float64)
    error = np.asarray(dataset["held_out_error"].values, np.float64)
    taken = number == dataset.sizes.get("phase", 0)
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    axes.errorbar(number, loss, error, color=INK, linewidth=1.4, capsize=2.5)
    axes.plot(number, loss, "o", color=INK, markerfacecolor="white", markersize=7)
    axes.plot(number[taken], loss[taken], "o", color=INK, markersize=7)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=-5)
    axes.set_xticks(number)
    axes.set_xlabel("phases")
    axes.set_ylabel("held-out loss above the lowest (nats)")
    return figure


def _left(above: np.ndarray, told: float | None) -> float:
    """What is left at the lowest value, above zero so that a log axis shows it."""
    if told is not None and np.isfinite(told) and told > 0:
        return float(told)
    distances = above[above > 0]
    return float(distances.min()) / 2 if len(distances) else 1.0
