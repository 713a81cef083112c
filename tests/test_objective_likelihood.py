"""Poisson NLL and deviance against NumPy, in both storages and precisions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import STORAGES, deviance, example, nll

from esmpy_jax._basis import Basis
from esmpy_jax.objective import as_counts, pixel_excess, pixel_losses, poisson_deviance, poisson_nll

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

CASES = {
    "awkward, exposure": {"exposure": True},
    "awkward, G by phase": {"by_phase": True},
    "pixel": {"name": "pixel"},
    "channel": {"name": "channel"},
}


@eqx.filter_jit
def evaluate(counts, basis, weights, abundances):
    return (
        pixel_losses(counts, basis.endmembers(weights), abundances),
        poisson_nll(counts, basis, weights, abundances),
        poisson_deviance(counts, basis, weights, abundances),
    )


@eqx.filter_jit
def gradients(counts, basis, weights, abundances):
    def both(factors):
        return poisson_nll(counts, basis, *factors)

    return jax.value_and_grad(both)((weights, abundances))


@pytest.mark.parametrize(
    ("case", "storage"),
    [
        *(("awkward, exposure", storage) for storage in STORAGES),
        *(("pixel", storage) for storage in STORAGES),
        ("awkward, G by phase", "sparse"),
        ("channel", "dense"),
    ],
)
def test_losses_are_numpy_s(case, storage, precision):
    """To the tolerance times the magnitude of the terms, of which the losses are differences."""
    problem, rtol = example(**CASES[case]), TOLERANCE[precision]
    counts, basis = problem.counts(storage), problem.basis()
    weights, abundances = (
        jnp.asarray(problem.weights, float),
        jnp.asarray(problem.abundances, float),
    )
    losses, total, ours = evaluate(counts, basis, weights, abundances)
    assert losses.dtype == precision
    expected, size = nll(problem)
    assert (np.abs(np.asarray(losses, float) - expected) <= rtol * size).all()
    assert abs(float(total) - expected.sum()) <= rtol * size.sum()
    expected, size = deviance(problem)
    assert abs(float(ours) - expected) <= rtol * size


@pytest.mark.parametrize("storage", STORAGES)
def test_gradient_is_that_of_the_formula(storage, x64):
    problem = example(exposure=True)
    counts, basis = problem.counts(storage), problem.basis()
    weights, abundances = jnp.asarray(problem.weights), jnp.asarray(problem.abundances)
    _, (by_weights, by_abundances) = gradients(counts, basis, weights, abundances)
    slope = (1 - problem.y.T / problem.model()) * problem.dose()
    endmembers = problem.endmembers()
    np.testing.assert_allclose(by_abundances, endmembers.T @ slope, rtol=1e-9)
    expected = problem.matrix.T @ slope @ problem.abundances.T
    np.testing.assert_allclose(by_weights, expected, rtol=1e-9)


@pytest.mark.parametrize("storage", STORAGES)
def test_deviance_of_a_perfect_model_is_zero(storage, precision):
    y = np.random.default_rng(0).integers(0, 1000, (6, 5))
    basis = Basis.from_matrix(np.eye(5))
    counts = as_counts(y, storage=storage)
    ours = evaluate(counts, basis, jnp.eye(5), jnp.asarray(y.T, float))[2]
    assert abs(float(ours)) <= 10 * np.finfo(precision).eps * y.sum()


@pytest.mark.parametrize("storage", STORAGES)
def test_float32_deviance_of_a_bright_spectrum(storage):
    """A million counts, a fit to the noise: off by one rounding of each expected count at most."""
    rng = np.random.default_rng(1)
    model = rng.dirichlet(np.ones(50)) * 1e6
    y = rng.poisson(model)
    with jax.enable_x64(False):
        basis = Basis.from_matrix(model[:, None])
        counts = as_counts(y[None], storage=storage)
        ours = float(evaluate(counts, basis, jnp.ones((1, 1)), jnp.ones((1, 1)))[2])
    expected = 2 * (y * np.log(np.where(y > 0, y, 1) / model) - y + model).sum()
    assert 10 < expected < 200
    assert abs(ours - expected) < 2 * np.finfo(np.float32).eps * y.sum()


@pytest.mark.parametrize("seed", range(3))
def test_float32_differences_of_ten_million_dense_counts(seed):
    """Two models a nat apart: a rounding of the sum of the counts, 1.2 nats, would hide it.

    By channels the terms to round are deviances, about a half each, of which rounding of the
    model moves each by eps |y - x|: `eps sqrt(sum y)` at random, of which six are allowed.
    """
    rng = np.random.default_rng(seed)
    spectra = 1e4 * 4 * rng.dirichlet(np.ones(300), 3).T
    maps = rng.dirichlet(np.ones(3), 256).T
    y = rng.poisson(spectra @ maps).T
    other = spectra * (1 + 3e-5 * rng.standard_normal(spectra.shape))
    found = {}
    for x64 in (False, True):
        with jax.enable_x64(x64):
            counts = as_counts(y, storage="dense")
            before, after = (
                np.asarray(pixel_excess(counts, jnp.asarray(d, float), jnp.asarray(maps, float)))
                for d in (spectra.astype(np.float32), other.astype(np.float32))
            )
            found[x64] = (before - after).astype(float).sum()
    assert y.sum() > 1e7
    assert abs(found[True]) > 1e-3
    assert abs(found[False] - found[True]) < 6 * np.finfo(np.float32).eps * np.sqrt(y.sum())


@pytest.mark.parametrize("seed", range(3))
def test_float32_gradients_of_ten_million_dense_counts(seed):
    """Half of the terms of a gradient is nearly the other half, but its standard error is theirs.

    A model that is off by eps moves a term `1 - Y / X` by as much, at random: in a sum over n
    terms by eps sqrt(n), where the standard error is sqrt(n / counts of a term). 300 counts: 2e-6.
    """
    rng = np.random.default_rng(seed)
    spectra = (4e4 * rng.dirichlet(np.ones(300), 3).T).astype(np.float32)
    maps = rng.dirichlet(np.ones(3), 256).T.astype(np.float32)
    y, found = rng.poisson(spectra.astype(float) @ maps).T, {}
    for x64 in (False, True):
        with jax.enable_x64(x64):
            args = (jnp.asarray(x, float) for x in (spectra, maps, np.ones((1, 256))))
            found[x64] = moments_of(as_counts(y, storage="dense"), *args)
    squares = [0, 3, 5]  # among the pairs
    (of_pixel, of_channel), (pixel, channel) = found[False], found[True]
    off = np.abs(of_pixel[0] - pixel[0]) / np.sqrt(pixel[1][squares])
    assert off.max() < 1e-5
    off = np.abs(of_channel[0] - channel[0]) / np.sqrt(channel[1][:, squares])
    assert off.max() < 1e-5


def moments_of(counts, *args):
    """First and second moments by pixel and by channel, as NumPy arrays."""
    both = counts.pixel_moments(*args), counts.channel_moments(*args)
    return jax.tree.map(lambda x: np.asarray(x, float), both)


@pytest.mark.parametrize("storage", STORAGES)
def test_counts_that_the_model_excludes_stay_finite(storage, precision):
    """Channel 2 is out of reach of G, and one pixel is as bright there as counts can be."""
    basis = Basis.from_matrix(np.eye(3)[:, :2])
    counts = as_counts(np.array([[1, 2, 0], [5, 0, 2**31 - 100]]), storage=storage)
    weights, abundances = jnp.eye(2), jnp.ones((2, 2))
    value, gradient = gradients(counts, basis, weights, abundances)
    assert np.isfinite(float(value))
    assert np.isfinite(float(evaluate(counts, basis, weights, abundances)[2]))
    # the excluded counts pull at nothing: what is left is the gradient of the other counts
    np.testing.assert_allclose(gradient[1], [[0.0, -4.0], [-1.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(gradient[0], [[-4.0, -4.0], [0.0, 0.0]], atol=1e-6)
