"""How a vacancy decays: fluorescence yields and radiative branching, read from xraylib."""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import xraylib

from .._checks import check
from ._elements import ElementLike, parse_element
from ._ionization import SUBSHELLS

# Every radiative transition of xraylib that fills a K, L or M vacancy, named once: pairs such as
# "L3O45" and shells such as "KO" hold the rate that xraylib does not share out to their members.
_TRANSITION = re.compile(r"(K|L[123]|M[1-5])([LMNOPQ])([1-7]{0,2})_LINE")


class _Transition(NamedTuple):
    inner: str
    outer: str
    code: int


def _xraylib_transitions() -> tuple[_Transition, ...]:
    found = []
    for name in dir(xraylib):
        if match := _TRANSITION.fullmatch(name):
            inner, shell, numbers = match.groups()
            if not numbers and shell not in "OP":
                continue  # no transition but an alias of a whole group of lines, such as Lα or Lβ
            outer = shell + ",".join(numbers)
            found.append(_Transition(inner, outer, getattr(xraylib, name)))
    return tuple(found)


_TRANSITIONS = _xraylib_transitions()
_SHELL_CODE = {name: getattr(xraylib, f"{name}_SHELL") for name in SUBSHELLS}

# Elements whose 3d-4f branching xraylib lacks, and the element it is taken from.
_NO_4F_RATES = range(57, 64)
_GADOLINIUM = 64
# Electrons in the 4f subshell of the neutral atoms Ce to Tb.
_OCCUPANCY_4F = {58: 1, 59: 3, 60: 4, 61: 5, 62: 6, 63: 7, 64: 7, 65: 9}
_FIRST_M5_YIELD = 60
_RHENIUM = 75


def tabulated(function: Callable[[int, int], float], atomic_number: int, code: int) -> float:
    """xraylib's number, or 0 where it has none."""
    try:
        return float(function(atomic_number, code))
    except ValueError:
        return 0.0


# K-M of magnesium, from the valence band: energy in keV (Kβ1 of J. A. Bearden, Rev. Mod. Phys. 39
# (1967) 78) and share of the K photons, on the trend of xraylib's 1.3 % for Al and 2.7 % for Si and
# about what measured spectra show (3.2 % in experiments/real_bridgmanite).
_MAGNESIUM, _MG_K_M = 12, (1.3022, 0.02)
_MG_TO_VALENCE = _Transition("K", "M1", xraylib.KM1_LINE)


class RadiativeTransition(NamedTuple):
    """One way to fill the vacancy `inner` with an electron of `outer`.

    `name` is in IUPAC notation, `energy` in keV, `rate` the share of the radiative decays of
    `inner`: the rates of one subshell sum to one.
    """

    name: str
    inner: str
    outer: str
    energy: float
    rate: float


@functools.lru_cache(maxsize=256)
def _fluorescence_yield(atomic_number: int, subshell: str) -> float:
    if subshell == "M5" and atomic_number < _FIRST_M5_YIELD:
        subshell = "M4"
    if atomic_number == _RHENIUM and subshell[0] == "L":
        neighbours = [_fluorescence_yield(_RHENIUM + step, subshell) for step in (-1, 1)]
        return math.sqrt(neighbours[0] * neighbours[1])
    return tabulated(xraylib.FluorYield, atomic_number, _SHELL_CODE[subshell])


def fluorescence_yield(element: ElementLike, subshell: str) -> float:
    """Share of the vacancies of a subshell that decay by an X-ray (xraylib); 0 where unknown.

    Two repairs. Below Z = 60 xraylib gives an M4 yield but none for M5, or for Ce and Pr one
    interpolated from zero: there M4's is used for both. Its L yields of Re are a third below the
    trend of all other elements: the geometric mean of those of W and Os is used. Raises
    `InputError` for an unknown subshell.
    """
    check(
        subshell in SUBSHELLS,
        f"'{subshell}' is not a subshell; use one of {', '.join(SUBSHELLS)}.",
    )
    return _fluorescence_yield(parse_element(element).atomic_number, subshell)


