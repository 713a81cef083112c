"""How vacancies move outwards before they radiate: Coster-Kronig, radiative, Auger cascades."""

import functools
import re

import numpy as np
import xraylib
from jaxtyping import Float

from .._checks import check
from ._elements import ElementLike, parse_element
from ._ionization import SUBSHELLS
from ._radiative import fluorescence_yield, radiative_transitions, tabulated

_INDEX = {name: i for i, name in enumerate(SUBSHELLS)}
_SHELL_CODE = {name: getattr(xraylib, f"{name}_SHELL") for name in SUBSHELLS}


def _auger_codes() -> tuple[tuple[str, tuple[str, ...], int], ...]:
    """(initial vacancy, final vacancies in L and M, xraylib's code) of every Auger transition."""
    found = []
    for name in dir(xraylib):
        if match := re.fullmatch(r"(K|L[123])_([L-Q][1-7])([L-Q][1-7])_AUGER", name):
            final = tuple(level for level in match.groups()[1:] if level in _INDEX)
            if final:
                found.append((match[1], final, getattr(xraylib, name)))
    return tuple(found)


_AUGER_TRANSITIONS = _auger_codes()
_COSTER_KRONIG = tuple(
    (f"{shell}{i}", f"{shell}{j}", getattr(xraylib, f"F{shell}{i}{j}_TRANS"))
    for shell, size in (("L", 3), ("M", 5))
    for i in range(1, size)
    for j in range(i + 1, size + 1)
)


@functools.lru_cache(maxsize=256)
def _auger_yield(atomic_number: int, subshell: str) -> float:
    """xraylib's, lowered by what `fluorescence_yield` adds to xraylib's radiative yield."""
    code = _SHELL_CODE[subshell]
    radiative = tabulated(xraylib.FluorYield, atomic_number, code)
    added = fluorescence_yield(atomic_number, subshell) - radiative
    return tabulated(xraylib.AugerYield, atomic_number, code) - added


@functools.lru_cache(maxsize=128)
def _transfer(atomic_number: int) -> Float[np.ndarray, "9 9"]:
    """(from, to): mean number of vacancies left in `to` by the decay of one in `from`."""
    transfer = np.zeros((len(SUBSHELLS), len(SUBSHELLS)))
    for line in radiative_transitions(atomic_number):
        if line.outer in _INDEX:
            share = fluorescence_yield(atomic_number, line.inner) * line.rate
            transfer[_INDEX[line.inner], _INDEX[line.outer]] += share
    for inner, outer, code in _COSTER_KRONIG:
        probability = tabulated(xraylib.CosKronTransProb, atomic_number, code)
        transfer[_INDEX[inner], _INDEX[outer]] += probability
    for inner, final, code in _AUGER_TRANSITIONS:
        rate = tabulated(xraylib.AugerRate, atomic_number, code)
        if rate > 0:
            for outer in final:
                transfer[_INDEX[inner], _INDEX[outer]] += rate * _auger_yield(atomic_number, inner)
    transfer.flags.writeable = False
    return transfer


def vacancy_transfer(element: ElementLike) -> Float[np.ndarray, "9 9"]:
    """Mean number of vacancies that the decay of one leaves in each subshell: (from, to).

    Both axes are `SUBSHELLS`, and the matrix is strictly upper triangular. Row by row it is the
    sum of three exclusive channels, with the numbers of xraylib:

    - radiative: fluorescence yield × rate of the line between the two subshells (this covers the
      radiative L1-L2,3 transitions, so that f'13 is not added again);
    - Coster-Kronig f_ij within L and within M;
    - Auger: the yield that is left (1 - fluorescence - Coster-Kronig) × the rate of each final
      pair, which leaves two vacancies; xraylib's Auger rates hold no Coster-Kronig ones.

    The electron that a Coster-Kronig transition ejects also leaves a vacancy, mostly in M or
    beyond; its subshell is not tabulated, and it is left out.
    """
    return _transfer(parse_element(element).atomic_number)


def vacancy_cascade(
    element: ElementLike, primary: Float[np.ndarray, "subshell *shape"]
) -> Float[np.ndarray, "subshell *shape"]:
    """All vacancies v = p + Tᵀ v that follow from the primary ones p, in the same unit.

    The first axis is `SUBSHELLS`; T is `vacancy_transfer`. Raises `InputError` when the first
    axis has another length.
    """
    check(
        primary.shape[:1] == (len(SUBSHELLS),),
        f"Primary vacancies have shape {primary.shape}; give one row for each of the "
        f"{len(SUBSHELLS)} subshells {', '.join(SUBSHELLS)}.",
    )
    system = np.eye(len(SUBSHELLS)) - vacancy_transfer(element).T
    flat = primary.reshape(len(SUBSHELLS), -1).astype(float)
    return np.linalg.solve(system, flat).reshape(primary.shape)
