"""`report.html`: one page with all that a reader of the result needs, and nothing to load."""

from __future__ import annotations

import datetime
import html
import pathlib
import string
from typing import TYPE_CHECKING

from ._choices import ambiguity_table, choice_sentences, number_sentences
from ._html import figure, section
from ._provenance import inputs, repetition
from ._refined import (
    parameter_table,
    refined_sentence,
    sensitivity_table,
)
from ._results import (
    amount_sentence,
    as_sentence,
    deviance_per_channel,
    error_name,
    formula,
    mark,
    phase_names,
    phase_shares,
    share_of,
    uncertain,
    verdicts,
    what_errors_hold,
)
from ._truth import headings

if TYPE_CHECKING:
    from ..inference import Solution
    from ._refined import Refined
    from ._truth import Comparison

_TEMPLATE = pathlib.Path(__file__).with_name("report.html")
_text = html.escape

#: The range of a composition is shown where it is wider than that of counting by this factor.
_WIDER = 1.25


def report(
    solution: Solution,
    pictures: dict[str, bytes],
    truth: Comparison | None,
    refined: Refined | None = None,
) -> str:
    """The page of a solution, with its figures by name as PNG files."""
    data = solution.dataset
    sections = [
        section(
            "Where the phases are",
            f"Share of each phase in the {share_of(solution)} of each pixel, from 0 to 1.",
            figure(pictures, "maps.png", "Abundance map of each phase"),
        )
        if "maps.png" in pictures
        else "",
        section(
            "What they consist of",
            "Atomic and weight percent with one standard error, which carries the noise of the "
            f"counts in spectra and maps together{_physics(solution)}, but no error of cross "
            "sections or of the model. Grey: less than two standard errors.",
            _composition(solution),
            f"<p>{_text(what_errors_hold(solution))}</p>",
            figure(pictures, "composition.png", "At% of each element in each phase", narrow=True),
        ),
        _amounts(solution, pictures),
        _truth(solution, truth) if truth is not None else "",
        _refinement(solution, pictures, refined) if refined is not None else "",
        section(
            "The summed spectrum and the fit",
            "Counts of the whole scan, the fit, each phase's part of it, and below what is left, "
            "in standard deviations of the counts.",
            figure(pictures, "spectra.png", "Summed spectrum with the fit and its residuals"),
        ),
        section(
            "The spectrum of each phase",
            "Each phase's own spectrum as found, normalised to one, with the lines that show.",
            figure(pictures, "phase_spectra.png", "Spectrum of each phase with labelled lines"),
        )
        if "phase_spectra.png" in pictures
        else "",
        _warnings(solution),
        _choices(solution, pictures),
        inputs(solution),
        section(
            "The columns of G",
            "What an atom of each element, each stray line family and the continuum look like on "
            "this detector; the phase spectra are sums of these.",
            figure(pictures, "basis.png", "The columns of G"),
        ),
        _convergence(pictures),
        repetition(solution),
    ]
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(
        title=_text(_title(solution)),
        kicker=_text(_kicker(solution)),
        verdict=_verdict(solution),
        phases="\n".join(_phase_lines(solution)),
        facts="\n".join(_facts(solution)),
        sections="\n".join(s for s in sections if s),
        footer=_text(
            f"Made by esmpy_jax {data.attrs.get('program_version', '')} on "
            f"{datetime.datetime.now():%Y-%m-%d at %H:%M}."
        ),
    )


def _physics(solution: Solution) -> str:
    """What else the errors carry."""
    refined = error_name(solution, "composition") != "composition_stderr"
    return " and the errors of the refined parameters" if refined else ""


def _kicker(solution: Solution) -> str:
    title = str(solution.dataset.attrs.get("title", ""))
    known = title and title != _title(solution)
    return "Phases of a spectrum image" + (f" · {title}" if known else "")


def _title(solution: Solution) -> str:
    """The file's name without its ending, since titles in files often say no more than EDX."""
    file = solution.parameters.get("file")
    if file is not None and file.value:
        return pathlib.Path(str(file.value)).stem
    return str(solution.dataset.attrs.get("title") or "Spectrum image")


def _verdict(solution: Solution) -> str:
    pill = (
        '<span class="pill good">converged</span>'
        if solution.converged
        else '<span class="pill warn">not converged</span>'
    )
    n = len(solution.warnings)
    notes = f'<a class="pill warn" href="#notes">{n} note{"s" * (n > 1)}</a>' if n else ""
    count = len(phase_names(solution))
    found = f"{count} phase{'s' * (count > 1)} found."
    sentence = found if solution.converged else f"{found} {as_sentence(solution.result)}"
    return f"{pill} <span>{_text(sentence)}</span> {notes}"


