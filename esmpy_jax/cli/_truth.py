"""How a solution compares with the truth that a simulated image carries."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

    from ..inference import GroundTruth, Solution


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The truth in the order of the phases found.

    - `names`: of the true phases.
    - `percent`: at% in truth, shape (element, phase); zero for an element the truth lacks.
    - `correlation`, `angle`: of each phase's map, and in degrees of its spectrum.
    """

    names: tuple[str, ...]
    percent: np.ndarray
    correlation: np.ndarray
    angle: np.ndarray


def compare(solution: Solution, truth: GroundTruth | None) -> Comparison | None:
    """Match found and true phases so that the angles between their spectra are smallest in sum.

    `None` without a truth, with another number of phases, or with more than eight.
    """
    data = solution.dataset
    n = int(data.sizes["phase"])
    if truth is None or len(truth.phase_names) != n or n > 8:
        return None
    angle = _angles(data["spectra"].values, np.asarray(truth.spectra, float))
    order = list(
        min(itertools.permutations(range(n)), key=lambda p: sum(angle[a, p[a]] for a in range(n)))
    )
    true_maps = np.asarray(truth.abundance, float)[order].reshape(n, -1)
    maps = data["abundance"].values.reshape(n, -1)
    known = dict(zip(truth.element_symbols, np.asarray(truth.composition, float), strict=True))
    percent = np.zeros((int(data.sizes["element"]), n))
    for e, symbol in enumerate(data["element"].values):
        if str(symbol) in known:
            percent[e] = 100 * known[str(symbol)][order]
    return Comparison(
        names=tuple(truth.phase_names[j] for j in order),
        percent=percent,
        correlation=np.array([_correlation(a, b) for a, b in zip(maps, true_maps, strict=True)]),
        angle=np.array([angle[a, j] for a, j in enumerate(order)]),
    )


def _angles(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    found = found / np.maximum(np.linalg.norm(found, axis=0), 1e-300)
    true = true / np.maximum(np.linalg.norm(true, axis=0), 1e-300)
    return np.degrees(np.arccos(np.clip(found.T @ true, -1, 1)))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else float("nan")


def headings(solution: Solution, truth: Comparison) -> list[str]:
    """The name of each true phase, with that of the phase found where it is another."""
    found = [str(name) for name in solution.dataset["phase"].values]
    pairs = zip(truth.names, found, strict=True)
    return [true if true == name else f"{true} ({name})" for true, name in pairs]


def print_comparison(solution: Solution, truth: Comparison, out: Console) -> None:
    """Truth beside what was found, in at%, and how well maps and spectra agree."""
    from ._results import error_name, uncertain, what_errors_hold
    from ._terminal import table

    data = solution.dataset
    values = solution.composition.transpose("element", "phase").values
    errors = data[error_name(solution, "composition")].transpose("element", "phase").values
    grid = table()
    grid.add_column("\nat%")
    for name in headings(solution, truth):
        grid.add_column("\ntruth", justify="right", no_wrap=True)
        grid.add_column(f"{name}\nfound", justify="right", no_wrap=True)
    for e, symbol in enumerate(data["element"].values):
        cells = []
        for a in range(len(truth.names)):
            cells += [f"{truth.percent[e, a]:.1f}", uncertain(values[e, a], errors[e, a])]
        grid.add_row(str(symbol), *cells)
    grid.add_section()
    for label, row in (
        ("map correlation", [f"{c:.3f}" for c in truth.correlation]),
        ("spectral angle", [f"{a:.1f}°" for a in truth.angle]),
    ):
        grid.add_row(label, *itertools.chain.from_iterable(("", value) for value in row))
    out.print(grid)
    out.print(what_errors_hold(solution), markup=False)
