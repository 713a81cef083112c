import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax.physics import EnergyAxis, line_profiles, line_spectra

AXIS = (0.2, 0.01, 1980)
ENERGY = np.array([0.525, 1.74, 6.404, 17.479])
FWHM = np.array([0.06, 0.08, 0.135, 0.21])


def exact_shares(energy, fwhm, offset, gain, size):
    """Channel shares by the standard library's erf and erfc, in double precision."""
    sigma = fwhm / math.sqrt(8 * math.log(2))
    shares = np.zeros(size)
    for i in range(size):
        a = (offset + gain * (i - 0.5) - energy) / (sigma * math.sqrt(2))
        b = (offset + gain * (i + 0.5) - energy) / (sigma * math.sqrt(2))
        if a > 0:
            shares[i] = (math.erfc(a) - math.erfc(b)) / 2
        elif b < 0:
            shares[i] = (math.erfc(-b) - math.erfc(-a)) / 2
        else:
            shares[i] = (math.erf(b) - math.erf(a)) / 2
    return shares


def test_profiles_agree_with_erf_of_the_standard_library(precision):
    profiles = line_profiles(EnergyAxis(*AXIS), jnp.asarray(ENERGY), jnp.asarray(FWHM))
    exact = np.stack([exact_shares(e, w, *AXIS) for e, w in zip(ENERGY, FWHM, strict=True)], 1)
    # float32 rounds the line's own energy: 6e-8 * 17 keV is 1e-5 of its width.
    tolerance = 1e-5 if precision == "float32" else 1e-12
    np.testing.assert_allclose(profiles, exact, atol=tolerance * exact.max(0).min(), rtol=0)
    # In the tails down to exp(-18) the relative error stays small too.
    tail = (exact > 1e-8 * exact.max(0)) & (exact > 0)
    relative = np.abs(np.asarray(profiles, float) / np.where(tail, exact, 1) - 1)[tail]
    assert relative.max() < (1e-4 if precision == "float32" else 1e-9)


def test_profiles_sum_to_one_and_are_never_negative(precision):
    energies = jnp.linspace(1.0, 19.0, 301)
    profiles = line_profiles(EnergyAxis(*AXIS), energies, jnp.full(301, 0.13))
    assert (profiles >= 0).all()
    np.testing.assert_allclose(profiles.sum(0), 1.0, atol=3e-6)


def test_a_line_at_the_end_of_the_axis_loses_what_falls_outside(x64):
    axis = EnergyAxis(0.0, 0.01, 100)
    # A line on the upper edge of the last channel: half of it is inside.
    profiles = line_profiles(axis, jnp.array([0.995, 5.0, -5.0]), jnp.full(3, 0.1))
    np.testing.assert_allclose(profiles.sum(0), [0.5, 0.0, 0.0], atol=1e-12)


def test_a_line_without_width_falls_into_one_channel(precision):
    axis = EnergyAxis(0.0, 0.01, 100)
    profiles = line_profiles(axis, jnp.array([0.502]), jnp.zeros(1))
    np.testing.assert_allclose(profiles[:, 0], np.arange(100) == 50, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda w: line_profiles(axis, jnp.array([0.502]), w).sum()))(
        jnp.zeros(1)
    )
    assert np.isfinite(gradient).all()


def test_line_spectra_equal_profiles_times_amplitude(precision):
    axis = EnergyAxis(*AXIS)
    amplitude = jnp.array([3.0, 0.0, 2.0, 50.0])
    spectra = line_spectra(jnp.asarray(ENERGY), amplitude, jnp.asarray(FWHM), axis.edges)
    expected = line_profiles(axis, jnp.asarray(ENERGY), jnp.asarray(FWHM)) * amplitude[None, :]
    # Rounded edges in float32: 1e-6 keV of a channel of 0.01 keV, twice.
    np.testing.assert_allclose(
        spectra, expected, atol=(3e-4 if precision == "float32" else 1e-11) * expected.max()
    )


def test_line_spectra_on_uneven_edges(x64):
    spectra = line_spectra(
        jnp.array([1.0]), jnp.array([7.0]), jnp.array([0.1]), jnp.array([-9.0, 1.0, 1.05, 9.0])
    )
    # The half width at half maximum is 0.05: erf(sqrt(ln 2)) of the line lies within it.
    inside = math.erf(math.sqrt(math.log(2)))
    expected = [0.5, inside / 2, (1 - inside) / 2]
    np.testing.assert_allclose(spectra[:, 0] / 7, expected, rtol=1e-12)


def test_gradients_of_the_profiles(x64):
    """Also where an edge of a channel falls exactly on the line (1.745)."""
    weight = jnp.sin(jnp.arange(AXIS[2]) * 0.7) + 0.3

    @jax.jit
    def total(parameters):
        offset, gain, line, fwhm = parameters
        axis = EnergyAxis(offset, gain, AXIS[2])
        return weight @ line_profiles(axis, line[None], fwhm[None])[:, 0]

    slope = jax.jit(jax.grad(total))
    for energy in (1.74, 1.745, 0.2, 19.99):
        point = np.array([0.2, 0.01, energy, 0.08])
        gradient = slope(jnp.asarray(point))
        for i, h in enumerate([1e-5, 1e-8, 1e-5, 1e-5]):
            step = h * np.eye(4)[i]
            numeric = float(total(point + step) - total(point - step)) / (2 * h)
            assert gradient[i] == pytest.approx(numeric, rel=1e-5, abs=1e-5)
