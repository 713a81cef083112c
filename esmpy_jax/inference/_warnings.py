"""What a reader of a result should know before believing its numbers, as sentences."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from ..model import AnyModel, efficiency_names
from ..physics._stacked_axis import detector_numbers, of_detector
from ..solve import RESULTS, Factorisation
from . import _areal
from ._identifiability import Ambiguity
from ._image import Provenance, SpectrumImage

#: Standard error of an atomic fraction above which the user is warned.
VAGUE = 0.2

#: Deviance per channel of the summed spectrum above which the user is warned.
POOR = 2.0

#: Residuals named at most, each at least so many standard deviations of its channel's counts.
_NAMED, _CLEAR = 3, 3.0


def sentence(fit: Factorisation) -> str:
    """How one fit ended."""
    return RESULTS[fit.result] or str(fit.result)


def ending(fine: Factorisation, judged: Factorisation, steps_argument: str) -> str:
    """How the fit ended; what went wrong in that of the spectra goes first."""
    if judged is fine or judged.converged:
        return sentence(fine)
    where = "The fit of the spectra, to binned or pooled pixels, did not converge"
    if judged.result == RESULTS.max_steps_reached:
        return f"{where} in {judged.steps} steps; raise {steps_argument} above that."
    if judged.result == RESULTS.basis_moving:
        return (
            f"{where}: the absorption still follows the compositions; check thickness and "
            "density, or ask for fewer phases."
        )
    return f"{where}: {sentence(judged)}"


def of_convergence(fine: Factorisation, judged: Factorisation, ended: str) -> list[str]:
    """Which of the two fits did not converge, with `ended` from `ending`."""
    out = [] if judged is fine or judged.converged else [ended]
    return out if fine.converged else [*out, f"The fit did not converge: {sentence(fine)}"]


def of_inputs(image: SpectrumImage, model: AnyModel) -> list[str]:
    """What stood in for quantities that nobody gave, and pixels that hold nothing."""
    out = []
    straight = [model.named("energy_quadratic", i) for i in range(len(model.parts))]
    untold = {*straight, *efficiency_names(model)}
    for name, entry in model.parameters().items():
        # the layers are told with the efficiency, and a straight axis is no stand-in
        if entry.source != "default" or name in untold:
            continue
        if name == "mass_thickness":
            out.append(
                "Thickness and density were not given, so absorption in the sample is neglected; "
                "light elements come out too low."
            )
        elif entry.value is not None:
            value = entry.value if isinstance(entry.value, str) else f"{entry.value:.4g}"
            words = f"{value} {entry.unit}".strip()
            out.append(
                f"The {in_words(name)} was neither given nor in the file: {words} stands in for it."
            )
    out += unknown_tilts(image, model)
    empty = int((np.asarray(image.counts.pixel_totals()) <= 0).sum())
    if empty == 1:
        out.append("1 pixel holds no counts; its abundances are not determined by data.")
    elif empty:
        out.append(f"{empty} pixels hold no counts; their abundances are not determined by data.")
    return out


def of_dose(
    model: AnyModel,
    parameters: Mapping[str, Provenance],
    mass_thickness: Float[np.ndarray, "y x"] | None,
    pixel_counts: Float[np.ndarray, "y x"],
) -> list[str]:
    """A sentence where the dose and the self-absorption speak of different mass-thicknesses."""
    if mass_thickness is None or model.mass_thickness is None:
        return []
    absorbs = float(model.mass_thickness)
    by_dose = _areal.typical(mass_thickness, pixel_counts) * _areal.cosine_of_tilt(parameters)
    ratio = by_dose / absorbs if absorbs > 0 else np.inf
    if 1 / _areal.AGREES <= ratio <= _areal.AGREES:
        return []
    return [
        f"The counts and the dose speak of {by_dose:.2g} g/cm², {ratio:.2g} times the "
        f"mass-thickness of {absorbs:.2g} g/cm² that the self-absorption takes; check thickness "
        "and density, or current, dwell time and solid angle."
    ]


def unknown_tilts(image: SpectrumImage, model: AnyModel) -> list[str]:
    """A sentence where absorption rests on a take-off angle for which a tilt was taken as zero."""
    told = []
    for known, part in zip(image.acquisitions, model.parts, strict=False):
        tilts = {"α": known.tilt_alpha, "β": known.tilt_beta}
        unknown = [name for name, value in tilts.items() if value is None]
        angle, used = known.take_off_angle, part.take_off_angle
        if not (model.depends_on_phase and unknown and angle is not None and used is not None):
            continue
        if not np.isclose(angle, float(used), rtol=0, atol=1e-4):
            continue  # another angle was given
        both = len(unknown) > 1
        told.append(
            f"The stage tilt{'s' * both} {_listed(unknown)} {'were' if both else 'was'} neither "
            f"given nor in the file: 0° stands in for {'them' if both else 'it'} in the take-off "
            "angle."
        )
    return list(dict.fromkeys(told))


def deviance_per_channel(
    counts_sum: Float[np.ndarray, " channel"], fit_sum: Float[np.ndarray, " channel"]
) -> float:
    """Deviance of the summed spectrum over the number of channels; about 1 for a perfect model."""
    counts = np.asarray(counts_sum, np.float64)
    fit = np.maximum(np.asarray(fit_sum, np.float64), 1e-300)
    logs = np.where(counts > 0, counts * np.log(np.where(counts > 0, counts, 1.0) / fit), 0.0)
    return float(2 * (logs - counts + fit).sum() / len(counts))


def of_misfit(
    model: AnyModel,
    counts_sum: Float[np.ndarray, " channel"],
    fit_sum: Float[np.ndarray, " channel"],
) -> list[str]:
    """Where a poor fit of the summed spectrum leaves most, a peak of it named once."""
    misfit = deviance_per_channel(counts_sum, fit_sum)
    if misfit <= POOR or not np.isfinite(misfit):
        return []
    energy = np.asarray(model.energy_axis.centres, np.float64)
    width = np.concatenate(
        [np.asarray(p.detector.resolution.fwhm(p.energy_axis.centres)) for p in model.parts]
    )
    number, several = detector_numbers(model.energy_axis), len(model.parts) > 1
    excess = np.asarray(counts_sum, np.float64) - fit_sum
    size = np.abs(excess) / np.sqrt(np.maximum(fit_sum, 1e-12))
    places = []
    while len(places) < _NAMED and size.max() >= _CLEAR:
        worst = int(np.argmax(size))
        place = f"{energy[worst]:.2f} keV"
        places.append(of_detector(place, int(number[worst])) if several else place)
        size[np.abs(energy - energy[worst]) <= 2 * width[worst]] = 0.0
    where = f", the most at {_listed(places)}" if places else ""
    return [
        f"The fit is poor: it leaves a deviance of {misfit:.3g} per channel in the summed "
        f"spectrum, where 1 is ideal{where}; look for a missing element or stray line there, or "
        "for a wrong energy axis, resolution, efficiency or thickness."
    ]


def of_phases(
    names: Sequence[str],
    elements: Sequence[str],
    error: Float[np.ndarray, "element phase"],
    barren: Bool[np.ndarray, " phase"],
    given: Iterable[int] = (),
) -> list[str]:
    """Phases without elements, or with standard errors that are too large to be of use.

    - `given`: phases whose compositions were given.
    """
    out = [
        f"The composition given for {names[a]} does not fit: none of the counts are taken for it; "
        "see whether it is right, or leave it out."
        for a in given
        if barren[a]
    ]
    without = [name for name, none in zip(names, barren, strict=True) if none]
    if without:
        holds, empty, amount = (
            ("contains", "its composition is empty", "its H is")
            if len(without) == 1
            else ("contain", "their compositions are empty", "their H are")
        )
        out.append(
            f"{_listed(without)} {holds} practically no element of the sample: {empty}, {amount} "
            "in counts, and the abundances of all phases are shares of a pixel's counts, not of "
            "its atoms."
        )
    for a, name in enumerate(names):
        worst = float(error[:, a].max(initial=0.0))
        if barren[a] or worst <= VAGUE:
            continue
        if not np.isfinite(worst):
            out.append(f"The standard errors of {name} are not known: they are not finite.")
            continue
        out.append(
            f"The counts hardly determine the composition of {name}: the standard error of "
            f"{elements[int(np.argmax(error[:, a]))]} is {100 * worst:.0f} at%; fewer phases or "
            "elements may help."
        )
    return out


def of_ambiguity(
    names: Sequence[str],
    elements: Sequence[str],
    ambiguities: Sequence[Ambiguity],
    barren: Bool[np.ndarray, " phase"],
) -> list[str]:
    """Phases whose composition the counts leave open, with the mixtures that fit as well.

    Of each the two largest ones. Phases without elements (`barren`) have no composition.
    """
    out = []
    for a, (name, open_) in enumerate(zip(names, ambiguities, strict=False)):
        if open_.is_determined or barren[a]:
            continue
        element = elements[open_.changed]
        inside = [f"up to {100 * t:.0f} % of {b}" for t, b in _largest(open_.mixed_in, names)]
        less = [
            f"with {'' if t > 1 else f'up to {100 * t:.0f} % of '}{b} taken away"
            + " from it until an element is gone" * (t > 1)
            for t, b in _largest(open_.taken_away, names)
        ]
        small = "with a little of the others mixed in or taken away"
        which = " or ".join(["mixed with " + " and ".join(inside)] * bool(inside) + less) or small
        absent = [elements[i] for i in open_.lacking]
        lacks = (
            f" As given it has no {_listed(absent)}; if the sample says so, too, that settles it."
            if absent
            else ""
        )
        where = "nearly fills few pixels" if open_.has_pure_pixels else "never fills a pixel"
        out.append(
            f"The counts cannot tell {name} from mixtures: it {where}, and {which} it fits as "
            f"well, which changes {element} by up to {open_.change:.0f} at%, and more if some are "
            "added and others taken away; which of them is given the purity of the pixels decides, "
            f"not the counts.{lacks} A known composition "
            "(compositions) or an absent element (absent) would settle it."
        )
    return out


def of_ranges(
    names: Sequence[str],
    elements: Sequence[str],
    ambiguities: Sequence[Ambiguity],
    low: Float[np.ndarray, "element phase"],
    high: Float[np.ndarray, "element phase"],
    known: Sequence[int],
) -> list[str]:
    """Phases that mixtures do not change, with wide ranges all the same."""
    out = []
    for a, verdict in enumerate(known):
        if verdict != 0 or not ambiguities[a].is_determined:
            continue
        e = int(np.argmax(high[:, a] - low[:, a]))
        out.append(
            f"The composition of {names[a]} is open: the counts leave {elements[e]} between "
            f"{low[e, a]:.0f} and {high[e, a]:.0f} at%; fewer phases or a known composition "
            "(compositions) may help."
        )
    return out


def _largest(shares: Sequence[float], names: Sequence[str], most: int = 2) -> list[tuple]:
    """The largest shares from 5 % on, with the names of their phases."""
    found = sorted(zip(shares, names, strict=True), key=lambda x: -x[0])
    return [(t, name) for t, name in found if t >= 0.05][:most]


#: Of a fit of several phases without sums over them.
NOT_ASKED = (
    "Which mixtures of the phases fit the counts as well was not asked, as the abundances of this "
    "fit do not sum to one; the ranges of its compositions hold the errors of counting only."
)


def of_starts(agreeing: int, n_starts: int) -> list[str]:
    """Whether the best of several starts was alone."""
    if agreeing > 1 or n_starts < 3:
        return []
    return [
        f"Only one of {n_starts} starts came to this solution; others ended at solutions that fit "
        "worse, so there may be better ones. Try another seed or fewer phases."
    ]


def in_words(name: str) -> str:
    """A parameter's name as words."""
    words = {
        "fano": "Fano factor",
        "efficiency": "detector efficiency",
        "noise_fwhm": "noise FWHM",
        "take_off_angle": "take-off angle",
        "mass_thickness": "mass-thickness",
    }
    plain, *whose = name.split(" of ", 1)  # a detector
    return " of ".join([words.get(plain, plain.replace("_", " ")), *whose])


def _listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
