"""W fitted again to pooled pixels; the error of a share says below what a phase is absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import Basis
from esmpy_jax.inference._absent import refit, share_errors
from esmpy_jax.inference._bins import Bins
from esmpy_jax.inference._job import Job
from esmpy_jax.inference._smoothing import smoothing
from esmpy_jax.objective import SumToOneAbundances, as_counts, bin_counts
from esmpy_jax.solve import AbundanceNewton, GivenStart, VariableProjectionNewton, factorise


def fitted(data, spectra, shares):
    return factorise(
        as_counts(data),
        spectra,
        spectra.shape[1],
        solver=AbundanceNewton(),
        start=GivenStart(
            jnp.eye(spectra.shape[1]),
            jnp.full((spectra.shape[1], len(data)), 1 / spectra.shape[1]),
        ),
        constraint=SumToOneAbundances(),
        fixed_weights=np.eye(spectra.shape[1]),
    ), shares


@pytest.mark.parametrize("counts_per_bin", [1000.0, 20_000.0])
def test_the_error_is_the_scatter_of_fitted_shares(counts_per_bin):
    """Two phases, 0.7 and 0.3: the scatter over 4000 bins, known to 1.1 %, with 4 of these."""
    rng = np.random.default_rng(0)
    spectra = rng.random((40, 2)) ** 3
    spectra *= counts_per_bin / spectra.sum(0)
    truth = np.repeat([[0.7], [0.3]], 4000, 1)
    fit, shares = fitted(rng.poisson((spectra @ truth).T), spectra, truth)
    scatter = np.asarray(fit.abundances, float)[1].std()
    error = share_errors(fit.problem.counts, fit.basis.endmembers(fit.weights), shares)
    assert np.isinf(error[0]).all()  # the largest has none
    # information from the counts found scatters itself; its mean is what is expected
    assert np.median(error[1]) == pytest.approx(scatter, rel=0.05)


def test_phases_that_look_alike_have_no_known_share():
    rng = np.random.default_rng(1)
    one = rng.random((40, 1))
    spectra = 1000 * np.concatenate([one, one], 1) / one.sum()
    truth = np.repeat([[0.7], [0.3]], 5, 1)
    fit, shares = fitted(rng.poisson((spectra @ truth).T), spectra, truth)
    assert (
        share_errors(fit.problem.counts, fit.basis.endmembers(fit.weights), shares) > 1
    ).all()  # more than any share can be


def _hemisphere():
    """A job, G, W and the share of a hemisphere of radius 12 in 64 x 64 pixels."""
    shapes = np.random.default_rng(0).random((60, 4)) ** 4
    basis = shapes / shapes.sum(0)
    weights = np.array([[0.6, 0.1], [0.3, 0.1], [0.1, 0.1], [0.0, 0.7]])
    y, x = np.mgrid[:64, :64] - 31.5  # where four bins meet
    height = np.sqrt(np.maximum(1 - (y**2 + x**2) / 12**2, 0)).ravel()
    job = Job(
        Basis.from_matrix(basis),
        2,
        SumToOneAbundances(),
        None,
        jax.random.key(0),
        VariableProjectionNewton(),
        AbundanceNewton(),
        0.1,
        1000,
        None,
        None,
    )
    return job, basis, weights, height


def _binned(counts, basis, weights, maps):
    """The shares of bins of 8 x 8 pixels with W held."""
    shares = Bins(counts, [(8,)]).means(maps, 8)
    return factorise(
        bin_counts(counts, 8),
        basis,
        2,
        solver=AbundanceNewton(),
        start=GivenStart(jnp.asarray(40 * weights, float), jnp.asarray(shares, float)),
        constraint=SumToOneAbundances(),
        fixed_weights=40 * weights,
    )


def _of_the_matrix(weights, fit):
    """How much of the first phase is in the second, by least squares on the true ones."""
    w = np.asarray(fit.weights, float)
    return np.linalg.lstsq(weights, w / w.sum(0), rcond=None)[0][0, 1]


@pytest.mark.slow
def test_pools_find_the_spectrum_of_a_particle_that_fills_no_bin():
    """A hemisphere of radius 12 in 64 x 64 pixels, bins of 8 x 8: none is purer than 0.9.

    To the bins a particle with 10 % of the matrix in its spectrum is as good as a pure one.
    """
    job, basis, weights, height = _hemisphere()
    maps = np.stack([1 - height, height])
    mixed = weights @ np.array([[1.0, 0.12], [0.0, 0.88]])
    shares = []
    for seed in range(4):
        data = np.random.default_rng(seed).poisson(40 * (basis @ weights @ maps).T)
        counts = as_counts(data, scan_shape=(64, 64))
        bins = Bins(counts, [(8,)])
        assert bins.means(maps, 8)[1].max() < 0.9
        first = _binned(counts, basis, mixed, maps)
        found = job.maps(counts, first, jnp.asarray(maps, float), smoothing(6.0)).abundances
        again = refit(job, bins, counts, first, found, 2.0, (0.25, 2.0), 1000)
        shares.append(_of_the_matrix(weights, again))
    # 12 % at the start, of which the bins would not notice 10; at least halved on average
    assert np.abs(shares).max() < 0.1
    assert abs(np.mean(shares)) < 0.06


@pytest.mark.parametrize(("most", "strength"), [(1.0, 0.25), (0.5, 4.0)])
def test_without_pure_pools_mixtures_are_left_to_the_purity(most, strength):
    """Of 0.25, the least, and 4.0, the one that was chosen."""
    job, basis, weights, height = _hemisphere()
    maps = np.stack([1 - most * height, most * height])
    data = np.random.default_rng(0).poisson(40 * (basis @ weights @ maps).T)
    counts = as_counts(data, scan_shape=(64, 64))
    first = _binned(counts, basis, weights, maps)
    bins = Bins(counts, [(8,)])
    bins(counts, 8)
    again = refit(job, bins, counts, first, jnp.asarray(maps, float), 2.0, (0.25, 4.0), 1000)
    own, around = again.problem.regulariser.terms
    assert (float(own.strength), float(around.strength)) == (strength, 0.0)
    # the pools lie where the bins do, and so run their program
    assert again.problem.counts.scan_shape == bins.grid(8)
