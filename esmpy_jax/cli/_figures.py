"""The figures of a solution as PNG files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inference import Refinement, Solution

#: Every figure that `fit` and `refine` may write.
FIGURES = (
    "maps.png",
    "mass_thickness.png",
    "spectra.png",
    "phase_spectra.png",
    "composition.png",
    "basis.png",
    "convergence.png",
    "convergence_binned.png",
    "phase_number.png",
    "refinement.png",
)
_DPI = 160
_FAIR = 0.25  # of the counts at a line's energy, to label it


def figures(solution: Solution) -> dict[str, bytes]:
    """PNG files by name; a single spectrum has no maps, and one phase is its own spectrum."""
    from .. import plot

    data = solution.dataset
    single = data.sizes["y"] * data.sizes["x"] == 1
    lines = line_labels(solution)
    made = {}
    if not single:
        made["maps.png"] = plot.plot_abundances(data)
        made["phase_spectra.png"] = plot.plot_phase_spectra(data, lines=lines)
    made |= {
        "spectra.png": plot.plot_spectra(data, lines=lines),
        "composition.png": plot.plot_composition(data),
        "basis.png": plot.plot_basis(data),
        "convergence.png": plot.plot_convergence(data),
    }
    if "mass_thickness" in data and not single:
        made["mass_thickness.png"] = plot.plot_mass_thickness(data)
    if "coarse_objective" in data and not single:
        coarse = data[["coarse_objective", "coarse_steps"]].rename(
            coarse_objective="objective", coarse_steps="steps", coarse_check="check"
        )
        coarse.attrs["remaining_nats"] = data.attrs.get("coarse_remaining_nats", np.nan)
        made["convergence_binned.png"] = plot.plot_convergence(coarse)
    if "held_out_loss" in data:
        made["phase_number.png"] = plot.plot_phase_number(data)
    return {name: png(figure) for name, figure in made.items()}


def refinement_figure(solution: Solution, refinement: Refinement) -> bytes:
    """The PNG file of the summed spectrum before and after a refinement."""
    from .. import plot

    return png(plot.plot_refinement(refinement.dataset, lines=line_labels(solution)))


def line_labels(solution: Solution) -> list[tuple[float, str]]:
    """The strongest line of each family of every element and stray element in the energy range."""
    from ..atomic import emission_lines
    from ..plot import strongest_lines

    numbers = dict.fromkeys(
        column.atomic_number
        for column in solution.basis.columns
        if column.atomic_number is not None
    )
    energy = solution.dataset["energy"].values
    beam = solution.parameters["beam energy"].value
    if not numbers or not isinstance(beam, int | float):
        return []
    limits = (max(float(energy.min()), 0.1), float(energy.max()))
    lines = emission_lines([int(z) for z in numbers], float(beam), limits)
    return _carrying(solution, strongest_lines(lines)) if len(lines) else []


def _carrying(solution: Solution, labels: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The labels whose element makes a fair part of some phase's counts at that energy."""
    from ..atomic import parse_element

    data = solution.dataset
    weights = data["W"].transpose("column", "phase").values
    matrix = data["G"].values
    if matrix.ndim == 2:
        matrix = np.broadcast_to(matrix, (weights.shape[1], *matrix.shape))
    spectra = data["spectra"].transpose("energy", "phase").values
    columns = solution.basis.columns
    kept = []
    for energy, label in labels:
        channel = int(np.argmin(np.abs(data["energy"].values - energy)))
        z = parse_element(label.split()[0]).atomic_number
        own = [j for j, column in enumerate(columns) if column.atomic_number == z]
        counts = np.einsum("pj,jp->p", matrix[:, channel][:, own], weights[own])
        if (counts > _FAIR * np.maximum(spectra[channel], 1e-300)).any():
            kept.append((energy, label))
    return kept


def png(figure: Figure) -> bytes:
    """The figure as it is printed: white, at a resolution for slides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    figure.set_dpi(_DPI)
    figure.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(buffer)  # draws once, `savefig` twice
    return buffer.getvalue()


def size(image: bytes) -> tuple[int, int]:
    """(width, height) in pixels, from the header of a PNG."""
    width, height = np.frombuffer(image[16:24], ">u4")
    return int(width), int(height)
