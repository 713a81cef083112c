"""Errors of at% to be expected of so many counts."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .._checks import check
from ._labels import spread
from ._style import (
    INK,
    PALE,
    SOFT,
    Number,
    need,
    new_figure,
    phase_colour,
    phase_names,
    styled,
    values,
)

_PANEL = 4.6, 3.6  # inches, with the names of the elements
_NAMES = 1.05  # inches of it for those
_ROW = 0.17  # inches that a name needs
_NOTHING = 100.0  # at%, where errors end: nothing is known
_KINDS = ("composition_stderr", "standard error"), ("detection_limit", "limit of detection")
_PALE = 0.35


@styled
def plot_planning(
    dataset: xr.Dataset,
    *,
    names: Sequence[str] | None = None,
    error: Number | None = None,
    counts_per_pixel: Number | None = None,
) -> Figure:
    """Standard errors of at%, and limits of detection, against the counts of a phase.

    Elements of the composition are on the left with their standard error, pale where it is larger
    than their amount and with a circle where it is as large; the others on the right with their
    limit of detection. What is 100 at% or more says nothing, and is not shown.

    **Arguments:**

    - `dataset`: of `expected_errors`, for two or more increasing numbers of counts, or several of
      them put together along `phase`, which get a row each.
    - `names`: of the phases, by default those of the `phase` coordinate.
    - `error`: at% that are wanted, as a level line.
    - `counts_per_pixel`: for a second axis, in pixels of the phase.

    Raises `InputError` for a dataset without numbers to be shown.
    """
    need(dataset, "composition", *(name for name, _ in _KINDS))
    for number, what in ((error, "wanted error"), (counts_per_pixel, "number of counts per pixel")):
        check(
            number is None or bool(np.isfinite(number) and number > 0),
            f"The {what} is {number}; give a positive number.",
        )
    several = "phase" in dataset.dims
    data = dataset if several else dataset.expand_dims("phase")
    titles = phase_names(data, names) if several or names is not None else [""]
    counts = np.asarray(data["counts"].values, np.float64)
    amounts = values(data, "composition", "phase", "element")
    symbols = [str(symbol) for symbol in data["element"].values]
    kinds = []
    for (name, title), own in zip(_KINDS, (amounts > 0, amounts <= 0), strict=True):
        shown = values(data, name, "phase", "element", "counts")
        shown = np.where(own[:, :, None] & (shown > 0) & (shown < _NOTHING), shown, np.nan)
        if np.isfinite(shown).any():
            kinds.append((title, shown))
    check(
        len(counts) >= 2 and bool((np.diff(counts) > 0).all()) and len(kinds) > 0,
        "The dataset holds no errors between 0 and 100 at% at two or more increasing numbers of "
        "counts; compute them for more counts, or for more than one element.",
    )
    n = len(titles)
    height = max(_PANEL[1], 0.6 + _ROW * len(symbols))
    figure = new_figure(0.4 + _PANEL[0] * len(kinds), 0.9 + height * n)
    grid = figure.subplots(n, len(kinds), sharex=True, sharey="col", squeeze=False)
    marked = False
    for column, (kind, shown) in zip(grid.T, kinds, strict=True):
        reach = np.append(shown[np.isfinite(shown)], [] if error is None else error)
        limits = float(reach.min()) / 1.25, min(1.25 * float(reach.max()), _NOTHING)
        for p, axes in enumerate(column):
            _scales(axes, counts, limits)
            if error is not None:
                axes.axhline(error, color=SOFT, linewidth=1.0, zorder=1, gid="wanted")
            for e in range(len(symbols)):
                marked |= _curve(axes, counts, shown[p, e], amounts[p, e], phase_colour(e))
            _name(axes, shown[p, :, -1], amounts[p], symbols, height - 0.9)
            axes.set_ylabel(f"{kind} (at%)")
        column[-1].set_xlabel("counts of the phase, all pixels together")
        if counts_per_pixel is not None:
            _pixels(column[0], float(counts_per_pixel))
    for axes, title in zip(grid[:, 0], titles, strict=True):
        axes.set_title(title, loc="left", fontweight="bold")
    _legend(figure, len(kinds), marked, error)
    return figure


def _scales(axes: Axes, counts: np.ndarray, limits: tuple[float, float]) -> None:
    axes.set(xscale="log", yscale="log", xlim=(counts[0], counts[-1]), ylim=limits)
    axes.set_axisbelow(True)
    axes.grid(color=PALE, linewidth=0.7)
    close = limits[1] < 10 * limits[0]
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(axes: Axes, counts: np.ndarray, y: np.ndarray, amount: float, colour: str) -> bool:
    """One element, and whether its error is as large as its amount, or larger, anywhere."""
    if not np.isfinite(y).any():
        return False
    at = _crossing(counts, y, amount)
    if at is not None:
        axes.plot(at, amount, "o", color=colour, markerfacecolor="white", markersize=6, zorder=3)
        counts, y = np.append(counts, at), np.append(y, amount)
        order = np.argsort(counts, kind="stable")
        counts, y = counts[order], y[order]
    poor = (y >= amount) & (amount > 0)
    axes.plot(counts, y, color=colour, linewidth=1.6, alpha=_PALE if poor.any() else None)
    if poor.any():
        clear = (y <= amount) & np.isfinite(y)
        axes.plot(counts[clear], y[clear], color=colour, linewidth=1.6)
    return bool(poor.any())


def _crossing(counts: np.ndarray, y: np.ndarray, amount: float) -> float | None:
    """The counts at which the error is as large as the amount, if they are shown."""
    known = np.isfinite(y)
    if not float(y[known].min()) < amount < float(y[known].max()):
        return None
    x = np.interp(-np.log(amount), -np.log(y[known]), np.log(counts[known]))
    return float(np.exp(x))


def _name(
    axes: Axes, ends: np.ndarray, amounts: np.ndarray, symbols: list[str], height: float
) -> None:
    """The elements beside the ends of their curves, with their amounts; `height` in inches."""
    drawn = np.flatnonzero(np.isfinite(ends))
    if not len(drawn):
        return
    low, high = np.log(axes.get_ylim())
    drawn = drawn[np.argsort(ends[drawn], kind="stable")]
    levels = (np.log(ends[drawn]) - low) / (high - low)
    places = spread(levels, _ROW / height, 0.0, 1.0)
    inch = 1 / (_PANEL[0] - _NAMES - 0.7)
    for e, level, place in zip(drawn, levels, places, strict=True):
        axes.plot(
            [1.0, 1 + 0.04 * inch, 1 + 0.16 * inch, 1 + 0.22 * inch],
            [level, level, place, place],
            transform=axes.transAxes,
            color=phase_colour(int(e)),
            linewidth=1.2,
            clip_on=False,
            label="_leader",
        )
        amount = f" ({amounts[e]:.3g} at%)" if amounts[e] > 0 else ""
        axes.text(
            1 + 0.27 * inch,
            place,
            symbols[e] + amount,
            transform=axes.transAxes,
            va="center",
            fontsize=9,
            gid="element",
        )


def _pixels(axes: Axes, counts_per_pixel: float) -> None:
    def pixels(counts):
        return counts / counts_per_pixel

    def counts_of(pixels):
        return pixels * counts_per_pixel

    above = axes.secondary_xaxis("top", functions=(pixels, counts_of))
    above.set_xlabel(f"pixels of the phase, at {counts_per_pixel:.4g} counts each")
    above.spines["top"].set_visible(True)


def _legend(figure: Figure, panels: int, marked: bool, error: Number | None) -> None:
    handles = []
    if marked:
        circle = Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="none")
        circle.set_label("error as large as the amount")
        handles += [
            circle,
            Line2D([], [], color=INK, alpha=_PALE, label="error larger than the amount"),
        ]
    if error is not None:
        handles.append(Line2D([], [], color=SOFT, linewidth=1.0, label=f"wanted: {error:g} at%"))
    if handles:
        columns = len(handles) if panels > 1 else 1
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
