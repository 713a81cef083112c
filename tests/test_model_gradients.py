"""Derivatives in every physical parameter, against central differences in double precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax.model import EDSModel, forward
from esmpy_jax.physics import Detector, EnergyAxis, MeasuredEfficiency, Resolution, detector_window


def nll(model, weights, abundances, counts):
    """Poisson negative log-likelihood of the counts, up to a constant: from G of each phase."""
    expected = forward(model.basis(weights), weights, abundances) + 1e-3
    return expected.sum() - (counts * jnp.log(expected)).sum()


def problem(efficiency):
    model = EDSModel.from_axis(
        EnergyAxis(0.3, 0.02, 400),
        ["O", "Si", "Fe"],
        beam_energy=200.0,
        stray=["Cu"],
        split={"Fe": 3.0},
        detector=Detector(efficiency, Resolution.from_mn_ka(130)),
        thickness=120,
        density=4.0,
        take_off_angle=22.0,
    )
    n_columns = len(model.columns)
    weights = jnp.asarray(
        0.2 + np.abs(np.sin(np.arange(2.0 * n_columns))).reshape(n_columns, 2), float
    )
    abundances = jnp.array([[3.0, 1.0, 0.2], [0.1, 1.0, 2.0]])
    expected = np.asarray(model.basis(weights).matrix[0] @ weights @ abundances)
    counts = np.round(expected * (1 + 0.3 * np.cos(np.arange(expected.size)).reshape(-1, 3)))
    return model, weights, abundances, jnp.asarray(counts, float)


@pytest.mark.parametrize(
    "efficiency",
    [
        lambda: detector_window("si3n4"),
        lambda: MeasuredEfficiency([0.1, 1.003, 5.007, 40.0], [0.1, 0.5, 0.9, 0.2]),
    ],
    ids=["layers", "measured"],
)
def test_gradient_of_the_likelihood_in_every_parameter(x64, efficiency):
    model, weights, abundances, counts = problem(efficiency())
    leaves, structure = jax.tree.flatten(model)

    @jax.jit
    def loss(leaves):
        return nll(jax.tree.unflatten(structure, leaves), weights, abundances, counts)

    gradient = jax.jit(jax.grad(loss))(leaves)
    n_checked = 0
    for i, leaf in enumerate(leaves):
        for j in np.ndindex(leaf.shape):
            # the quadratic term of the axis is a thousandth of a thousandth of the others
            h = (
                1e-11
                if leaf is model.energy_axis.quadratic
                else 1e-5 * max(abs(float(leaf[j])), 1e-3)
            )
            ends = []
            for sign in (1, -1):
                moved = [*leaves]
                moved[i] = leaf.at[j].add(sign * h)
                ends.append(float(loss(moved)))
            numeric = (ends[0] - ends[1]) / (2 * h)
            assert gradient[i][j] == pytest.approx(numeric, rel=1e-4, abs=1e-7)
            assert numeric != 0
            n_checked += 1
    # Offset, gain, quadratic term, noise, Fano factor, mass thickness, take-off angle; then those
    # of the detector.
    measured = isinstance(model.detector.efficiency, MeasuredEfficiency)
    assert n_checked == 7 + (4 if measured else 5)


def test_gradient_in_the_weights_passes_through_the_absorption(x64):
    model, weights, abundances, counts = problem(detector_window("windowless"))
    loss = eqx.filter_jit(lambda model, weights: nll(model, weights, abundances, counts))
    slope = eqx.filter_jit(jax.grad(loss, argnums=1))
    gradient = slope(model, weights)
    for row in (0, 1, 2, 3, 5):
        step = np.zeros(weights.shape)
        step[row, 1] = 1e-4
        numeric = float(loss(model, weights + step) - loss(model, weights - step)) / 2e-4
        assert gradient[row, 1] == pytest.approx(numeric, rel=1e-5)
    without = eqx.tree_at(lambda m: m.mass_thickness, model, jnp.asarray(1e-12))
    changed = slope(without, weights)
    assert not np.allclose(gradient[0, 1], changed[0, 1], rtol=1e-2)


def test_gradients_are_finite_at_the_ends_of_the_physics():
    """No absorption left, no noise: the places where formulas divide by zero."""
    model, weights, abundances, counts = problem(detector_window("windowless"))
    model = eqx.tree_at(
        lambda m: (m.mass_thickness, m.detector.resolution.noise_fwhm),
        model,
        (jnp.asarray(0.0), jnp.asarray(0.0)),
    )
    gradient = eqx.filter_jit(eqx.filter_grad(nll))(model, weights, abundances, counts)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert gradient.mass_thickness != 0
