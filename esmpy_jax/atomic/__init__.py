"""Atomic data: elements, ionisation, emission lines and attenuation. NumPy, no X-ray optics."""

from ._attenuation import AttenuationTable, mass_attenuation
from ._cascade import vacancy_cascade, vacancy_transfer
from ._elements import (
    Composition,
    Element,
    atomic_to_weight,
    parse_element,
    parse_elements,
    weight_to_atomic,
)
from ._ionization import SUBSHELLS, edge_energy, ionization_cross_section, subshells
from ._lines import EmissionLines, emission_lines
from ._notation import parse_line, siegbahn
from ._radiative import RadiativeTransition, fluorescence_yield, radiative_transitions

__all__ = [
    "SUBSHELLS",
    "AttenuationTable",
    "Composition",
    "Element",
    "EmissionLines",
    "RadiativeTransition",
    "atomic_to_weight",
    "edge_energy",
    "emission_lines",
    "fluorescence_yield",
    "ionization_cross_section",
    "mass_attenuation",
    "parse_element",
    "parse_elements",
    "parse_line",
    "radiative_transitions",
    "siegbahn",
    "subshells",
    "vacancy_cascade",
    "vacancy_transfer",
    "weight_to_atomic",
]
