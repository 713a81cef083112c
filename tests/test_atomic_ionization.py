"""Ionisation cross sections against the authors' own program."""

import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.atomic import SUBSHELLS, edge_energy, ionization_cross_section, subshells

# (Z, subshell, beam energy in eV, cm²) as printed by the program that accompanies the publication.
PUBLISHED = [
    (12, "L3", 77.1792, 3.85315e-18),
    (12, "L3", 12956.9, 1.24124e-18),
    (23, "L1", 15399.3, 2.63509e-20),
    (45, "M3", 1223.21, 2.11571e-19),
    (67, "K", 163117, 1.36404e-23),
    (78, "M5", 2985.38, 2.02808e-20),
    (99, "L2", 26607.3, 3.85171e-24),
    (1, "K", 687.86, 1.57729e-17),
]


@pytest.mark.parametrize(("number", "subshell", "energy_ev", "expected"), PUBLISHED)
def test_published_values(number, subshell, energy_ev, expected):
    # The tabulated coefficients are rounded to three digits, which costs up to 0.6 %.
    value = ionization_cross_section(number, subshell, energy_ev / 1000)
    assert value == pytest.approx(expected, rel=6e-3)


def test_threshold_and_shape():
    edge = edge_energy("Fe", "K")
    values = ionization_cross_section(
        "Fe", "K", np.array([[0.5, 1.0, 1.0001], [2, 30, 1e5]]) * edge
    )
    assert values.shape == (2, 3)
    assert (values.ravel()[:2] == 0).all()
    assert (values.ravel()[2:] > 0).all()
    assert ionization_cross_section("Fe", "K", 200).shape == ()


def test_the_two_formulas_meet_for_every_subshell():
    # At U = 16 the formula changes; the two fits agree to a few percent (10 % for the worst one).
    for number in range(1, 100):
        for subshell in subshells(number):
            energy = 16 * edge_energy(number, subshell)
            below, above = ionization_cross_section(
                number, subshell, np.array([energy * (1 - 1e-9), energy * (1 + 1e-9)])
            )
            assert above == pytest.approx(below, rel=0.1)


def test_high_energy_is_relativistic():
    # Far above the edge sigma·beta² rises as the logarithm of (p/mc)² (Bethe); from 1 to 100 MeV
    # beta is one and the cross section must rise, which a non-relativistic formula does not.
    values = ionization_cross_section("Fe", "K", np.array([1e3, 1e4, 1e5, 1e6]))
    assert (np.diff(values) > 0).all()
    steps = np.diff(values)
    assert steps[1:] == pytest.approx(steps[1], rel=0.02)


def test_table_is_complete():
    counts = {shell: sum(shell in subshells(z) for z in range(1, 100)) for shell in SUBSHELLS}
    assert sum(counts.values()) == 731
    assert counts["K"] == 99
    assert subshells("Si") == ("K", "L1", "L2", "L3")


@pytest.mark.parametrize("energy", [0.0, -1.0, 1.1e6, float("nan")])
def test_bad_energy(energy):
    with pytest.raises(InputError, match="keV"):
        ionization_cross_section("Fe", "K", energy)


def test_bad_subshell():
    with pytest.raises(InputError, match="not a subshell"):
        ionization_cross_section("Fe", "L4", 200.0)
    with pytest.raises(InputError, match="no M5 subshell for Fe"):
        edge_energy("Fe", "M5")
