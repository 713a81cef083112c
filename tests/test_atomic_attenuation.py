"""Mass attenuation: xraylib's values and the differentiable table of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xraylib

from esmpy_jax._checks import InputError
from esmpy_jax.atomic import AttenuationTable, mass_attenuation

ELEMENTS = "O,Al,Fe,Dy,Ta,Au,U"


@pytest.mark.parametrize(
    ("element", "energy", "expected"),
    [("Al", 3.5, 506.0), ("Ta", 1.0, 3343.7), ("Ta", 3.2, 1540.1), ("Ta", 2.3, 3011.3)],
)
def test_another_compilation_agrees(element, energy, expected):
    # FFAST (NIST), as in exspy's tests; compilations differ by some percent at these energies.
    assert mass_attenuation(element, energy) == pytest.approx(expected, rel=0.06)


def test_values_and_shape_are_those_of_xraylib():
    energy = np.array([[0.1, 1.0], [20.0, 800.0]])
    expected = [[xraylib.CS_Total(26, e) for e in row] for row in energy.tolist()]
    np.testing.assert_array_equal(mass_attenuation("Fe", energy), expected)
    assert mass_attenuation("Fe", 2).shape == ()


@pytest.mark.parametrize("energy", [0.099, 0.0, -1.0, 801.0, float("nan")])
def test_bad_energy(energy):
    with pytest.raises(InputError, match=r"from 0.1 to 800 keV"):
        mass_attenuation("Fe", np.array([1.0, energy]))


def test_elements_without_data():
    with pytest.raises(InputError, match="no attenuation data for Es"):
        mass_attenuation("Es", 1.0)
    with pytest.raises(InputError, match="no attenuation data for Es"):
        AttenuationTable.tabulate("Fe,Es")


def test_table_against_xraylib_everywhere(precision):
    table = AttenuationTable.tabulate(ELEMENTS)
    energy = jnp.asarray(np.geomspace(0.1001, 99.9, 8000), float)
    values = table(energy)
    assert values.dtype == precision
    assert values.shape == (7, 8000)
    for row, element in zip(np.asarray(values), table.elements, strict=True):
        # Edges included: the table steps where xraylib does, to the rounding of the energy.
        expected = mass_attenuation(element, np.asarray(energy, np.float64))
        np.testing.assert_allclose(row, expected, rtol=2e-3)


def edges(number, low=0.11, high=99.0, smallest=0.02):
    """Energies on either side of every discontinuity of xraylib, found by brute force."""
    energy = np.geomspace(low, high, 40001)
    log_mu = np.log(mass_attenuation(number, energy))
    found = []
    for i in np.flatnonzero(np.diff(log_mu) > smallest):
        below, above = energy[i], energy[i + 1]
        while above / below > 1 + 1e-8:
            middle = (below + above) / 2
            near = mass_attenuation(number, np.array([below, middle, above]))
            rise = np.diff(np.log(near))
            below, above = (below, middle) if rise[0] > rise[1] else (middle, above)
        found.append((below, above))
    return np.array(found)


@pytest.mark.parametrize("element", ["O", "Fe", "Au"])
def test_both_sides_of_every_edge(x64, element):
    table = AttenuationTable.tabulate(["C", element])
    number = table.elements[1].atomic_number
    pairs = edges(number)
    assert len(pairs) >= {8: 1, 26: 3, 79: 12}[number]
    for sides in pairs:
        expected = mass_attenuation(number, sides)
        assert expected[1] / expected[0] > 1.01
        np.testing.assert_allclose(table(jnp.asarray(sides))[1], expected, rtol=2e-3)


def test_gradient_against_finite_differences(x64):
    table = AttenuationTable.tabulate(ELEMENTS, (0.2, 40.0))
    energies = np.random.default_rng(0).uniform(0.3, 30, 200)
    step = 1e-7 * energies
    values = table(jnp.asarray(energies))
    slope = (table(jnp.asarray(energies + step)) - table(jnp.asarray(energies - step))) / (
        2 * step
    )[None]
    jacobian = jax.jit(jax.vmap(jax.jacfwd(table), out_axes=1))(jnp.asarray(energies))
    # The interpolation is smooth between knots, so that only rounding is left, about 1e-15/1e-7.
    relative = np.abs(np.asarray(jacobian - slope)) * energies / np.asarray(values)
    np.testing.assert_array_less(relative, 1e-5)
    assert (np.asarray(jacobian) < 0).mean() > 0.95


def test_outside_the_table_and_on_knots(precision):
    table = AttenuationTable.tabulate("Si,Au", (0.05, 60.0))
    ends = table(jnp.array([0.1, 60.0]))
    outside = table(jnp.array([-0.2, 0.0, 0.02, 0.099, 75.0]))
    np.testing.assert_allclose(outside[:, :4], np.repeat(ends[:, :1], 4, 1), rtol=1e-5)
    np.testing.assert_allclose(outside[:, 4], ends[:, 1], rtol=1e-5)
    # Every knot, edges with their two included, must give finite values and slopes.
    points = jnp.concatenate([jnp.exp(table.log_energy), jnp.array([-1.0, 0.0, 1e-3, 500.0])])
    gradient = jax.jit(jax.vmap(jax.grad(lambda e: table(e).sum())))(points)
    assert np.isfinite(np.asarray(table(points))).all()
    assert np.isfinite(np.asarray(gradient)).all()
    assert (np.asarray(gradient[-4:]) == 0).all()
    assert np.abs(np.asarray(gradient * points / table(points).sum(0))).max() < 10


def test_table_is_jittable_and_reads_its_arguments():
    table = AttenuationTable.tabulate(["Au", "Si"], (1.0, 20.0))
    assert [element.symbol for element in table.elements] == ["Au", "Si"]
    energy = jnp.linspace(1.5, 19.0, 12).reshape(3, 4)
    compiled = jax.jit(lambda t, e: t(e))(table, energy)
    assert compiled.shape == (2, 3, 4)
    np.testing.assert_allclose(compiled, table(energy), rtol=1e-5)
    single = AttenuationTable.tabulate("Si", (1.0, 20.0))(energy)
    np.testing.assert_allclose(compiled[1], single[0], rtol=3e-3)
    with pytest.raises(InputError, match=r"give .low, high"):
        AttenuationTable.tabulate("Si", (900.0, 1000.0))
    with pytest.raises(InputError, match=r"give .low, high"):
        AttenuationTable.tabulate("Si", (5.0, 2.0))
