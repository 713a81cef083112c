"""Maps over the scan: abundances, local composition and mass-thickness, with a scale bar."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from .._checks import check
from ._style import (
    MISSING,
    Number,
    need,
    new_figure,
    phase_colour,
    phase_names,
    styled,
    unit,
    values,
)

_LENGTHS = {"nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6, "m": 1e9, "Å": 0.1, "pm": 1e-3}


@styled
def plot_abundances(
    dataset: xr.Dataset,
    *,
    names: Sequence[str] | None = None,
    empty: Bool[np.ndarray, "y x"] | None = None,
    columns: int = 4,
) -> Figure:
    """Map of each phase's share of a pixel, all on the same scale from 0 to 1.

    **Arguments:**

    - `dataset`: with `abundance(phase, y, x)`; `x` and `y` with a unit give the scale bar.
    - `names`: of the phases, instead of the dataset's.
    - `empty`: pixels to show as having no counts; by default those that are not finite or
      where `pixel_counts(y, x)` is zero, or `H` in a dataset without it.
    - `columns`: maps side by side.
    """
    need(dataset, "abundance")
    maps = values(dataset, "abundance", "phase", "y", "x")
    titles = phase_names(dataset, names)
    hidden = _empty_pixels(dataset, maps) if empty is None else empty
    figure, grid = _grid(dataset, len(maps), columns, extra=0.9)
    cmap = _with_missing("inferno")
    image = None
    for i, (axes, values_, title) in enumerate(zip(grid, maps, titles, strict=False)):
        image = _show(axes, dataset, np.where(hidden, np.nan, values_), cmap, 0.0, 1.0)
        _title(axes, title, phase_colour(i))
    _scale_bar(grid[0], dataset)
    _note_missing(figure, hidden)
    if image is not None:
        bar = figure.colorbar(image, ax=grid, shrink=0.85, aspect=22, pad=0.02)
        share_of = dataset["abundance"].attrs.get("share_of")
        bar.set_label("abundance" + (f" (share of the {share_of})" if share_of else ""))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


@styled
def plot_composition_maps(
    dataset: xr.Dataset,
    *,
    elements: Sequence[str] | None = None,
    empty: Bool[np.ndarray, "y x"] | None = None,
    columns: int = 4,
) -> Figure:
    """Local atomic fraction of each element, `sum_p composition[e, p] abundance[p, y, x]`, in at%.

    Where abundances are shares of counts (attribute `share_of`), they become shares of atoms first,
    by each phase's `spectra`; a pixel without atoms has none of any element. Each map has its own
    colour bar. `elements` picks and orders them; by default all, the most
    abundant first. `empty` as in `plot_abundances`.
    """
    need(dataset, "abundance", "composition")
    composition = values(dataset, "composition", "element", "phase")
    maps = _shares_of_atoms(dataset, composition)
    known = [str(symbol) for symbol in dataset["element"].values]
    if elements is None:
        elements = [known[i] for i in np.argsort(-composition.mean(1), kind="stable")]
    for symbol in elements:
        check(
            symbol in known,
            f"The solution has no element '{symbol}'; choose among {', '.join(known)}.",
        )
    hidden = _empty_pixels(dataset, maps) if empty is None else empty
    figure, grid = _grid(dataset, len(elements), columns, extra=0.0, gap=0.75)
    cmap = _with_missing("viridis")
    for axes, symbol in zip(grid, elements, strict=False):
        local = np.tensordot(composition[known.index(symbol)], maps, 1)
        local = np.where(hidden, np.nan, local)
        top = np.nanmax(local) if np.isfinite(local).any() else 1.0
        image = _show(axes, dataset, local, cmap, 0.0, max(float(top), 1e-3))
        _title(axes, f"{symbol} (at%)", None)
        bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=18, pad=0.03)
        bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10])
        bar.update_ticks()
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    _scale_bar(grid[0], dataset)
    _note_missing(figure, hidden)
    return figure


@styled
def plot_mass_thickness(
    dataset: xr.Dataset, *, empty: Bool[np.ndarray, "y x"] | None = None
) -> Figure:
    """Map of the mass-thickness in µg/cm², from zero to its 99.8th percentile.

    **Arguments:**

    - `dataset`: with `mass_thickness(y, x)` in g/cm²; `x` and `y` with a unit give the scale bar.
    - `empty`: as in `plot_abundances`.
    """
    need(dataset, "mass_thickness")
    shown = 1e6 * values(dataset, "mass_thickness", "y", "x")
    hidden = _empty_pixels(dataset, shown[None]) if empty is None else empty
    shown = np.where(hidden, np.nan, shown)
    top = float(np.nanpercentile(shown, 99.8)) if np.isfinite(shown).any() else 1.0
    figure, (axes, *_) = _grid(dataset, 1, 1, extra=0.7, gap=0.4)
    cut = bool((shown > top).any())
    image = _show(axes, dataset, shown, _with_missing("cividis"), 0.0, max(top, 1e-9))
    _title(axes, "Mass-thickness", None)
    _scale_bar(axes, dataset)
    _note_missing(figure, hidden)
    extend = "max" if cut else "neither"
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=18, pad=0.03, extend=extend)
    bar.set_label("µg/cm²")
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def _shares_of_atoms(dataset: xr.Dataset, composition: np.ndarray) -> np.ndarray:
    """`abundance`, or what it is in atoms where it is in counts; some phases may have none."""
    maps = values(dataset, "abundance", "phase", "y", "x")
    if dataset["abundance"].attrs.get("share_of") != "counts":
        return maps
    need(dataset, "spectra")
    per_atom = values(dataset, "spectra", "energy", "phase").sum(0)
    per_count = np.where(composition.sum(0) > 0, 1 / np.maximum(per_atom, 1e-300), 0.0)
    atoms = maps * per_count[:, None, None]
    total = atoms.sum(0)
    return atoms / np.where(total > 0, total, 1.0)


def scale_bar_length(field: Number, length_unit: str = "") -> tuple[float, str]:
    """A round length of about a quarter of the field, in the field's unit, and its label.

    1, 2 or 5 times a power of ten; metric units are written so that the number is between 1 and
    1000: 2000 nm as "2 µm".
    """
    target = 0.3 * field
    power = 10.0 ** math.floor(math.log10(target))
    length = max(m * power for m in (1, 2, 5) if m * power <= target * (1 + 1e-9))
    if length_unit in _LENGTHS:
        in_nm = length * _LENGTHS[length_unit]
        for name, size in (("mm", 1e6), ("µm", 1e3), ("nm", 1.0), ("pm", 1e-3)):
            if in_nm >= size * (1 - 1e-9) or name == "pm":
                return length, f"{in_nm / size:.6g} {name}"
    return length, f"{length:.6g} {length_unit or 'px'}"


def _grid(
    dataset: xr.Dataset, n: int, columns: int, *, extra: float, gap: float = 0.1
) -> tuple[Figure, list[Axes]]:
    """A figure of n maps with the scan's aspect, each about 2.6 inches wide; unused ones hidden."""
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    left, right, bottom, top = _extent(dataset)
    width = 2.6
    height = min(max(width * abs(bottom - top) / (right - left), 0.6), 5.0)
    figure = new_figure(columns * (width + gap) + extra, rows * (height + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.set_visible(False)
    return figure, list(axes[:n])


def _extent(dataset: xr.Dataset) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of the scan in its unit; the first row is at the top."""
    sides = []
    for name in ("x", "y"):
        n = int(dataset.sizes[name])
        at = np.asarray(dataset[name].values, float) if name in dataset.coords else np.arange(n)
        step = float(at[1] - at[0]) if n > 1 else 1.0
        sides.append((float(at[0]) - step / 2, float(at[-1]) + step / 2))
    (left, right), (top, bottom) = sides
    return left, right, bottom, top


def _empty_pixels(
    dataset: xr.Dataset, maps: Float[np.ndarray, "phase y x"]
) -> Bool[np.ndarray, "y x"]:
    empty = np.asarray(~np.isfinite(maps).all(0), bool)
    if "pixel_counts" in dataset:
        return empty | ~(values(dataset, "pixel_counts", "y", "x") > 0)
    if "H" in dataset and {"y", "x"} <= set(dataset["H"].dims):
        total = values(dataset, "H", "phase", "y", "x").sum(0)
        empty = empty | ~(total > 0)
    return empty


def _with_missing(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad=MISSING)


def _show(axes: Axes, dataset: xr.Dataset, image: np.ndarray, cmap: Colormap, low, high):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes.imshow(
        np.ma.masked_invalid(image),
        extent=_extent(dataset),
        origin="upper",
        aspect="equal",
        interpolation="nearest",
        cmap=cmap,
        vmin=low,
        vmax=high,
    )


def _title(axes: Axes, text: str, colour: str | None) -> None:
    """The name over the map, with a square in the phase's colour before it."""
    shift = 0 if colour is None else 14
    axes.annotate(
        text, (0, 1), (shift, 5), xycoords="axes fraction", textcoords="offset points",
        fontsize=12, va="baseline", ha="left", gid="map-title",
    )  # fmt: skip
    if colour is not None:
        axes.annotate(
            "■", (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
            fontsize=12, va="baseline", ha="left", color=colour, gid="phase-colour",
        )  # fmt: skip


def _scale_bar(axes: Axes, dataset: xr.Dataset) -> None:
    left, right, bottom, top = _extent(dataset)
    length, text = scale_bar_length(abs(right - left), unit(dataset, "x"))
    bar = AnchoredSizeBar(
        axes.transData,
        length,
        text,
        "lower left",
        pad=0.4,
        borderpad=0.4,
        sep=4,
        color="white",
        size_vertical=abs(bottom - top) * 0.012,  # pyright: ignore[reportArgumentType]
        fill_bar=True,
        fontproperties=FontProperties(size=10),
    )
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.55)
    axes.add_artist(bar)


def _note_missing(figure: Figure, hidden: np.ndarray) -> None:
    if hidden.any():
        n = int(hidden.sum())
        text = f"no counts ({n} pixel{'s' if n > 1 else ''})"
        figure.legend(
            handles=[Patch(facecolor=MISSING, label=text)], loc="outside lower left", fontsize=9
        )
