"""Ionisation of atomic subshells by electron impact: the Bote-Salvat formulas."""

import csv
import functools
import importlib.resources
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from .._checks import InputError, check
from ._elements import ElementLike, parse_element

SUBSHELLS = ("K", "L1", "L2", "L3", "M1", "M2", "M3", "M4", "M5")

_BOHR_RADIUS_CM = 5.29177210903e-9
_ELECTRON_REST_ENERGY_KEV = 510.99895
_FOUR_PI_A0_SQUARED = 4 * math.pi * _BOHR_RADIUS_CM**2
_HIGHEST_ENERGY_KEV = 1e6


class _Coefficients(NamedTuple):
    """One row of the table; `edge` in keV."""

    edge: float
    b: float
    amplitude: float
    g: tuple[float, ...]
    a: tuple[float, ...]


@functools.cache
def _table() -> dict[tuple[int, str], _Coefficients]:
    """Coefficients by (atomic number, subshell), read once from the package's own file."""
    source = (
        importlib.resources.files(__name__.rpartition(".")[0]) / "data" / "bote_salvat_2009.csv"
    )
    with source.open(encoding="utf-8") as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        next(rows)
        table = {}
        for atomic_number, subshell, edge_ev, *values in rows:
            b, amplitude, *rest = map(float, values)
            table[int(atomic_number), subshell] = _Coefficients(
                float(edge_ev) / 1000, b, amplitude, tuple(rest[:4]), tuple(rest[4:])
            )
    return table


def subshells(element: ElementLike) -> tuple[str, ...]:
    """The subshells of an element that the ionisation table holds, from K outwards."""
    number = parse_element(element).atomic_number
    return tuple(shell for shell in SUBSHELLS if (number, shell) in _table())


def _coefficients(element: ElementLike, subshell: str) -> _Coefficients:
    element = parse_element(element)
    check(
        subshell in SUBSHELLS,
        f"'{subshell}' is not a subshell; use one of {', '.join(SUBSHELLS)}.",
    )
    row = _table().get((element.atomic_number, subshell))
    if row is None:
        raise InputError(
            f"The ionisation table has no {subshell} subshell for {element}; "
            f"it has {', '.join(subshells(element))}."
        )
    return row


def edge_energy(element: ElementLike, subshell: str) -> float:
    """Ionisation energy of a subshell in keV, as used by `ionization_cross_section`.

    These are the values of the Bote-Salvat table (free atoms), up to about 10 eV or a few percent
    from the absorption edges of solids. Raises `InputError` for a subshell the table lacks.
    """
    return _coefficients(element, subshell).edge


def ionization_cross_section(
    element: ElementLike, subshell: str, beam_energy: ArrayLike
) -> Float[np.ndarray, "*shape"]:
    """Cross section in cm² for ionising a subshell by electrons of `beam_energy` keV (any shape).

    Bote, Salvat, Jablonski and Powell, At. Data Nucl. Data Tables 95 (2009) 871. With the
    overvoltage U = E/E_edge, for U <= 16

        sigma = 4 pi a0² (U-1)/U² [a1 + a2 U + a3/(1+U) + a4/(1+U)³ + a5/(1+U)⁵]²

    and above, with X = p/(m c) and beta = v/c,

        sigma = U/(U+b) 4 pi a0² A/beta² {[ln X² - beta²](1 + g1/X) + g2 + g3 (1-beta²)^(1/4)
                + g4/X}

    and zero at or below the edge. Raises `InputError` for an energy that is not positive or
    above 1 GeV, and for a subshell that the table lacks (see `subshells`).
    """
    row = _coefficients(element, subshell)
    energy = np.asarray(beam_energy, float)
    check(
        bool(((energy > 0) & (energy <= _HIGHEST_ENERGY_KEV)).all()),
        f"Beam energies must lie above 0 and at most {_HIGHEST_ENERGY_KEV:g} keV (1 GeV); "
        "give them in keV.",
    )
    u = np.maximum(energy / row.edge, 1.0)
    a1, a2, a3, a4, a5 = row.a
    bracket = a1 + a2 * u + a3 / (1 + u) + a4 / (1 + u) ** 3 + a5 / (1 + u) ** 5
    low = (u - 1) / u**2 * bracket**2

    kinetic = energy / _ELECTRON_REST_ENERGY_KEV
    momentum_squared = kinetic * (kinetic + 2)
    momentum = np.sqrt(momentum_squared)
    beta_squared = momentum_squared / (1 + momentum_squared)
    g1, g2, g3, g4 = row.g
    bethe = (np.log(momentum_squared) - beta_squared) * (1 + g1 / momentum)
    bethe = bethe + g2 + g3 * (1 - beta_squared) ** 0.25 + g4 / momentum
    high = u / (u + row.b) * row.amplitude / beta_squared * bethe
    return np.asarray(_FOUR_PI_A0_SQUARED * np.where(u <= 16, low, high))
