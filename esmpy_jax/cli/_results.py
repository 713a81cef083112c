"""Compositions of a solution, in words, tables and CSV."""

from __future__ import annotations

import csv
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console
    from xarray import Dataset

    from ..inference import Solution


#: Percent, below which a number is that of an optimisation and not of a sample.
TRACE = 1e-6


def what_errors_hold(solution: Solution) -> str:
    """What standard errors of compositions leave out, and where it is told."""
    refined = error_name(solution, "composition") != "composition_stderr"
    return (
        f"The errors (±) are those of counting{' and of the refined parameters' * refined} only. "
        "The ranges in composition.csv, and in brackets in the report where they are wider, also "
        "hold a part of what mixing of the phases may change."
    )


def uncertain(value: float, error: float) -> str:
    """ "43.69 ± 0.13": two digits of the error, at least one decimal.

    One digit where the value is no larger than its error and two would need over three decimals.
    """
    if not math.isfinite(value):
        return "–"
    if not (math.isfinite(error) and error >= TRACE):
        return f"{value:.1g}" if TRACE <= abs(value) < 0.005 else f"{value:.2f}"
    first = -math.floor(math.log10(error))
    decimals = max(first + 1, 1) if abs(value) > error or first < 3 else first
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def share_of(solution: Solution) -> str:
    """What abundances and `phase_shares` are shares of: "atoms" or "counts"."""
    return str(solution.dataset["abundance"].attrs["share_of"])


def phase_shares(solution: Solution) -> np.ndarray:
    """Percent of each phase in the whole scan, of what abundances are shares of."""
    data = solution.dataset
    by_counts = share_of(solution) == "counts"
    amounts = data["fit_sum"].values.sum(0) if by_counts else data["H"].values.sum((1, 2))
    return 100 * amounts / max(float(amounts.sum()), 1e-300)


def phase_names(solution: Solution) -> list[str]:
    return [str(name) for name in solution.dataset["phase"].values]


def verdicts(solution: Solution) -> list[str]:
    """Of each phase "determined", "open" or "not known"; "" where nothing asked."""
    data = solution.dataset
    if "determined" not in data:
        return [""] * data.sizes["phase"]
    words = {1: "determined", 0: "open", -1: "not known"}
    return [words[int(known)] for known in data["determined"].values]


def mark(verdict: str) -> str:
    """What stands behind the name of a phase."""
    return "" if verdict in ("", "determined") else f" ({verdict})"


def formula(solution: Solution, phase: int, most: int = 4) -> str:
    """ "O 43.7, Mg 23.8, Si 22.8 at%": what a phase mostly consists of."""
    percent = solution.composition.values[:, phase]
    symbols = solution.dataset["element"].values
    order = [i for i in np.argsort(-percent, kind="stable")[:most] if percent[i] >= 0.5]
    if not order:
        return "no element of the sample"
    return ", ".join(f"{symbols[i]} {percent[i]:.1f}" for i in order) + " at%"


def deviance_per_channel(solution: Solution) -> float:
    """Deviance of the summed spectrum over the number of channels; about 1 for a perfect model."""
    from ..inference._warnings import deviance_per_channel

    data = solution.dataset
    return deviance_per_channel(data["counts_sum"].values, data["fit_sum"].values.sum(1))


def write_composition(solution: Solution, path: pathlib.Path) -> None:
    """`composition.csv`: one row for each phase and element; less than `TRACE` is zero.

    "at% limit" is the limit of detection.

    Last columns hold the errors with those of refined parameters, where there are any.
    """
    data = solution.dataset
    names = (
        "composition",
        "composition_stderr",
        "composition_low",
        "composition_high",
        "weight_percent",
        "weight_percent_stderr",
        "detection_limit",
    )
    tables = [data[name].transpose("phase", "element").values for name in names]
    totals = [data.get(f"{name}_stderr_total") for name in ("composition", "weight_percent")]
    last = [x.transpose("phase", "element").values for x in totals if x is not None]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        titles = ("at%", "at% stderr", "at% low", "at% high", "wt%", "wt% stderr", "at% limit")
        more = ("at% stderr total", "wt% stderr total")[: len(last)]
        writer.writerow(["phase", "element", *titles, "verdict", *more])
        for a, (phase, verdict) in enumerate(
            zip(phase_names(solution), verdicts(solution), strict=True)
        ):
            for e, element in enumerate(data["element"].values):
                numbers, errors = ([short(t[a, e]) for t in some] for some in (tables, last))
                writer.writerow([phase, element, *numbers, verdict, *errors])


def error_name(solution: Solution, quantity: str) -> str:
    """The variable with the errors of at% or wt%, with refined parameters' if there are any."""
    total = f"{quantity}_stderr_total"
    return total if total in solution.dataset else f"{quantity}_stderr"


def short(value: float) -> str:
    """Six digits, and zero for less than `TRACE`."""
    return "0" if abs(value) < TRACE else f"{value:.6g}"


def print_composition(
    solution: Solution, out: Console, *, quantity: str = "composition", unit: str = "at%"
) -> None:
    """The composition of each phase as a table; the phases' shares of the scan below the names.

    The errors are those with refined parameters, where there are any.
    """
    from ._terminal import table

    data = solution.dataset
    values = data[quantity].transpose("element", "phase").values
    errors = data[error_name(solution, quantity)].transpose("element", "phase").values
    grid = table()
    grid.add_column(f"\n{unit}")
    for name, share, verdict in zip(
        phase_names(solution), phase_shares(solution), verdicts(solution), strict=True
    ):
        header = f"{name}{mark(verdict)}\n{share:.1f} % of the {share_of(solution)}"
        grid.add_column(header, justify="right", no_wrap=True)
    for e, element in enumerate(data["element"].values):
        cells = [uncertain(v, s) for v, s in zip(values[e], errors[e], strict=True)]
        grid.add_row(str(element), *cells)
    out.print(grid)


def amount_sentence(data: Dataset) -> str:
    """How much there is, from which dose; "" where that is not known."""
    if "mass_thickness" not in data:
        return ""
    values = 1e6 * data["mass_thickness"].values
    source = data["mass_thickness"].attrs["from"]
    return (
        f"Mass-thickness {np.nanmean(values):.3g} µg/cm² on average along the beam, "
        f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}, by {source}. "
        "An error of one of these, of the efficiency or of cross sections scales all of it."
    )


def print_warnings(solution: Solution, out: Console) -> None:
    for warning in solution.warnings:
        out.print(f"Note: {as_sentence(warning)}", markup=False)


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