def _phase_lines(solution: Solution) -> list[str]:
    return [
        f'<li><span class="square" style="--c:{_colour(a)}"></span><b>{_text(name)}</b>, '
        f"{share:.1f} % of the {share_of(solution)} in the scan: {_text(formula(solution, a))}</li>"
        for a, (name, share) in enumerate(
            zip(phase_names(solution), phase_shares(solution), strict=True)
        )
    ]


def _facts(solution: Solution) -> list[str]:
    data = solution.dataset
    ny, nx = int(data.sizes["y"]), int(data.sizes["x"])
    counts = data["pixel_counts"].values.astype(float)
    energy = data["energy"].values
    facts = (
        ("pixels", f"{ny} × {nx}", _field(solution)),
        ("counts per pixel", f"{counts.mean():.3g}", f"{counts.sum():,.0f} in all"),
        ("channels", f"{len(energy)}", f"{energy[0]:.3g} to {energy[-1]:.4g} keV"),
        ("misfit", f"{deviance_per_channel(solution):.3g}", "deviance per channel; ideal: 1"),
        ("steps", f"{data.attrs['n_steps']}", f"{data.attrs['seconds']:.0f} s"),
    )
    return [
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(more)}</small></dd></div>"
        for name, value, more in facts
    ]


def _field(solution: Solution) -> str:
    """ "512 × 512 nm", or how many there are."""
    data = solution.dataset
    unit = str(data["x"].attrs.get("units", "px"))
    sides = []
    for name in ("y", "x"):
        at = data[name].values
        step = float(at[1] - at[0]) if len(at) > 1 else 0.0
        sides.append(step * len(at))
    if unit in ("", "px") or min(sides) <= 0:
        return f"{data.sizes['y'] * data.sizes['x']:,} in all"
    return f"{sides[0]:.4g} × {sides[1]:.4g} {unit}"


def _composition(solution: Solution) -> str:
    data = solution.dataset
    names, shares = phase_names(solution), phase_shares(solution)
    head = "".join(
        f'<th colspan="2" class="gap"><span class="square" style="--c:{_colour(a)}"></span>'
        f"<b>{_text(name)}</b>{mark(verdict)}</th>"
        for a, (name, verdict) in enumerate(zip(names, verdicts(solution), strict=True))
    )
    second = '<th class="gap">at%</th><th>wt%</th>' * len(names)
    kinds = [
        data[name].transpose("element", "phase").values
        for name in (
            "composition",
            error_name(solution, "composition"),
            "weight_percent",
            error_name(solution, "weight_percent"),
            "composition_low",
            "composition_high",
        )
    ]
    rows = []
    for e, element in enumerate(data["element"].values):
        cells = []
        for a in range(len(names)):
            at, at_error, wt, wt_error, low, high = (float(kind[e, a]) for kind in kinds)
            bar = f"--c:{_colour(a)};--p:{min(max(at, 0), 100):.1f}%"
            digits = 0 if high - low >= 10 else 1
            wide = high - low > _WIDER * 2 * 1.96 * at_error + 10.0**-digits
            span = f"{low:.{digits}f} to {high:.{digits}f}" if wide else ""
            cells.append(_cell(at, at_error, f'class="gap bar" style="{bar}"', span))
            cells.append(_cell(wt, wt_error))
        rows.append(f"<tr><td>{_text(str(element))}</td>{''.join(cells)}</tr>")
    foot = "".join(f'<td colspan="2" class="gap">{share:.1f} %</td>' for share in shares)
    return (
        '<div class="scroll"><table class="composition">'
        f'<thead><tr><th></th>{head}</tr><tr class="second"><th></th>{second}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>"
        f"<tfoot><tr><td>share of the {share_of(solution)}</td>{foot}</tr></tfoot></table></div>"
    )


def _cell(value: float, error: float, attributes: str = "", span: str = "") -> str:
    number, _, spread = uncertain(value, error).partition(" ± ")
    faint = ' class="faint"' if spread and value < 2 * error else ""
    more = f' <span class="error">± {spread}</span>' if spread else ""
    more += f' <small class="error">({span})</small>' if span else ""
    return f"<td {attributes}><span{faint}>{number}</span>{more}</td>"


