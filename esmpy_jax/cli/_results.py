"""Compositions and verdicts of a solution, in words, tables and CSV."""

from __future__ import annotations

import csv
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

    from ..inference import Solution


def uncertain(value: float, error: float) -> str:
    """ "43.69 ± 0.13": two digits of the error, at most three and at least one decimal."""
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.2f}"
    decimals = min(max(1 - math.floor(math.log10(error)), 1), 3)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def phase_shares(solution: Solution) -> np.ndarray:
    """Percent of each phase in the whole scan, by atoms as abundances count them."""
    amounts = solution.dataset["H"].values.sum((1, 2))
    return 100 * amounts / max(float(amounts.sum()), 1e-300)


def phase_names(solution: Solution) -> list[str]:
    return [str(name) for name in solution.dataset["phase"].values]


def formula(solution: Solution, phase: int, most: int = 4) -> str:
    """ "O 43.7, Mg 23.8, Si 22.8 at%": what a phase mostly consists of."""
    percent = solution.composition.values[:, phase]
    symbols = solution.dataset["element"].values
    order = [i for i in np.argsort(-percent, kind="stable")[:most] if percent[i] >= 0.5]
    return ", ".join(f"{symbols[i]} {percent[i]:.1f}" for i in order) + " at%"


def deviance_per_channel(solution: Solution) -> float:
    """Deviance of the summed spectrum over the number of channels; about 1 for a perfect model."""
    counts = solution.dataset["counts_sum"].values.astype(float)
    fit = np.maximum(solution.dataset["fit_sum"].values.sum(1), 1e-300)
    ratio = np.where(counts > 0, counts, 1.0) / fit
    terms = np.where(counts > 0, counts * np.log(ratio), 0.0) - counts + fit
    return float(2 * terms.sum() / len(counts))


def verdict(solution: Solution) -> str:
    """One line on how the fit ended and what it found."""
    n = len(phase_names(solution))
    found = "; ".join(
        f"{name} ({share:.0f} %): {formula(solution, a, 3)}"
        for a, (name, share) in enumerate(
            zip(phase_names(solution), phase_shares(solution), strict=True)
        )
    )
    head = "The fit converged" if solution.converged else "The fit did not converge"
    return f"{head} with {n} phase{'s' if n > 1 else ''}. {found}."


def write_composition(solution: Solution, path: pathlib.Path) -> None:
    """`composition.csv`: one row for each phase and element."""
    data = solution.dataset
    names = ("composition", "composition_stderr", "weight_percent", "weight_percent_stderr")
    tables = [data[name].transpose("phase", "element").values for name in names]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["phase", "element", "at%", "at% stderr", "wt%", "wt% stderr"])
        for a, phase in enumerate(phase_names(solution)):
            for e, element in enumerate(data["element"].values):
                writer.writerow([phase, element, *(f"{t[a, e]:.6g}" for t in tables)])


def print_composition(
    solution: Solution, out: Console, *, quantity: str = "composition", unit: str = "at%"
) -> None:
    """The composition of each phase as a table; the phases' shares of the scan below the names."""
    from ._terminal import table

    data = solution.dataset
    values = data[quantity].transpose("element", "phase").values
    errors = data[f"{quantity}_stderr"].transpose("element", "phase").values
    grid = table()
    grid.add_column(unit)
    for name, share in zip(phase_names(solution), phase_shares(solution), strict=True):
        grid.add_column(f"{name} ({share:.1f} %)", justify="right", no_wrap=True)
    for e, element in enumerate(data["element"].values):
        cells = [uncertain(v, s) for v, s in zip(values[e], errors[e], strict=True)]
        grid.add_row(str(element), *cells)
    out.print(grid)


def print_warnings(solution: Solution, out: Console) -> None:
    for warning in solution.warnings:
        out.print(f"Note: {as_sentence(warning)}", markup=False)


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
