"""The figures of the study."""

import matplotlib
import numpy as np
from judging import Found
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

matplotlib.rcParams.update(
    {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 11,
        "legend.frameon": False,
        "savefig.dpi": 110,
    }
)
COLOURS = {"scikit-learn": "#C2418F", "esmpy_jax": "#262626"}
NAMES = {"scikit-learn": "scikit-learn\nKL-NMF", "esmpy_jax": "esmpy_jax\ndefaults"}


def plot_maps(truth: np.ndarray, pairs: dict[float, list[Found]], names: list[str]) -> Figure:
    """Rows: truth and the methods; a block of maps for each dose. All on the scale 0 to 1."""
    n, doses = len(truth), list(pairs)
    map_size, gap, space, left, right, top = 1.95, 0.05, 0.3, 0.65, 0.95, 0.75  # inches
    n_rows = 1 + len(pairs[doses[0]])
    width = left + right + len(doses) * n * (map_size + gap) + (len(doses) - 1) * space
    height = top + n_rows * (map_size + gap) + 0.05
    figure = Figure(figsize=(width, height))
    image = None
    for block, dose in enumerate(doses):
        start = left + block * (n * (map_size + gap) + space)
        figure.text(
            (start + n * (map_size + gap) / 2) / width, 1 - 0.12 / height,
            f"{dose:g} counts per pixel", fontweight="bold", fontsize=13, ha="center", va="top",
        )  # fmt: skip
        rows = [("ground truth", truth, None)]
        rows += [(NAMES[f.method], f.maps, f.correlation) for f in pairs[dose]]
        for i, (label, maps, correlation) in enumerate(rows):
            for a in range(n):
                axes = figure.add_axes(
                    (
                        (start + a * (map_size + gap)) / width,
                        1 - (top + i * (map_size + gap) + map_size) / height,
                        map_size / width,
                        map_size / height,
                    )
                )
                image = axes.imshow(
                    maps[a], vmin=0, vmax=1, cmap="inferno", interpolation="nearest"
                )
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if correlation is None:
                    axes.set_title(names[a], fontsize=11)
                else:
                    axes.text(
                        0.97, 0.03, f"r = {correlation[a]:.3f}", transform=axes.transAxes,
                        ha="right", va="bottom", fontsize=9.5, color="white",
                        bbox={"facecolor": "black", "alpha": 0.65, "linewidth": 0, "pad": 2},
                    )  # fmt: skip
                if a == 0 and block == 0:
                    axes.set_ylabel(label, fontsize=11)
    place = figure.add_axes((1 - (right - 0.2) / width, 0.2, 0.14 / width, 0.55))
    bar = figure.colorbar(image, cax=place)
    bar.set_label("share of the pixel")
    bar.outline.set_visible(False)
    return figure


def plot_spectra(
    energy: np.ndarray, truth: np.ndarray, pairs: dict[float, list[Found]], names: list[str]
) -> Figure:
    """Each phase's spectrum, normalised to sum one: filled the truth, lines what was found."""
    doses = list(pairs)
    figure = Figure(figsize=(6.2 * len(doses), 2.3 * len(names) + 0.8))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(names), len(doses), sharex=True, sharey=True, squeeze=False)
    inside = energy <= 9.5
    floor = 1e-5
    for column, dose in enumerate(doses):
        for a, axes in enumerate(grid[:, column]):
            axes.fill_between(energy[inside], truth[inside, a], floor, color="#C8C8C8", lw=0)
            for found in pairs[dose]:
                curve = np.maximum(found.spectra[inside, a], floor / 10)
                width = 0.6 if found.method != "esmpy_jax" else 1.1
                axes.plot(energy[inside], curve, color=COLOURS[found.method], lw=width)
            angles = [(COLOURS[f.method], f"{f.angle[a]:.1f}°") for f in pairs[dose]]
            for i, (colour, text) in enumerate(angles):
                axes.text(
                    0.985, 0.80 - 0.13 * i, text, transform=axes.transAxes, ha="right", va="top",
                    color=colour, fontsize=11,
                )  # fmt: skip
            axes.text(
                0.985, 0.97, names[a], transform=axes.transAxes, ha="right", va="top",
                fontweight="bold",
            )  # fmt: skip
            axes.set_yscale("log")
            axes.set_ylim(floor, 0.4)
            axes.set_xlim(0.2, 9.5)
        grid[0, column].set_title(f"{dose:g} counts per pixel", fontweight="bold")
        grid[-1, column].set_xlabel("energy (keV)")
    figure.supylabel("share of the phase's counts per 10 eV", fontsize=11)
    handles = [Line2D([], [], color="#C8C8C8", lw=7, label="ground truth")]
    handles += [
        Line2D([], [], color=COLOURS[f.method], lw=2, label=f.method) for f in pairs[doses[0]]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def plot_seeds(records, names, scenes, doses, methods) -> Figure:
    """Every seed as a dot: correlation, angle and at% error of each phase."""
    what = (
        ("correlation", "map correlation", "linear"),
        ("angle", "spectral angle (°)", "log"),
        ("error", "at% error", "log"),
    )
    columns = [(s, d) for s in scenes for d in doses]
    figure = Figure(figsize=(2.9 * len(columns) + 0.8, 7.6))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(3, len(columns), sharex=True, sharey="row", squeeze=False)
    for j, (scene, dose) in enumerate(columns):
        for (field, label, scale), axes in zip(what, grid[:, j], strict=True):
            axes.set_yscale(scale)
            axes.grid(axis="y", color="#DDDDDD", lw=0.7)
            axes.set_axisbelow(True)
            for i, method in enumerate(methods):
                found = [r[3] for r in records if r[:2] == (scene, dose) and r[3].method == method]
                for a in range(len(names)):
                    values = np.array([getattr(f, field)[a] for f in found])
                    at = a + 0.24 * (i - 0.5 * (len(methods) - 1)) * 1.6
                    spread = np.linspace(-0.07, 0.07, len(values)) if len(values) > 1 else [0]
                    axes.plot(
                        at + np.asarray(spread), values, "o", color=COLOURS[method], ms=4,
                        alpha=0.75, mew=0,
                    )  # fmt: skip
            if field == "correlation":
                axes.axhline(0.9, color="#555555", lw=0.8, ls="--")
                axes.set_title(f"{scene}\n{dose:g} counts per pixel", fontsize=11)
            if j == 0:
                axes.set_ylabel(label)
            if scale == "log":
                axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        grid[-1, j].set_xticks(
            range(len(names)), [n.replace("-", "-\n") for n in names], fontsize=8.5
        )
    handles = [Line2D([], [], color=COLOURS[m], marker="o", ls="", label=m) for m in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
