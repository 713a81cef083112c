"""The look shared by all figures: fonts, palette, the colour and name of each phase."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from .._checks import check

#: Okabe and Ito's palette, safe for colour-blind readers, without its yellow (faint on white).
PHASE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

INK = "#262626"  # data, text
SOFT = "#8C8C8C"  # guides, leaders
PALE = "#D9D9D9"  # fills
MISSING = "#BDBDBD"  # pixels without counts

_RC: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "figure.dpi": 110,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 11,
    "hatch.color": "white",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": 200,
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
}

Number = float | int
LineLabels = Sequence[tuple[Number, str]]

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a plot function with the shared look, leaving the user's settings as they were."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return function(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that keeps its parts apart by itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.06, h_pad=0.06)  # pyright: ignore[reportCallIssue]
    return figure


def phase_colour(index: int) -> str:
    """The colour of phase `index` in every figure; repeats after seven."""
    return PHASE_COLOURS[index % len(PHASE_COLOURS)]


def phase_names(dataset: xr.Dataset, names: Sequence[str] | None = None) -> list[str]:
    """The given names, those of the dataset's `phase` coordinate, or "Phase 1", "Phase 2", ...

    Raises `InputError` when the number of names is not the number of phases.
    """
    n = int(dataset.sizes["phase"])
    if names is not None:
        check(len(names) == n, f"{len(names)} phase names were given for {n} phases.")
        return [str(name) for name in names]
    if "phase" in dataset.coords:
        values = dataset["phase"].values
        if values.dtype.kind in "UOS":
            return [str(value) for value in values]
    return [f"Phase {i + 1}" for i in range(n)]


def detectors(dataset: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The channels of each detector with words for it, empty where there is one."""
    if "detector" not in dataset.coords:
        return [("", dataset)]
    number = dataset["detector"].values
    return [
        (f"detector {k}", dataset.isel(energy=np.flatnonzero(number == k)))
        for k in dict.fromkeys(number)
    ]


def need(dataset: xr.Dataset, *names: str) -> None:
    """Raise `InputError` when the dataset lacks a variable that the figure shows."""
    for name in names:
        check(
            name in dataset,
            f"The dataset has no variable '{name}', which this figure shows; give the dataset of "
            "a solution.",
        )


def values(dataset: xr.Dataset, name: str, *dims: str) -> np.ndarray:
    """A variable as float64 with its axes in this order."""
    return np.asarray(dataset[name].transpose(*dims).values, np.float64)


def unit(dataset: xr.Dataset, name: str) -> str:
    """The unit of a coordinate, or ""."""
    attributes: dict[Any, Any] = dataset[name].attrs if name in dataset.coords else {}
    return str(attributes.get("units", attributes.get("unit", "")))
