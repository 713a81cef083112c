"""Which emission line belongs to which column of G."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .._basis import Column, ColumnKind
from .._checks import check
from ..atomic import Element, EmissionLines, emission_lines

_LOWEST_ENERGY = 0.1  # keV; below it no attenuation is known, and no detector sees lines


class LineColumns(NamedTuple):
    """The columns made of lines, with every line's column."""

    columns: tuple[Column, ...]
    lines: EmissionLines
    line_column: Int[np.ndarray, " line"]


def assign_lines(
    elements: Sequence[Element],
    stray: Sequence[Element],
    split: Mapping[Element, float],
    *,
    beam_energy: float,
    energy_range: tuple[float, float],
    margin: float,
    min_cross_section: float,
    cascades: bool,
) -> LineColumns:
    """One column for each element (two if split) and for each stray line family.

    A column needs a line inside `energy_range` (keV); lines up to `margin` outside come along for
    the part of their width that reaches in. Raises `InputError` for a column without a line.
    """
    low, high = energy_range
    every = emission_lines(
        [*elements, *stray],
        beam_energy,
        (max(low - margin, _LOWEST_ENERGY), high + margin),
        cascades=cascades,
        min_cross_section=min_cross_section,
    )
    inside = (every.energy >= low) & (every.energy <= high)
    families = np.array(every.family)
    columns: list[Column] = []
    masks: list[Bool[np.ndarray, " line"]] = []

    def add(column: Column, mask: Bool[np.ndarray, " line"]) -> None:
        columns.append(column)
        masks.append(mask)

    for element in [*elements, *stray]:
        own = every.atomic_number == element.atomic_number
        if not (own & inside).any():
            check(False, _no_line(element, beam_energy, energy_range, min_cross_section))
        if element in elements:
            for column, mask in _element_columns(element, split.get(element), own, inside, every):
                add(column, mask)
        else:
            for family in ("K", "L", "M"):
                mask = own & (families == family)
                if (mask & inside).any():
                    label = f"{element.symbol} {family}"
                    add(Column(ColumnKind.STRAY, label, element.atomic_number, family), mask)

    # A stray family whose lines all lie in the margin has no column: its lines go.
    line_column = np.full(len(every), -1)
    for index, mask in enumerate(masks):
        line_column[mask] = index
    kept = line_column >= 0
    return LineColumns(tuple(columns), every.select(kept), line_column[kept])


def _element_columns(
    element: Element,
    cut: float | None,
    own: Bool[np.ndarray, " line"],
    inside: Bool[np.ndarray, " line"],
    every: EmissionLines,
) -> list[tuple[Column, Bool[np.ndarray, " line"]]]:
    number, symbol = element.atomic_number, element.symbol
    if cut is None:
        family = _only_family(every, own)
        column = Column(ColumnKind.ELEMENT, symbol, number, family, in_composition=True)
        return [(column, own)]
    below, above = own & (every.energy < cut), own & (every.energy >= cut)
    for side, mask in (("below", below), ("above", above)):
        energies = every.energy[own & inside]
        check(
            bool((mask & inside).any()),
            f"Splitting {symbol} at {cut:g} keV leaves no line {side} it; its lines in the energy "
            f"range run from {energies.min():.3f} to {energies.max():.3f} keV; choose an "
            "energy between them.",
        )
    free = Column(
        ColumnKind.ELEMENT,
        f"{symbol}<{cut:g}keV",
        number,
        _only_family(every, below),
        energy_range=(0.0, cut),
    )
    bound = Column(
        ColumnKind.ELEMENT,
        symbol,
        number,
        _only_family(every, above),
        energy_range=(cut, math.inf),
        in_composition=True,
    )
    return [(free, below), (bound, above)]


def _only_family(every: EmissionLines, mask: Bool[np.ndarray, " line"]) -> str | None:
    families = {family for family, keep in zip(every.family, mask, strict=True) if keep}
    return families.pop() if len(families) == 1 else None


def _no_line(
    element: Element,
    beam_energy: float,
    energy_range: tuple[float, float],
    min_cross_section: float,
) -> str:
    lines = emission_lines([element], beam_energy, min_cross_section=min_cross_section)
    where = f"between {energy_range[0]:.4g} and {energy_range[1]:.4g} keV"
    if len(lines) == 0:
        return (
            f"{element.symbol} has no X-ray line that a beam of {beam_energy:g} keV excites; "
            "leave it out."
        )
    distance = np.maximum(energy_range[0] - lines.energy, lines.energy - energy_range[1])
    nearest = int(np.argmin(distance))
    return (
        f"{element.symbol} has no X-ray line {where}; its nearest is {lines.name[nearest]} at "
        f"{lines.energy[nearest]:.3f} keV; leave the element out or widen the energy range."
    )
