"""Y = G W H as one picture of matrices, and W as a table of numbers in colour."""

import itertools
import json

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from esmpy_jax.plot import phase_colour

matplotlib.rcParams.update({"font.size": 11, "axes.linewidth": 0.8})
GROUPS = {"element": "#33517E", "stray": "#8A5A2B", "bremsstrahlung": "#5B5B5B"}
WORDS = {"element": "elements", "stray": "stray", "bremsstrahlung": "continuum"}
TOP = 8.5  # keV shown


def order_like_truth(truth: np.ndarray, found: np.ndarray) -> list[int]:
    """Which found phase is each true one, by the correlation of the maps."""
    n = len(truth)
    pairs = np.corrcoef(truth.reshape(n, -1), found.reshape(n, -1))[:n, n:]
    return list(max(itertools.permutations(range(n)), key=lambda p: pairs[range(n), p].sum()))


def row_through_particles(maps: np.ndarray) -> int:
    """The scan line on which the particle phases reach their highest shares."""
    return int(maps[1:].max(2).min(0).argmax())


def shown_weights(dataset: xr.Dataset) -> tuple[np.ndarray, list[str], list[str]]:
    """(column, phase) in percent, labels and kinds.

    Elements: at%. Stray and continuum columns: percent of the phase's counts.
    """
    weights = dataset["W"].transpose("column", "phase").values
    kinds = [record["kind"] for record in json.loads(dataset.attrs["columns"])]
    matrix = dataset["G"].values  # with self-absorption each phase has its own
    sums = matrix.sum(-2).T if matrix.ndim == 3 else matrix.sum(0)[:, None]
    counts = sums * weights
    counts = counts / counts.sum(0)
    element = np.array([kind == "element" for kind in kinds])
    labels = [str(label).replace("brems ", "b") for label in dataset["column"].values]
    return 100 * np.where(element[:, None], weights, counts), labels, kinds


def plot_equation(dataset: xr.Dataset, line: np.ndarray, row: int) -> Figure:
    """Y (one scan line of it) = G × W × H, each factor with its own values."""
    energy = dataset["energy"].values
    keep = energy <= TOP
    names = [str(name) for name in dataset["phase"].values]
    percent, labels, kinds = shown_weights(dataset)
    figure = Figure(figsize=(13.5, 6.3), facecolor="white")

    # Y: a scan line, energy upwards, four channels to a row so that single counts can be seen
    axes = figure.add_axes((0.05, 0.13, 0.245, 0.66))
    n = int(keep.sum()) // 4 * 4
    counts = line[:, :n].reshape(len(line), -1, 4).sum(-1).T
    axes.imshow(
        np.where(counts > 0, counts, np.nan),
        origin="lower", aspect="auto", cmap="viridis_r", norm=LogNorm(1, max(counts.max(), 2)),
        extent=(-0.5, len(line) - 0.5, energy[0], energy[n - 1]), interpolation="nearest",
    )  # fmt: skip
    axes.set(xlabel=f"pixel of scan line {row}", ylabel="energy (keV)")
    _head(axes, "Y", "counts", "channel × pixel")

    # G: columns as colour, each to its own maximum, the energy axis shared with Y
    axes = figure.add_axes((0.34, 0.13, 0.25, 0.66))
    matrix = dataset["G"].values
    matrix = matrix[0] if matrix.ndim == 3 else matrix
    shown = matrix[:n] / matrix[:n].max(0)
    shown = np.sqrt(shown.reshape(-1, 4, shown.shape[1]).mean(1))
    for j, kind in enumerate(kinds):
        tint = matplotlib.colors.LinearSegmentedColormap.from_list("", ["white", GROUPS[kind]])
        axes.imshow(
            shown[:, j : j + 1], origin="lower", aspect="auto", cmap=tint, vmin=0, vmax=0.8,
            extent=(j - 0.45, j + 0.45, energy[0], energy[n - 1]), interpolation="bilinear",
        )  # fmt: skip
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=9)
    for tick, kind in zip(axes.get_xticklabels(), kinds, strict=True):
        tick.set_color(GROUPS[kind])
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    _head(axes, "G", "physics", "channel × column")
    _groups(axes, kinds)

    # W: numbers
    axes = figure.add_axes((0.67, 0.13, 0.13, 0.66))
    _weights(axes, percent, labels, kinds, names, fontsize=9)
    axes.set_xticks(
        range(len(names)),
        [name.replace("-", "-\n") for name in names],
        fontsize=9,
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    _head(axes, "W", "composition", "column × phase")

    # H: a map for each row
    last = None
    for a, name in enumerate(names):
        axes = figure.add_axes((0.875, 0.575 - 0.2225 * a, 0.215 * 6.3 / 13.5, 0.215))
        image = dataset["abundance"].values[a]
        axes.imshow(image, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axes.axhline(row, color="white", lw=0.9, ls=(0, (4, 3)))
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, color=phase_colour(a), fontsize=10, fontweight="bold")
        axes.spines[:].set_visible(False)
        if a == 0:
            _head(axes, "H", "abundance", "phase × pixel")
        last = axes
    assert last is not None
    for x, sign in ((0.317, "="), (0.615, "×"), (0.828, "×")):
        figure.text(x, 0.46, sign, fontsize=26, ha="center", va="center")
    return figure


def plot_weights(dataset: xr.Dataset) -> Figure:
    """W alone: at% of the elements; stray and continuum as percent of the phase's counts."""
    percent, labels, kinds = shown_weights(dataset)
    names = [str(name) for name in dataset["phase"].values]
    figure = Figure(figsize=(5.4, 0.36 * len(labels) + 1.2), layout="constrained")
    axes = figure.subplots()
    _weights(axes, percent, labels, kinds, names, fontsize=11)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, fontweight="bold")
    for a, tick in enumerate(axes.get_xticklabels()):
        tick.set_color(phase_colour(a))
    axes.set_title(
        "elements in at%; stray and continuum in % of the phase's counts", fontsize=10, pad=12
    )
    return figure


