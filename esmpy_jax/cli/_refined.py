"""Refined parameters in words, tables and CSV, and what they do to compositions."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import math
import pathlib
from typing import TYPE_CHECKING, Any

from ._results import short

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from ..inference import RefinedParameter, Refinement, Solution, SpectrumImage

_text = html.escape

#: Change in at% below which the report leaves a place blank.
_NO_CHANGE = 0.005

#: A value below this is written with a power of ten.
_SMALL = 1e-3

_TITLES = ("before", "after", "unit", "prior", "")
_OPEN = "not determined"


@dataclasses.dataclass(frozen=True)
class Refined:
    """A refinement, with the sentences on what was left out of it."""

    refinement: Refinement
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of it."""
        return (*self.left_out, *self.refinement.notes)


def with_refined(solution: Solution, image: SpectrumImage, refined: Refined) -> Solution:
    """The solution with the refined parameters and what their errors do to its compositions.

    The attribute `refinement` holds them as JSON, the warnings what a reader should know of them;
    the variables are those of `propagate`.
    """
    from ..inference import Solution, propagate

    refinement = refined.refinement
    changes = propagate(image, refinement.model, solution, refinement)
    ends = _with_physics(solution, changes["composition_stderr_physics"].values)
    new = changes.drop_vars([name for name in changes.data_vars if name in solution.dataset])
    record = {name: _record(p) for name, p in refinement.parameters.items()}
    warnings = list(dict.fromkeys([*solution.warnings, *refined.notes]))
    return Solution(
        solution.dataset.assign({**new.data_vars, **ends}).assign_attrs(
            refinement=json.dumps(record), warnings=json.dumps(warnings)
        )
    )


def _with_physics(solution: Solution, physics: np.ndarray) -> dict[str, Any]:
    """The ranges of at%, each side longer by 1.96 errors of the physics, in squares."""
    import numpy as np

    data, found = solution.dataset, {}
    for name in ("composition_low", "composition_high"):
        away = data[name] - data["composition"]
        sign = -1 if name.endswith("low") else 1
        longer = data["composition"] + sign * np.hypot(away, 1.96 * physics)
        found[name] = longer.clip(0, 100).assign_attrs(data[name].attrs)
    return found


def _record(parameter: RefinedParameter) -> dict[str, Any]:
    return {
        "before": None if math.isnan(parameter.before) else parameter.before,
        "after": parameter.after,
        "stderr": parameter.stderr,
        "unit": parameter.unit,
        "prior": parameter.prior,
        "determined": parameter.determined,
    }


def measured(value: float, error: float) -> str:
    """ "0.19997 ± 0.00017": two digits of the error, and "(4.00 ± 0.12)e-05" for a small value."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    power = 0
    if 0 < abs(value) < _SMALL and error < _SMALL:
        power = math.floor(math.log10(max(abs(value), error)))
    value, error = value / 10.0**power, error / 10.0**power
    decimals = max(1 - math.floor(math.log10(error)), 0)
    value = round(value, decimals) + 0.0  # no negative zero
    both = f"{value:.{decimals}f} ± {error:.{decimals}f}"
    return f"({both})e{power:+03d}" if power else both


def _cells(refined: Refined) -> list[tuple[str, ...]]:
    """Name and the `_TITLES` of each parameter."""
    return [
        (
            name,
            "none" if math.isnan(p.before) else f"{p.before:.5g}",
            measured(p.after, p.stderr),
            p.unit,
            p.prior,
            "" if p.determined else _OPEN,
        )
        for name, p in refined.refinement.parameters.items()
    ]


def refined_sentence(refined: Refined) -> str:
    """The deviance per degree of freedom, before and after."""
    r = refined.refinement
    before = r.deviance_before / max(r.dof_before, 1)
    after = r.deviance_after / max(r.dof, 1)
    return f"Deviance per degree of freedom: {before:.4g} → {after:.4g}."


def print_refined(refined: Refined, out: Console) -> None:
    """The parameters as a table, and how well the summed spectrum is fitted."""
    from ._terminal import table

    grid = table()
    grid.add_column("parameter", no_wrap=True)
    for title in _TITLES:
        right = "right" if title == "before" else "left"
        grid.add_column(title, justify=right, no_wrap=title != "prior")
    for cells in _cells(refined):
        grid.add_row(*cells)
    out.print(grid)
    out.print()
    out.print(refined_sentence(refined), markup=False)
    out.print()


def write_parameters(refined: Refined, path: pathlib.Path) -> None:
    """`parameters.csv`: one row for each refined parameter."""
    titles = ("before", "after", "stderr", "unit", "prior", "prior sds from its median")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *titles, "determined"])
        for name, p in refined.refinement.parameters.items():
            numbers = ["none" if math.isnan(x) else f"{x:.9g}" for x in (p.before, p.after)]
            rest = [f"{p.stderr:.6g}", p.unit, p.prior, f"{p.coordinate:.6g}"]
            writer.writerow([name, *numbers, *rest, "yes" if p.determined else "no"])


def write_sensitivity(solution: Solution, path: pathlib.Path) -> None:
    """`sensitivity.csv`: what a step of each parameter does to each at%."""
    data = solution.dataset
    change = data["composition_sensitivity"].transpose("parameter", "phase", "element").values
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["parameter", "step", "phase", "element", "change of at%"])
        for k, name in enumerate(data["parameter"].values):
            step = str(data["step"].values[k])
            for a, phase in enumerate(data["phase"].values):
                for e, element in enumerate(data["element"].values):
                    writer.writerow([name, step, phase, element, short(change[k, a, e])])


def parameter_table(refined: Refined) -> str:
    """HTML: the refined parameters."""
    head = "".join(f"<th>{title}</th>" for title in ("parameter", *_TITLES))
    rows = []
    for *cells, mark in _cells(refined):
        words = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        pill = f'<span class="pill warn">{mark}</span>' if mark else ""
        rows.append(f"<tr>{words}<td>{pill}</td></tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def sensitivity_table(solution: Solution) -> str:
    """HTML: what a step of each parameter does to the at% of each phase."""
    data = solution.dataset
    change = data["composition_sensitivity"].transpose("parameter", "phase", "element").values
    phases = [_text(str(name)) for name in data["phase"].values]
    head = "".join(f"<th>{_text(str(element))}</th>" for element in data["element"].values)
    rows = []
    for k, name in enumerate(data["parameter"].values):
        cells = [[_signed(float(x)) for x in percent] for percent in change[k]]
        shown = [a for a, texts in enumerate(cells) if any(texts)]
        first = "".join(
            f'<td rowspan="{max(len(shown), 1)}">{_text(str(text))}</td>'
            for text in (name, data["step"].values[k])
        )
        for a in shown:
            texts = "".join(f"<td>{text}</td>" for text in cells[a])
            rows.append(f"<tr>{first if a == shown[0] else ''}<td>{phases[a]}</td>{texts}</tr>")
        if not shown:
            rest = f'<td colspan="{1 + change.shape[2]}" class="faint">nothing</td>'
            rows.append(f"<tr>{first}{rest}</tr>")
    return (
        "<table><thead><tr><th>parameter</th><th>step</th><th>phase</th>"
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _signed(change: float) -> str:
    """ "+0.31", "−1.20", and nothing for almost nothing."""
    if not abs(change) >= _NO_CHANGE:
        return ""
    return f"{change:+.2f}".replace("-", "−")