def _truth(solution: Solution, truth: Comparison) -> str:
    data = solution.dataset
    values = data["composition"].transpose("element", "phase").values
    errors = data["composition_stderr"].transpose("element", "phase").values
    n = len(truth.names)
    head = "".join(
        f'<th colspan="2" class="gap"><span class="square" style="--c:{_colour(a)}"></span>'
        f"<b>{_text(name)}</b></th>"
        for a, name in enumerate(headings(solution, truth))
    )
    rows = []
    for e, element in enumerate(data["element"].values):
        cells = "".join(
            f'<td class="gap">{truth.percent[e, a]:.1f}</td>'
            + _cell(float(values[e, a]), float(errors[e, a]))
            for a in range(n)
        )
        rows.append(f"<tr><td>{_text(str(element))}</td>{cells}</tr>")

    def foot(label: str, numbers: list[str]) -> str:
        cells = "".join(f'<td colspan="2" class="gap">{number}</td>' for number in numbers)
        return f"<tr><td>{label}</td>{cells}</tr>"

    second = '<th class="gap">truth</th><th>found</th>' * n
    table = (
        '<div class="scroll"><table class="composition">'
        f'<thead><tr><th></th>{head}</tr><tr class="second"><th></th>{second}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody><tfoot>"
        + foot("correlation of the maps", [f"{c:.3f}" for c in truth.correlation])
        + foot("angle between the spectra", [f"{x:.2f}°" for x in truth.angle])
        + "</tfoot></table></div>"
    )
    return section(
        "Against the truth",
        "The image is simulated, so what it was made of is known: at% in truth and as found. "
        + what_errors_hold(solution),
        table,
    )


def _refinement(solution: Solution, pictures: dict[str, bytes], refined: Refined) -> str:
    return section(
        "What was refined",
        "Physical parameters as they were and as the counts of the whole scan correct them, with "
        "one standard error, which carries counts and prior. The phases were fitted with the "
        "refined ones.",
        f"<p>{_text(refined_sentence(refined))}</p>",
        f'<div class="scroll">{parameter_table(refined)}</div>',
        figure(
            pictures, "refinement.png", "Summed spectrum with the fits before and after",
            caption="The summed spectrum as of one phase, before and after",
        ),
        "<h3>What the parameters do to the compositions</h3>",
        "<p>Change of at% with each parameter, refined or not: its slope times the step that is "
        "named. Less than 0.005 at% is left blank. The last columns of composition.csv have "
        "the errors of counting and of the refined parameters together.</p>",
        f'<div class="scroll">{sensitivity_table(solution)}</div>',
    )  # fmt: skip


def _warnings(solution: Solution) -> str:
    if not solution.warnings:
        return ""
    items = "".join(f"<li>{_text(as_sentence(w))}</li>" for w in solution.warnings)
    return section(
        "Notes", "What to know before believing the numbers.", f'<ul class="notes">{items}</ul>',
        anchor="notes",
    )  # fmt: skip


def _amounts(solution: Solution, pictures: dict[str, bytes]) -> str:
    if "mass_thickness.png" not in pictures:
        return ""
    return section(
        "How much there is",
        amount_sentence(solution.dataset),
        figure(pictures, "mass_thickness.png", "Map of the mass-thickness", narrow=True),
    )


def _choices(solution: Solution, pictures: dict[str, bytes]) -> str:
    words = [*number_sentences(solution), *choice_sentences(solution)]
    table = ambiguity_table(solution)
    if not words and not table:
        return ""
    body = f"<p>{_text(' '.join(words))}</p>{table}"
    if "phase_number.png" in pictures:
        caption = "Held-out loss against the number of phases"
        body += figure(pictures, "phase_number.png", caption, caption=caption)
    return section(
        "What the counts decide",
        "Settings were chosen by counts held out of the fit. The table says which mixtures of the "
        "phases fit the counts as well (within 95 %, one phase mixed with one other at a time), "
        "and what of other phases the purest pixels, taken for pure, leave open. That they are "
        "pure is an assumption, of the verdict, too: a phase that always holds a part of another "
        "one makes the same counts as a pure one of another composition. The last column but one "
        "bounds that part: no more of another phase can be inside than there is of any of its "
        "elements.",
        body,
    )


def _convergence(pictures: dict[str, bytes]) -> str:
    parts = [
        figure(pictures, name, caption, caption=caption)
        for name, caption in (
            ("convergence_binned.png", "Binned or pooled pixels: spectra"),
            ("convergence.png", "Full image"),
        )
        if name in pictures
    ]
    return section(
        "Convergence",
        "How far the objective (negative log-likelihood and penalties) was above its lowest value.",
        f'<div class="pair">{"".join(parts)}</div>',
    )


def _colour(phase: int) -> str:
    from ..plot import phase_colour

    return phase_colour(phase)
