"""The numbers as CSV, one table in Markdown, and the list of failures."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from programs import ESPM, NMF, OURS, Fit
from scenes import SCENES

COLUMNS = (
    "scene",
    "counts_per_pixel",
    "seed",
    "program",
    "phase",
    "map_correlation",
    "spectral_angle_deg",
    "at_percent_error",
    "cpu_seconds",
    "iterations",
    "phases_found",
    "profile_peak_ratio",
    "note",
)
DEFAULTED = "stands in for it"  # the model takes the default detector on purpose
LEAST_CORRELATION, MOST_DEGREES = 0.9, 10.0
_FIELDS = (("correlation", ".3f", min), ("angle", ".1f", max), ("error", ".2f", max))
Ratios = Mapping[tuple[str, float, int, str], float]


def names_of(scene: str) -> list[str]:
    return [phase.name for phase in SCENES[scene].phases]


def write_csv(path: pathlib.Path, fits: Sequence[Fit], ratios: Ratios) -> None:
    """One row for each scene, dose, seed, program and phase."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for fit in fits:
            found = fit.found
            ratio = ratios.get((fit.scene, fit.dose, fit.seed, found.method))
            for a, name in enumerate(names_of(fit.scene)):
                row = [fit.scene, f"{fit.dose:g}", fit.seed, found.method, name]
                row += [f"{found.correlation[a]:.4f}", f"{found.angle[a]:.3f}"]
                row += [f"{found.error[a]:.3f}", f"{found.seconds:.1f}", found.steps]
                row += ["" if fit.phases_found is None else fit.phases_found]
                row += ["" if ratio is None else f"{ratio:.3f}", fit.note]
                writer.writerow(row)


def as_markdown(
    fits: Sequence[Fit], ratios: Ratios, about: str, cap: float, no_espm: str | None
) -> str:
    """The table, what happened at the boundary, failures and warnings."""
    parts = [
        about + " Phases in the order of the list of scenes; means over the seeds, and in "
        "parentheses the worst phase of the worst seed. Seconds are the median of CPU time.",
        "",
        "| scene | counts per pixel | program | seeds | map correlation | spectral angle (°) "
        "| at% error | CPU s | phases found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cells = dict.fromkeys((f.scene, f.dose) for f in fits)
    order = list(SCENES)
    for scene, dose in sorted(cells, key=lambda c: (order.index(c[0]), c[1])):
        for program in (OURS, NMF, ESPM):
            group = [f for f in fits if (f.scene, f.dose, f.found.method) == (scene, dose, program)]
            if group:
                parts.append(_row(group))
    if any(f.note for f in fits):
        parts += ["", f"\\* stopped after {cap:g} s of wall time, before espm's own tests did."]
    if no_espm is not None:
        parts += ["", no_espm]
    if ratios:
        parts += ["", *_peaks(ratios)]
    return "\n".join([*parts, "", *_failures(fits), "", *_warned(fits)])


def _row(group: Sequence[Fit]) -> str:
    first, cells = group[0], []
    for field, form, worst in _FIELDS:
        values = np.array([getattr(f.found, field) for f in group])
        means = " / ".join(format(v, form) for v in values.mean(0))
        cells.append(f"{means} ({worst(values.ravel()):{form}})")
    seconds = f"{np.median([f.found.seconds for f in group]):.1f}"
    counted = [f.phases_found for f in group if f.phases_found is not None]
    program = first.found.method + ("\\*" if any(f.note for f in group) else "")
    row = [first.scene, f"{first.dose:g}", program, str(len(group)), *cells, seconds]
    return "| " + " | ".join([*row, ", ".join(map(str, counted)) or "–"]) + " |"


def _peaks(ratios: Ratios) -> list[str]:
    """Found over true peak of the Ca profile."""
    out = ["Peak of the Ca profile across the grain boundary, found over true:"]
    for program in dict.fromkeys(key[3] for key in ratios):
        values = [f"{v:.2f}" for key, v in ratios.items() if key[3] == program]
        out.append(f"{program} {', '.join(values)} (a seed each).")
    return [" ".join(out)]


def _failures(fits: Sequence[Fit]) -> list[str]:
    out = []
    programs, scenes = (OURS, NMF, ESPM), list(SCENES)
    for fit in sorted(
        fits, key=lambda f: (programs.index(f.found.method), scenes.index(f.scene), f.dose, f.seed)
    ):
        for a, name in enumerate(names_of(fit.scene)):
            r, angle = fit.found.correlation[a], fit.found.angle[a]
            # a comparison that is false for NaN counts it as a failure
            if not (r >= LEAST_CORRELATION and angle <= MOST_DEGREES):
                out.append(
                    f"- {fit.found.method}, {fit.scene}, {fit.dose:g} counts, seed {fit.seed}, "
                    f"{name}: correlation {r:.3f}, {angle:.1f}°, {fit.found.error[a]:.2f} at%"
                )
    phases = sum(len(names_of(f.scene)) for f in fits)
    head = (
        f"**Failures** (a map correlation below {LEAST_CORRELATION:g} or an angle above "
        f"{MOST_DEGREES:g}°): {len(out)} of {phases} phases."
    )
    return [head, "", *out] if out else [head]


def _warned(fits: Sequence[Fit]) -> list[str]:
    """In how many fits of each cell this program itself said that something may be wrong."""
    cells: dict[str, list[bool]] = {}
    for fit in fits:
        if fit.found.method == OURS:
            cells.setdefault(f"{fit.scene} at {fit.dose:g}", []).append(
                any(DEFAULTED not in w for w in fit.warnings)
            )
    said = [f"{name}: {sum(w)} of {len(w)}" for name, w in cells.items() if any(w)]
    head = "Fits of this program that came with a warning (other than of defaults)"
    return [f"{head}: {'; '.join(said) or 'none'}."]
