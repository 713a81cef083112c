"""The standard error of a bin's share, which says below what a phase counts as absent."""

import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax.inference._absent import share_errors
from esmpy_jax.objective import SumToOneAbundances, as_counts
from esmpy_jax.solve import AbundanceNewton, GivenStart, factorise


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
