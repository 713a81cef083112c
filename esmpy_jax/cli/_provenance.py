"""Sections of the report: where the inputs came from, and how to repeat the fit."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

from ._html import section
from ._info import value_and_unit

if TYPE_CHECKING:
    from ..inference import Provenance, Solution

_text = html.escape

_NAMES = {"elements": "elements listed in the file"}


def inputs(solution: Solution) -> str:
    """The section of what went into the fit, and whether it was given, read or a default."""
    rows = []
    for label, symbols in _columns(solution):
        rows.append(_input_row(label, ", ".join(symbols), "", "given"))
    for name, entry in solution.parameters.items():
        if name == "reader":
            continue
        value = value_and_unit(entry)
        unit = entry.unit if entry.value is not None else ""
        if unit:
            value = value.removesuffix(unit).strip()
        rows.append(_input_row(_NAMES.get(name, name), value, unit, _source(entry)))
    table = (
        '<div class="scroll"><table class="inputs"><thead><tr><th>quantity</th>'
        '<th style="text-align:right">value</th><th>unit</th><th>source</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return section(
        "Inputs, and where each came from",
        "Highlighted: a default stands in for what was neither given nor in the file.",
        table,
    )


def _source(entry: Provenance) -> str:
    return "missing" if entry.value is None else entry.source


def _input_row(name: str, value: str, unit: str, source: str) -> str:
    kind = source if source in ("given", "default", "missing") else "read"
    return (
        f'<tr class="{kind}"><td>{_text(name)}</td><td>{_text(value)}</td><td>{_text(unit)}</td>'
        f'<td><span class="pill {kind}">{_text(source)}</span></td></tr>'
    )


def _columns(solution: Solution) -> list[tuple[str, list[str]]]:
    """The elements of the sample, and the labels of the other columns by kind."""
    columns = json.loads(solution.dataset.attrs["columns"])
    free = [
        c["label"] for c in columns if c["kind"] == "element" and not c.get("in_composition", True)
    ]
    groups = [
        ("elements of the sample", [str(s) for s in solution.dataset["element"].values]),
        ("lines free of the composition", free),
        ("stray lines", [c["label"] for c in columns if c["kind"] == "stray"]),
        ("other columns", [c["label"] for c in columns if c["kind"] == "custom"]),
    ]
    return [(label, names) for label, names in groups if names]


def repetition(solution: Solution) -> str:
    """The section of the command and the settings."""
    data = solution.dataset
    command = str(data.attrs.get("command", ""))
    settings = json.loads(data.attrs["settings"]) | {
        "seed": data.attrs.get("seed", ""),
        "objective at the end": f"{solution.objective:.8g} nats",
        "program": f"esmpy_jax {data.attrs.get('program_version', '')}",
        "JAX": data.attrs.get("jax_version", ""),
        "precision": data.attrs.get("precision", ""),
        "device": data.attrs.get("device", ""),
    }
    rows = "".join(
        f"<tr><td>{_text(name.replace('_', ' '))}</td><td>{_text(str(value))}</td></tr>"
        for name, value in settings.items()
        if str(value) not in ("", "None") and not isinstance(value, dict)
    )
    return section(
        "To repeat this",
        "The command as it was given, and every setting behind it.",
        (f"<pre>{_text(command)}</pre>" if command else "")
        + f'<div class="scroll"><table>{rows}</table></div>',
    )
