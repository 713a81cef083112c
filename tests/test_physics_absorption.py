import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.physics import LifshinBremsstrahlung, Resolution, absorption_depth, absorption_factor


@pytest.mark.parametrize("chi", [-1.0, -0.05, 1e-30, 1e-6, 0.0999, 0.1001, 1.0, 30.0, 1e4])
def test_absorption_factor(precision, chi):
    expected = -np.expm1(-chi) / chi
    value = absorption_factor(jnp.asarray(chi, float))
    rtol = 3e-7 if precision == "float32" else 3e-16 * 4
    assert value == pytest.approx(expected, rel=rtol)


def test_absorption_factor_is_smooth_through_zero(precision):
    first = jax.jit(jax.grad(absorption_factor))
    second = jax.jit(jax.grad(jax.grad(absorption_factor)))
    zero = jnp.asarray(0.0)
    assert absorption_factor(zero) == 1.0
    assert first(zero) == pytest.approx(-1 / 2)
    assert second(zero) == pytest.approx(1 / 3)
    # Across the change of formula, against the derivative written out.
    chi = np.array([-0.3, 0.02, 0.09, 0.11, 0.5, 5.0, 200.0])
    exact = (np.exp(-chi) * (chi + 1) - 1) / chi**2
    got = jax.vmap(first)(jnp.asarray(chi, float))
    np.testing.assert_allclose(got, exact, rtol=2e-4 if precision == "float32" else 1e-12)


def test_absorption_depth_is_the_path_through_the_mixture(precision):
    attenuation = jnp.array([[100.0, 200.0], [1000.0, 0.0]])
    depth = absorption_depth(attenuation, jnp.array([0.25, 0.75]), 2e-3, 30.0)
    np.testing.assert_allclose(depth, [775 * 4e-3, 50 * 4e-3], rtol=1e-6)


def test_gradients_of_absorption(x64):
    attenuation = jnp.array([[100.0, 200.0, 5e3], [1000.0, 3.0, 7e3]])

    def total(parameters):
        fractions = jnp.stack([parameters[0], 1 - parameters[0]])
        chi = absorption_depth(attenuation, fractions, parameters[1], parameters[2])
        return absorption_factor(chi).sum()

    point = jnp.array([0.25, 1e-4, 18.0])
    gradient = jax.grad(total)(point)
    for i, h in enumerate([1e-5, 1e-9, 1e-4]):
        step = jnp.zeros(3).at[i].set(h)
        numeric = (total(point + step) - total(point - step)) / (2 * h)
        assert gradient[i] == pytest.approx(float(numeric), rel=1e-6)
    at_zero = jax.grad(total)(point.at[1].set(0.0))
    assert np.isfinite(at_zero).all()


def test_bremsstrahlung_shapes_add_up_to_kramers(precision):
    shapes = LifshinBremsstrahlung()
    energy = jnp.array([0.1, 1.0, 8.0, 150.0])
    values = shapes(energy, 200.0)
    assert len(shapes.labels) == values.shape[1] == 2
    e = np.asarray(energy, float)
    left = 200 - e
    expected = np.stack([left / (200 * e) * (1 - left / 200), left**2 / (200**2 * e)], 1)
    np.testing.assert_allclose(values, expected, rtol=2e-6)
    np.testing.assert_allclose(values.sum(1), left / (200 * e), rtol=2e-6)


def test_bremsstrahlung_stays_finite_below_its_range_and_vanishes_above_the_beam(precision):
    shapes = LifshinBremsstrahlung()
    values = shapes(jnp.array([-0.5, 0.0, 0.1, 20.0, 40.0]), 20.0)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values[3:], 0.0)


def test_gradient_of_the_bremsstrahlung(x64):
    def total(energy, beam):
        return (LifshinBremsstrahlung()(energy[None], beam) * jnp.array([[2.0, 3.0]])).sum()

    energy, beam = jnp.asarray(3.0), jnp.asarray(20.0)
    gradient = jax.grad(total, (0, 1))(energy, beam)
    h = 1e-5
    along_energy = (total(energy + h, beam) - total(energy - h, beam)) / (2 * h)
    along_beam = (total(energy, beam + h) - total(energy, beam - h)) / (2 * h)
    np.testing.assert_allclose(gradient, (along_energy, along_beam), rtol=1e-7)


def test_resolution_at_manganese_is_what_was_asked_for(precision):
    resolution = Resolution.from_mn_ka(130, fano=0.12)
    assert resolution.fwhm(jnp.asarray(5.895)) == pytest.approx(0.130, rel=1e-6)
    # By hand: 130² - 2.3548² * 0.12 * 3.64 * 5895 = 2621.2 eV², so 51.2 eV of noise.
    assert resolution.noise_fwhm == pytest.approx(0.0512, abs=5e-5)
    # And 2621.2 + 5.5452 * 0.12 * 3.64 * 525 = 3892.8 eV² at O K: 62.4 eV.
    assert resolution.fwhm(jnp.asarray(0.525)) == pytest.approx(0.0624, abs=5e-5)


def test_resolution_has_finite_gradients_where_the_square_vanishes(precision):
    def fwhm(resolution):
        return resolution.fwhm(jnp.array([-1.0, 0.0, 1.0])).sum()

    gradient = jax.grad(fwhm)(Resolution(0.0, 0.12))
    assert np.isfinite(gradient.noise_fwhm)
    assert np.isfinite(gradient.fano)


def test_gradient_of_the_resolution(x64):
    def total(parameters):
        return Resolution(parameters[0], parameters[1]).fwhm(jnp.array([0.3, 6.0])).sum()

    point = jnp.array([0.05, 0.12])
    gradient = jax.grad(total)(point)
    for i in range(2):
        step = jnp.zeros(2).at[i].set(1e-6)
        numeric = (total(point + step) - total(point - step)) / 2e-6
        assert gradient[i] == pytest.approx(float(numeric), rel=1e-7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((100, 0.12), "finer than the 119.5 eV"), ((130, 0.0), "Fano factor is 0")],
)
def test_resolution_refuses_what_no_detector_has(arguments, words):
    with pytest.raises(InputError, match=words):
        Resolution.from_mn_ka(*arguments)


def test_oxygen_in_dysprosium_scandate(precision):
    """O K through 100 nm of 6.97 g/cm³ at 18 degrees, with the FFAST coefficients of Dy, Sc, O."""
    attenuation = jnp.array([5837.0, 23149.9, 1120.4])
    mixture = jnp.array([162.5, 44.956, 47.997]) / 255.453
    for fractions, expected in ((mixture, 0.463), (jnp.array([0.0, 0.0, 1.0]), 0.884)):
        chi = absorption_depth(attenuation, fractions, 6.97 * 100e-7, 18.0)
        assert absorption_factor(chi) == pytest.approx(expected, abs=5e-4)
