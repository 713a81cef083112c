"""`EmissionLines`: the characteristic X-rays of elements under an electron beam."""

import functools
from collections.abc import Iterable

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int

from .._checks import check
from ._cascade import vacancy_cascade
from ._elements import ElementLike, parse_element, parse_elements
from ._ionization import SUBSHELLS, ionization_cross_section, subshells
from ._radiative import fluorescence_yield, radiative_transitions


class EmissionLines(eqx.Module):
    """X-ray lines with what a beam electron makes of them; one entry per line in every field.

    - `atomic_number`: of the emitting element.
    - `energy`: in keV.
    - `cross_section`: for producing the photon, in cm² per atom.
    - `family`: "K", "L" or "M", the shell of the vacancy.
    - `name`: the transition in IUPAC notation, e.g. "K-L3".
    """

    atomic_number: Int[np.ndarray, " line"]
    energy: Float[np.ndarray, " line"]
    cross_section: Float[np.ndarray, " line"]
    family: tuple[str, ...] = eqx.field(static=True)
    name: tuple[str, ...] = eqx.field(static=True)

    def __check_init__(self):
        lengths = {len(self.energy), len(self.family), len(self.name)}
        if lengths != {len(self.atomic_number)} or len(self.cross_section) not in lengths:
            raise ValueError("EmissionLines needs fields of one length.")

    def __len__(self) -> int:
        return len(self.name)

    def select(self, mask: Bool[np.ndarray, " line"]) -> "EmissionLines":
        """The lines where `mask` is true, in the same order."""
        return EmissionLines(
            self.atomic_number[mask],
            self.energy[mask],
            self.cross_section[mask],
            tuple(family for family, keep in zip(self.family, mask, strict=True) if keep),
            tuple(name for name, keep in zip(self.name, mask, strict=True) if keep),
        )

    def of(self, element: ElementLike) -> "EmissionLines":
        """The lines of one element; none if it is not among them."""
        return self.select(self.atomic_number == parse_element(element).atomic_number)


@functools.lru_cache(maxsize=1024)
def _vacancies(atomic_number: int, beam_energy: float, cascades: bool) -> tuple[float, ...]:
    """Cross sections in cm² for a vacancy in each of `SUBSHELLS`."""
    primary = np.zeros(len(SUBSHELLS))
    for shell in subshells(atomic_number):
        cross_section = ionization_cross_section(atomic_number, shell, beam_energy)
        primary[SUBSHELLS.index(shell)] = float(cross_section)
    total = vacancy_cascade(atomic_number, primary) if cascades else primary
    return tuple(total.tolist())


def emission_lines(
    elements: str | Iterable[ElementLike],
    beam_energy: float | int,
    energy_range: tuple[float | int, float | int] | None = None,
    *,
    cascades: bool = True,
    min_cross_section: float | int = 1e-27,
) -> EmissionLines:
    """The K, L and M lines of `elements` under electrons of `beam_energy` keV, by element.

    cross section = (vacancies in the inner subshell) × (fluorescence yield) × (radiative rate),
    with `ionization_cross_section` for the vacancies, plus, with `cascades`, those handed down
    from inner subshells (`vacancy_cascade`). Only single transitions are listed, strongest first
    in each element, so that nothing is counted twice. `energy_range` (keV, ends included) and
    `min_cross_section` (cm²) drop the lines outside and the weaker ones.

    Raises `InputError` for an unknown or repeated element, a beam energy outside 1 keV - 1 GeV
    and an empty energy range.
    """
    parsed = parse_elements(elements)
    check(
        1 <= beam_energy <= 1e6,
        f"Beam energy {beam_energy:g} keV must lie between 1 and 1000000 keV; give it in keV.",
    )
    low, high = (0.0, np.inf) if energy_range is None else energy_range
    check(low < high, f"Energy range ({low:g}, {high:g}) keV is empty; give (low, high).")
    found = []
    for element in parsed:
        number = element.atomic_number
        vacancies = _vacancies(number, float(beam_energy), cascades)
        lines = []
        for line in radiative_transitions(element):
            photons = fluorescence_yield(element, line.inner) * line.rate
            cross_section = vacancies[SUBSHELLS.index(line.inner)] * photons
            if cross_section >= min_cross_section and low <= line.energy <= high:
                lines.append((number, line.energy, cross_section, line.inner[0], line.name))
        found += sorted(lines, key=lambda line: -line[2])
    numbers, energies, cross_sections, families, names = (
        zip(*found, strict=True) if found else [()] * 5
    )
    return EmissionLines(
        np.array(numbers, int),
        np.array(energies, float),
        np.array(cross_sections, float),
        tuple(families),
        tuple(names),
    )
