"""From the physical parameters to the likelihood of the counts, and back by gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import esmpy_jax as ej
from esmpy_jax.physics import detector_window

ELEMENTS = ["O", "Mg", "Fe"]
ABUNDANCES = np.array([[4.0, 2.0, 0.0, 1.0], [0.0, 1.0, 5.0, 1.0]])


def thick_model(offset=0.3):
    return ej.EDSModel.from_axis(
        ej.EnergyAxis(offset, 0.03, 240),
        ELEMENTS,
        beam_energy=200.0,
        stray=["Cu"],
        detector=ej.Detector(detector_window("ap3.3"), ej.Resolution.from_mn_ka(135)),
        thickness=150,
        density=4.5,
        take_off_angle=25.0,
    )


def factors(model):
    n = len(model.columns)
    weights = 0.1 + np.abs(np.cos(np.arange(2.0 * n))).reshape(n, 2)
    return jnp.asarray(weights, float), jnp.asarray(ABUNDANCES, float)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_gradient_of_the_whole_likelihood_in_every_parameter(x64, storage):
    """`parameters -> basis -> poisson_nll`, with self-absorption following W."""
    model = thick_model()
    weights, abundances = factors(model)
    mean = np.asarray(ej.forward(model.basis(weights), weights, abundances))
    y = np.random.default_rng(0).poisson(0.7 * mean.T)
    counts = ej.as_counts(y, storage=storage)
    leaves, structure = jax.tree.flatten(model)

    @jax.jit
    def loss(leaves, counts):
        basis = jax.tree.unflatten(structure, leaves).basis(weights)
        return ej.poisson_nll(counts, basis, weights, abundances)

    gradient = jax.tree.unflatten(structure, jax.jit(jax.grad(loss))(leaves, counts))
    named = {
        "offset": lambda m: m.energy_axis.offset,
        "gain": lambda m: m.energy_axis.gain,
        "noise": lambda m: m.detector.resolution.noise_fwhm,
        "fano": lambda m: m.detector.resolution.fano,
        "mass thickness": lambda m: m.mass_thickness,
        "take-off angle": lambda m: m.take_off_angle,
        "active layer": lambda m: m.detector.efficiency.active.thickness,
        "first window": lambda m: m.detector.efficiency.windows[0].thickness,
        "open area": lambda m: m.detector.efficiency.open_area,
    }
    checked = 0
    for name, where in named.items():
        value = where(model)
        ends = []
        step = 1e-5 * max(abs(float(value)), 1e-3)
        for sign in (1, -1):
            moved = eqx.tree_at(where, model, value + sign * step)
            ends.append(float(loss(jax.tree.leaves(moved), counts)))
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert numeric != 0, name
        assert float(where(gradient)) == pytest.approx(numeric, rel=2e-4, abs=1e-7), name
        checked += 1
    assert checked == 9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_in_the_factors(x64):
    model = thick_model()
    weights, abundances = factors(model)
    mean = np.asarray(ej.forward(model.basis(weights), weights, abundances))
    counts = ej.as_counts(np.random.default_rng(1).poisson(mean.T))

    @jax.jit
    def loss(weights, abundances):
        return ej.poisson_nll(counts, model.basis(weights), weights, abundances)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, abundances)
    for which, (row, column) in ((0, (0, 1)), (0, (2, 0)), (0, (4, 1)), (1, (0, 1)), (1, (1, 3))):
        step = jnp.zeros((weights, abundances)[which].shape).at[row, column].set(1e-5)
        ends = [
            loss(weights + sign * step, abundances)
            if which == 0
            else loss(weights, abundances + sign * step)
            for sign in (1, -1)
        ]
        numeric = float(ends[0] - ends[1]) / 2e-5
        assert float(gradients[which][row, column]) == pytest.approx(numeric, rel=1e-4, abs=1e-5)


def test_optax_finds_the_offset_and_the_noise_an_image_was_made_with():
    """A user's own refinement: a few lines of optax on the summed likelihood.

    A line of FWHM w and N counts is found to w / sqrt(5.5 N): with 10⁶ counts to some 0.1 eV.
    """
    elements = ["Mg", "Si", "Fe"]
    detector = ej.Detector(detector_window("windowless"), ej.Resolution(0.060, 0.12))
    true = ej.EDSModel.from_axis(
        ej.EnergyAxis(0.6, 0.02, 300), elements, beam_energy=200.0, detector=detector
    )
    wrong = eqx.tree_at(
        lambda m: (m.energy_axis.offset, m.detector.resolution.noise_fwhm),
        true,
        (jnp.asarray(0.607, float), jnp.asarray(0.050, float)),
    )
    weights = jnp.array([[0.5], [0.3], [0.2], [1e-3], [1e-3]])
    mean = np.asarray(ej.forward(true.basis(), weights, jnp.ones((1, 1)))).T
    y = np.random.default_rng(5).poisson(1e6 / mean.sum() * mean)
    counts = ej.as_counts(y)
    abundances = jnp.full((1, 1), float(1e6 / mean.sum()))

    # in units in which a step of one is sensible: 1 eV for the energies, 1 % for the weights
    def model_at(theta):
        return eqx.tree_at(
            lambda m: (m.energy_axis.offset, m.detector.resolution.noise_fwhm),
            wrong,
            (0.607 + 1e-3 * theta["offset"], 0.050 + 1e-3 * theta["noise"]),
        )

    def loss(theta):
        w = weights * jnp.exp(0.01 * theta["weights"])
        return ej.poisson_nll(counts, model_at(theta).basis(), w, abundances) / 1e6

    theta = {"offset": jnp.zeros(()), "noise": jnp.zeros(()), "weights": jnp.zeros((5, 1))}
    optimiser = optax.lbfgs()
    state = optimiser.init(theta)
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def step(theta, state):
        value, gradient = value_and_grad(theta, state=state)
        updates, state = optimiser.update(
            gradient, state, theta, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(theta, updates), state

    for _ in range(30):
        theta, state = step(theta, state)
    found = model_at(theta)
    assert float(found.energy_axis.offset) == pytest.approx(0.600, abs=3e-4)
    assert float(found.detector.resolution.noise_fwhm) == pytest.approx(0.060, abs=8e-4)
