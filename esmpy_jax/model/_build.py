"""Checks what a model is made from, and turns it into the model's fields."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._arrays import as_floats
from .._basis import Column, ColumnKind
from .._checks import check
from ..atomic import (
    AttenuationTable,
    Composition,
    Element,
    EmissionLines,
    parse_element,
    parse_elements,
)
from ..physics import (
    AbstractBremsstrahlung,
    Acquisition,
    Curve,
    Detector,
    EnergyAxis,
    Frozen,
    LifshinBremsstrahlung,
    Number,
    Resolution,
)
from ._bound import OXYGEN_K, Oxygen, absorbers, mass_per_atom, oxygen_per_atom
from ._columns import assign_lines
from ._parameters import Source, resolve

_CM_PER_NM = 1e-7
_LOWEST_ENERGY = 0.1  # keV, where the tables begin
_MARGIN = 0.3  # keV: how far a line outside the energy axis may reach in; over 3 sigma at 20 keV
_REACH = 0.5, 9.0  # keV, and standard deviations of the widest line: how far a line is spread

Elements = str | Iterable[str | int | Element]


class ModelTables(NamedTuple):
    """The constants of a model: no parameter, so out of sight of every transformation.

    - `attenuation`, `line_attenuation`, and `mass_per_atom` in g/mol: of the elements with the
        oxygen that they hold unseen.
    - `reach`: channels to either side over which lines, and the continuum where it is broadened at
        all, are spread; a power of two, so that models of nearly the same gain have the same one.
    """

    lines: EmissionLines
    line_column: Int[np.ndarray, " line"]
    attenuation: AttenuationTable | None
    line_attenuation: Float[np.ndarray, "element line"] | None
    custom: Float[np.ndarray, "channel custom"]
    reach: int
    atomic_weights: Float[np.ndarray, " element"]
    mass_per_atom: Float[np.ndarray, " element"]
    bound_oxygen: Float[np.ndarray, " element"]
    reference_composition: Float[np.ndarray, " element"]


def model_fields(
    energy_axis: EnergyAxis,
    acquisition: Acquisition,
    found: Mapping[str, Source],
    elements: Elements,
    *,
    stray: Elements = (),
    split: Mapping[str, Number] | None = None,
    columns: Mapping[str, Curve] | None = None,
    detector: Detector | None = None,
    bremsstrahlung: AbstractBremsstrahlung | None = None,
    beam_energy: Number | None = None,
    take_off_angle: Number | None = None,
    thickness: Number | None = None,
    density: Number | None = None,
    reference_composition: Composition | None = None,
    bound_oxygen: Oxygen = False,
    min_cross_section: Number = 1e-27,
    cascades: bool = True,
) -> dict[str, Any]:
    """The fields of an `EDSModel`; see `EDSModel.from_image` for the arguments.

    `found`: where the energy axis and each quantity of `acquisition` came from.
    """
    sources: dict[str, str] = {name: found[name] for name in ("energy_offset", "energy_gain")}
    sources["energy_quadratic"] = "given" if float(energy_axis.quadratic) else "default"
    sample, other = parse_elements(elements), parse_elements(stray)
    cuts = {parse_element(key): float(value) for key, value in (split or {}).items()}
    _check_roles(sample, other, cuts)

    beam, sources["beam_energy"] = resolve(
        beam_energy, acquisition.beam_energy, found["beam_energy"]
    )
    check(beam is not None, "The beam energy is not known; give beam_energy in keV.")
    assert beam is not None

    sources["efficiency"] = sources["noise_fwhm"] = sources["fano"] = "given"
    if detector is None:
        fwhm, sources["noise_fwhm"] = resolve(
            None, acquisition.energy_resolution_mn_ka, found["noise_fwhm"]
        )
        resolution = Resolution.from_mn_ka(130.0 if fwhm is None else fwhm)
        detector = Detector(resolution=resolution)
        sources["efficiency"] = sources["fano"] = "default"

    angle, sources["take_off_angle"] = resolve(
        take_off_angle, acquisition.take_off_angle, found["take_off_angle"]
    )
    mass_thickness = _mass_thickness(thickness, density)
    source = "default" if thickness is None else "given"
    sources["mass_thickness"] = sources["thickness"] = sources["density"] = source
    if mass_thickness is not None:
        check(
            angle is not None,
            "Self-absorption needs the take-off angle, which is not known; give take_off_angle in "
            "degrees, or leave thickness and density out.",
        )
    if angle is not None and (mass_thickness is not None or take_off_angle is not None):
        check(
            math.isfinite(angle) and 0 < angle <= 90,
            f"The take-off angle is {angle:g}°, but X-rays leave the sample towards the detector "
            "only at an angle above 0° and up to 90°; give take_off_angle in degrees.",
        )

    offset, gain = float(energy_axis.offset), float(energy_axis.gain)
    first, last = offset, float(energy_axis.at(jnp.asarray(energy_axis.size - 1.0)))
    assigned = assign_lines(
        sample,
        other,
        cuts,
        beam_energy=beam,
        energy_range=(first - gain / 2, last + gain / 2),
        margin=_MARGIN,
        min_cross_section=min_cross_section,
        cascades=cascades,
    )
    detector.efficiency.check_covers(max(first, _LOWEST_ENERGY), min(last, beam))

    continuum = LifshinBremsstrahlung() if bremsstrahlung is None else bremsstrahlung
    custom = columns or {}
    all_columns = (
        *assigned.columns,
        *(Column(ColumnKind.BREMSSTRAHLUNG, label) for label in continuum.labels),
        *(Column(ColumnKind.CUSTOM, label) for label in custom),
    )
    labels = [column.label for column in all_columns]
    for label in custom:
        check(
            labels.count(label) == 1,
            f"The column {label!r} has the label of another column; give it a name of its own.",
        )

    oxygen, absorbing = oxygen_per_atom(sample, bound_oxygen), None
    check(
        not oxygen.any() or not first - gain / 2 <= OXYGEN_K <= last + gain / 2,
        f"Oxygen's line at {OXYGEN_K:g} keV lies on the energy axis, so that it can be fitted; add "
        "O to the elements and leave bound_oxygen out.",
    )
    if oxygen.any():
        sources["bound_oxygen"] = "given"
    if mass_thickness is not None:
        covered = (_LOWEST_ENERGY, max(last + 1, 100.0))
        absorbing = absorbers(sample, oxygen, assigned.lines.energy, covered)
    tables = ModelTables(
        assigned.lines,
        assigned.line_column,
        None if absorbing is None else absorbing.table,
        None if absorbing is None else absorbing.of_lines,
        _custom_columns(custom, energy_axis.size),
        _reach(detector.resolution, assigned.lines.energy, gain),
        np.array([element.atomic_weight for element in sample]),
        mass_per_atom(sample, oxygen),
        oxygen,
        _reference(sample, reference_composition),
    )
    return dict(
        energy_axis=energy_axis,
        detector=detector,
        bremsstrahlung=continuum,
        mass_thickness=None if mass_thickness is None else as_floats(mass_thickness),
        take_off_angle=None if angle is None else as_floats(angle),
        line_corrections=None,
        beam_energy=beam,
        elements=sample,
        columns=all_columns,
        density=None if density is None else float(density),
        tables=Frozen(tables),
        sources=tuple(sources.items()),
    )


def _reach(resolution: Resolution, energies: np.ndarray, gain: float) -> int:
    widest = float(jnp.max(resolution.fwhm(jnp.asarray(energies, float)), initial=0.0))
    least, deviations = _REACH
    reach = max(least, deviations * widest / math.sqrt(8 * math.log(2)))
    return 2 ** max(math.ceil(math.log2(reach / gain)), 0)


def _check_roles(
    sample: tuple[Element, ...], stray: tuple[Element, ...], cuts: Mapping[Element, float]
) -> None:
    check(len(sample) > 0, "No element of the sample is given; name at least one.")
    for element in stray:
        check(
            element not in sample,
            f"{element.symbol} is named both as an element of the sample and as stray; choose one.",
        )
    for element, cut in cuts.items():
        check(
            element in sample,
            f"{element.symbol} is to be split, but it is not among the elements of the sample; "
            "add it there.",
        )
        check(
            math.isfinite(cut) and cut > 0,
            f"{element.symbol} is to be split at {cut:g} keV; give a positive energy in keV.",
        )


def _mass_thickness(thickness: Number | None, density: Number | None) -> float | None:
    """In g/cm²; `None` where there is no self-absorption."""
    check(
        density is not None or thickness is None,
        "A thickness is given without a density; give density in g/cm³ as well.",
    )
    check(
        thickness is not None or density is None,
        "A density is given without a thickness; give thickness in nm as well.",
    )
    if thickness is None or density is None:
        return None
    check(
        math.isfinite(thickness) and thickness >= 0,
        f"The thickness is {thickness:g} nm; give zero or a positive number.",
    )
    check(
        math.isfinite(density) and density > 0,
        f"The density is {density:g} g/cm³; give a positive number.",
    )
    return thickness * _CM_PER_NM * density if thickness > 0 else None


def _custom_columns(custom: Mapping[str, Curve], size: int) -> Float[np.ndarray, "channel custom"]:
    values = np.zeros((size, len(custom)))
    for i, (label, column) in enumerate(custom.items()):
        column = np.asarray(column, float)
        check(
            column.shape == (size,),
            f"The column {label!r} has shape {column.shape}; give one number for each of the "
            f"{size} channels.",
        )
        check(
            bool(np.isfinite(column).all() and (column >= 0).all()),
            f"The column {label!r} holds negative or non-finite values; give a spectrum.",
        )
        values[:, i] = column
    return values


def _reference(
    sample: tuple[Element, ...], composition: Composition | None
) -> Float[np.ndarray, " element"]:
    """Atomic fractions of the sample's elements; equal ones by default."""
    if composition is None:
        return np.full(len(sample), 1 / len(sample))
    fractions = dict(zip(composition.elements, composition.atomic_fractions, strict=True))
    for element in composition.elements:
        check(
            element in sample,
            f"The reference composition holds {element.symbol}, which is not among the elements "
            "of the sample; add it there.",
        )
    return np.array([fractions.get(element, 0.0) for element in sample])
