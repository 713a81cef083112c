"""Oxygen that is in the sample but not in the spectrum, bound to what is seen."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._checks import check
from ..atomic import AttenuationTable, Element, mass_attenuation, parse_element
from ..physics import Number

#: Atoms of oxygen to an atom in the oxides by which analyses of minerals are written; others: none.
OXIDES = {
    0.5: "Li Na K Rb Cs Ag",
    1.0: "Be Mg Ca Mn Fe Co Ni Cu Zn Sr Cd Ba Pb",
    1.5: "B Al Sc Cr Ga As Y In Sb La Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Bi",
    2.0: "C Si Ti Ge Zr Sn Te Ce Hf Th U",
    2.5: "N P V Nb Ta",
    3.0: "S Mo W",
}
_USUAL = {symbol: atoms for atoms, symbols in OXIDES.items() for symbol in symbols.split()}

_OXYGEN = parse_element("O")

#: Energy of its K line in keV.
OXYGEN_K = 0.525

Oxygen = bool | Mapping[str, Number]


class Absorbers(NamedTuple):
    """What absorbs: each element of the sample with the oxygen that it holds.

    - `table`, `of_lines`: mass attenuation of these, in cm²/g.
    """

    table: AttenuationTable
    of_lines: Float[np.ndarray, "element line"]


def oxygen_per_atom(sample: Sequence[Element], oxygen: Oxygen) -> Float[np.ndarray, " element"]:
    """Atoms of oxygen that an atom of each element holds.

    Raises `InputError` where oxygen has a column of its own, for elements that are not in the
    sample, and for numbers that are negative or not finite.
    """
    if not oxygen:
        return np.zeros(len(sample))
    check(
        _OXYGEN not in sample,
        "Oxygen is both an element of the sample and bound by stoichiometry; choose one.",
    )
    if oxygen is True:
        return np.array([_USUAL.get(element.symbol, 0.0) for element in sample])
    assert not isinstance(oxygen, bool)
    given = {parse_element(key): float(value) for key, value in oxygen.items()}
    for element, atoms in given.items():
        check(
            element in sample,
            f"{element.symbol} is to hold oxygen, but it is not among the elements of the sample; "
            "add it there.",
        )
        check(
            np.isfinite(atoms) and atoms >= 0,
            f"{element.symbol} is to hold {atoms:g} atoms of oxygen; give zero or a positive "
            "number.",
        )
    return np.array([given.get(element, 0.0) for element in sample])


def mass_per_atom(
    sample: Sequence[Element], oxygen: Float[np.ndarray, " element"]
) -> Float[np.ndarray, " element"]:
    """In g/mol, of an atom of each element with its oxygen."""
    own = np.array([element.atomic_weight for element in sample])
    return own + oxygen * _OXYGEN.atomic_weight


def absorbers(
    sample: Sequence[Element],
    oxygen: Float[np.ndarray, " element"],
    energies: Float[np.ndarray, " line"],
    energy_range: tuple[float, float],
) -> Absorbers:
    """What absorbs, tabulated over `energy_range` and at the energies of lines, in keV.

    An atom of mass M with n of oxygen has the mass M + n M_O and attenuates as
    (M μ + n M_O μ_O) / (M + n M_O).
    """
    of_lines = np.stack([mass_attenuation(element, energies) for element in sample])
    if not oxygen.any():
        return Absorbers(AttenuationTable.tabulate(sample, energy_range), of_lines)
    rest = (oxygen * _OXYGEN.atomic_weight / mass_per_atom(sample, oxygen))[:, None]
    both = AttenuationTable.tabulate([*sample, _OXYGEN], energy_range)
    values = np.exp(np.asarray(both.log_attenuation, np.float64))
    logarithm = jnp.asarray(np.log((1 - rest) * values[:-1] + rest * values[-1:]), float)
    return Absorbers(
        AttenuationTable(both.log_energy, logarithm, tuple(sample)),
        (1 - rest) * of_lines + rest * mass_attenuation(_OXYGEN, energies)[None],
    )
