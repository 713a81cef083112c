"""The numbers as a table in Markdown and as CSV."""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np
from judging import Found
from scenes import SCENES

COLUMNS = (
    "scene",
    "counts_per_pixel",
    "seed",
    "method",
    "phase",
    "map_correlation",
    "spectral_angle_deg",
    "at_percent_error",
    "iterations",
    "cpu_seconds",
)
Record = tuple[str, float, int, Found]


def as_markdown(
    records: Sequence[Record],
    checks: Sequence[Record],
    names: Sequence[str],
    methods: Sequence[str],
    run: tuple[int, int, float],
) -> str:
    """One table for each scene: means over the seeds, with the worst in parentheses."""
    size, n_seeds, minutes = run
    parts = [
        f"{size} × {size} pixels, 1980 channels, {n_seeds} seed{'s' * (n_seeds > 1)}; the run took "
        f"{minutes:.0f} minutes. Each cell: {' / '.join(names)}, mean over the seeds, the worst "
        "seed in parentheses. *Found*: seeds in which all three map correlations are at least 0.9."
    ]
    for scene in dict.fromkeys(r[0] for r in records):
        parts += ["", f"**{scene[0].upper()}{scene[1:]}** ({SCENES[scene][1]})", "", *_head()]
        for dose in dict.fromkeys(r[1] for r in records):
            for method in methods:
                found = [r[3] for r in records if r[:2] == (scene, dose) and r[3].method == method]
                if found:
                    parts.append(_row(f"{dose:g}", method, found))
        for _, dose, _, found in (c for c in checks if c[0] == scene):
            parts.append(_row(f"{dose:g}", f"{found.method}, 64 × 64 pixels", [found]))
    return "\n".join(parts)


def write_csv(path: pathlib.Path, records: Sequence[Record], names: Sequence[str]) -> None:
    """One row for each scene, dose, seed, method and phase."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for scene, dose, seed, found in records:
            for a, name in enumerate(names):
                row = [scene, f"{dose:g}", seed, found.method, name]
                row += [f"{found.correlation[a]:.4f}", f"{found.angle[a]:.3f}"]
                row += [f"{found.error[a]:.3f}", found.steps, f"{found.seconds:.1f}"]
                writer.writerow(row)


def _head() -> list[str]:
    return [
        "| counts per pixel | method | map correlation | spectral angle (°) | at% error | found "
        "| steps | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]


def _row(dose: str, method: str, found: Sequence[Found]) -> str:
    one = len(found) == 1
    cells = []
    for field, form, worst in (
        ("correlation", ".3f", min),
        ("angle", ".1f", max),
        ("error", ".2f", max),
    ):
        values = np.array([getattr(f, field) for f in found])
        means = [format(v, form) for v in values.mean(0)]
        if not one:
            means = [
                f"{m} ({worst(column):{form}})" for m, column in zip(means, values.T, strict=True)
            ]
        cells.append(" / ".join(means))
    number = f"{sum(f.found for f in found)} of {len(found)}"
    steps = f"{np.median([f.steps for f in found]):.0f}"
    seconds = f"{np.median([f.seconds for f in found]):.1f}"
    return "| " + " | ".join([dose, method, *cells, number, steps, seconds]) + " |"