def _rates(atomic_number: int) -> dict[_Transition, float]:
    """xraylib's shares of the radiative decays of each subshell, where they are not zero."""
    return {
        transition: rate
        for transition in _TRANSITIONS
        if (rate := tabulated(xraylib.RadRate, atomic_number, transition.code)) > 0
    }


def _with_4f_rates(rates: dict[_Transition, float], atomic_number: int) -> dict[_Transition, float]:
    """Adds the M4,5-N6,7 rates that xraylib lacks from La to Eu, and rescales the others.

    Their ratio to the other lines of the same subshell is that of Gd, times the number of 4f
    electrons relative to Gd's, both in the equivalent-core picture: with a 3d vacancy the outer
    electrons are those of the next element.
    """
    occupancy = _OCCUPANCY_4F[atomic_number + 1] / _OCCUPANCY_4F[_GADOLINIUM + 1]
    gadolinium = {t: rate for t, rate in _rates(_GADOLINIUM).items() if t.inner in ("M4", "M5")}
    result = dict(rates)
    for inner in ("M4", "M5"):
        lines = {t: rate for t, rate in gadolinium.items() if t.inner == inner}
        to_4f = {t: rate for t, rate in lines.items() if t.outer in ("N6", "N7")}
        others = sum(lines.values()) - sum(to_4f.values())
        added = {t: occupancy * rate / others for t, rate in to_4f.items()}
        total = 1 + sum(added.values())
        result |= {t: rate / total for t, rate in rates.items() if t.inner == inner}
        result |= {t: rate / total for t, rate in added.items()}
    return result


def _energy(atomic_number: int, transition: _Transition) -> float:
    """Line energy in keV; 0 where it is unknown.

    xraylib gives no energy where it lists no edge for the outer level. Beyond M these are valence
    levels, bound by less than about 10 eV, so that the inner edge is the energy. The exception is
    M2-P4 of Np and heavier, a line that xraylib gives nearly all of the M2 rate: a slip.
    """
    if (atomic_number, transition) == (_MAGNESIUM, _MG_TO_VALENCE):
        return _MG_K_M[0]
    if energy := tabulated(xraylib.LineEnergy, atomic_number, transition.code):
        return energy
    if transition.outer[0] in "LM" or (transition.inner, transition.outer) == ("M2", "P4"):
        return 0.0
    return tabulated(xraylib.EdgeEnergy, atomic_number, _SHELL_CODE[transition.inner])


@functools.lru_cache(maxsize=128)
def _radiative_transitions(atomic_number: int) -> tuple[RadiativeTransition, ...]:
    rates = _rates(atomic_number)
    if atomic_number == _MAGNESIUM:
        rates = {t: rate * (1 - _MG_K_M[1]) for t, rate in rates.items()}
        rates[_MG_TO_VALENCE] = _MG_K_M[1]
    if atomic_number in _NO_4F_RATES:
        rates = _with_4f_rates(rates, atomic_number)
    energies = {t: energy for t in rates if (energy := _energy(atomic_number, t)) > 0}
    totals = {t.inner: 0.0 for t in energies}
    for t in energies:
        totals[t.inner] += rates[t]
    return tuple(
        RadiativeTransition(
            f"{t.inner}-{t.outer}", t.inner, t.outer, energy, rates[t] / totals[t.inner]
        )
        for t, energy in energies.items()
    )


def radiative_transitions(element: ElementLike) -> tuple[RadiativeTransition, ...]:
    """All transitions that fill K, L or M vacancies of an element, with energies and rates.

    Source: xraylib, with three repairs. From La to Eu it has no 3d-4f rates (Mα, Mβ), though these
    are the strongest M lines: they are taken from Gd in proportion to the 4f electrons. Where it
    gives no energy because the outer level is a valence level, the inner edge is used. K-M of Mg,
    which the free atom lacks and the solid emits from its valence band, is added with 2 % of the K
    photons. Other lines from the valence band of solids (K of Li and Be) are missing, and H, He,
    Li, Be have none.
    """
    return _radiative_transitions(parse_element(element).atomic_number)