def _weights(axes, percent, labels, kinds, names, fontsize):
    for j, kind in enumerate(kinds):
        tint = matplotlib.colors.LinearSegmentedColormap.from_list("", ["white", GROUPS[kind]])
        for a in range(len(names)):
            value = percent[j, a]
            depth = 0.8 * float(
                np.clip(np.log10(max(value, 1e-3) / 0.02) / np.log10(60 / 0.02), 0, 1)
            )
            axes.add_patch(
                Rectangle((a - 0.5, j - 0.5), 1, 1, facecolor=tint(depth), edgecolor="white")
            )
            text = "0" if value < 0.005 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
            axes.text(
                a, j, text, ha="center", va="center", fontsize=fontsize,
                color="white" if depth > 0.5 else "#262626",
            )  # fmt: skip
    for j in range(1, len(kinds)):
        if kinds[j] != kinds[j - 1]:
            axes.axhline(j - 0.5, color="#262626", lw=1.2)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticks(range(len(labels)), labels)
    for tick, kind in zip(axes.get_yticklabels(), kinds, strict=True):
        tick.set_color(GROUPS[kind])
        tick.set_fontsize(fontsize)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _head(axes, letter, word, shape):
    box = axes.get_position()
    x, y = box.x0 + box.width / 2, box.y1
    axes.figure.text(x, y + 0.115, letter, ha="center", fontsize=24, fontweight="bold")
    axes.figure.text(x, y + 0.075, word, ha="center", fontsize=12)
    axes.figure.text(x, y + 0.04, shape, ha="center", fontsize=9.5, color="#666666")


def _groups(axes, kinds):
    """Brackets over the columns of a kind."""
    for kind in dict.fromkeys(kinds):
        at = [j for j, k in enumerate(kinds) if k == kind]
        trans = axes.get_xaxis_transform()
        axes.plot(
            [at[0] - 0.4, at[-1] + 0.4], [1.015, 1.015], transform=trans, color=GROUPS[kind],
            lw=2.5, clip_on=False, solid_capstyle="butt",
        )  # fmt: skip
