"""What held-out counts chose, and what the counts leave open, in words and for the report."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ._results import phase_names, verdicts

if TYPE_CHECKING:
    from ..inference import Solution


def settings(solution: Solution) -> dict[str, Any]:
    """The settings of the fit as they were stored."""
    return json.loads(solution.dataset.attrs["settings"])


def choice_sentences(solution: Solution) -> list[str]:
    """Bin size, purity, smoothness, absent phases and starts; none where nothing was chosen."""
    chosen = settings(solution).get("choices")
    if not chosen:
        return []
    factor = chosen["factor"]
    out = [
        f"Spectra from bins of {factor} × {factor} pixels with a purity of {chosen['purity']:g}."
    ]
    if chosen["smoothness"] is not None:
        prior = {"laplacian": "Laplacian smoothness"}.get(chosen["prior"], "total variation")
        out.append(f"Maps with a {prior} of strength {chosen['smoothness']:.3g}.")
    if chosen["absent_below"] > 0:
        out.append(
            "The spectra were fitted again to pixels pooled by their maps; phases whose share of a "
            f"pool is below {chosen['absent_below']:g} standard errors of it were taken as absent."
        )
    starts = np.asarray(chosen["starts"])
    near = int((starts <= starts.min() + 1).sum())
    out.append(f"{near} of {len(starts)} starts came to the same solution within 1 nat.")
    return out


def number_sentences(solution: Solution) -> list[str]:
    """The evidence for each phase where their number was found; none where it was given."""
    number = settings(solution).get("phase_number")
    if not number:
        return []
    gains = [
        f"{n} phases predict the held-out counts by {gain:.0f} ± {error:.0f} nats "
        f"{'better' if gain > 0 else 'worse'} than {n - 1}".replace("-", "")
        for n, gain, error in zip(
            number["tried"][1:], number["gains"][1:], number["gain_errors"][1:], strict=True
        )
    ]
    n = number["n_phases"]
    return [f"{n} {'phase was' if n == 1 else 'phases were'} taken.", *(f"{g}." for g in gains)]


def _percent(share: float) -> str:
    """Whole percent, with a minus sign and without a negative zero."""
    whole = round(100 * share)
    return f"−{-whole}" if whole < 0 else f"{whole}"


def ambiguity_table(solution: Solution) -> str:
    """HTML: for each phase its nearly pure pixels, the mixtures that fit as well, the verdict."""
    stored = json.loads(str(solution.dataset.attrs.get("ambiguities", "[]")))
    if not stored:
        return ""
    names = [html.escape(name) for name in phase_names(solution)]
    elements = [str(e) for e in solution.dataset["element"].values]
    rows, told = [], verdicts(solution)
    for a, phase in enumerate(stored):
        mixed, less, hidden = (
            ", ".join(
                f"{100 * t:.0f} % {names[b]}"
                for b, t in enumerate(phase.get(kind, ()))
                if b != a and t >= 0.005
            )
            for kind in ("mixed_in", "taken_away", "hidden")
        )
        unsettled = ", ".join(
            f"{_percent(low)} to {_percent(high)} % {names[b]}"
            for b, (low, high) in enumerate(phase["unsettled"])
            if b != a and _percent(low) != _percent(high)
        )
        cells = (
            names[a],
            f"{100 * phase['pure_counts']:.1f} %",
            mixed or "none",
            less or "–",
            f"{100 * phase['anchor_counts']:.1f} %" if phase["anchor_counts"] else "–",
            unsettled or "–",
            ", ".join(elements[i] for i in phase["lacking"]) or "–",
            hidden or "–",
            told[a] if told[a] == "determined" else f"<b>{told[a]}</b>",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = (
        "",
        "counts in nearly pure pixels",
        "fits as well with up to … mixed in",
        "… or taken away",
        "counts in the purest that are alike",
        "these, taken for pure, leave open",
        "lacks",
        "if they are not pure, everywhere up to … inside",
        "composition",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
