"""The score of held-out counts against SciPy, and the rule that chooses by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multinomial

import esmpy_jax as ej
from esmpy_jax.inference._held_out import difference, within_error
from esmpy_jax.objective import as_counts, thin


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_losses_are_multinomial(storage, seed):
    rng = np.random.default_rng(seed)
    data = rng.poisson(0.7, (6, 9))
    data[2] = 0
    spectra, maps = rng.random((9, 3)), rng.random((3, 6))
    maps[:, 4] = 0.0  # nothing predicted: an even mix of the spectra
    counts = as_counts(data, storage=storage, exposure=rng.uniform(0.5, 2, 6))
    found = ej.held_out_losses(counts, jnp.asarray(spectra, float), jnp.asarray(maps, float))
    mean = spectra @ maps
    mean[:, 4] = (spectra / spectra.sum(0)).sum(1)
    for p in range(6):
        n = data[p].sum()
        best = multinomial.logpmf(data[p], n, data[p] / max(n, 1)) if n else 0.0
        loss = best - multinomial.logpmf(data[p], n, mean[:, p] / mean[:, p].sum()) if n else 0.0
        assert float(found[p]) == pytest.approx(loss, abs=1e-4)


def test_the_truth_is_expected_to_have_the_lowest_loss():
    """A wrong mix is worse by the Kullback–Leibler distance, on average over 20 draws."""
    rng = np.random.default_rng(0)
    spectra = rng.random((30, 2))
    maps = np.full((2, 200), [[0.7], [0.3]])
    wrong = np.full((2, 200), [[0.6], [0.4]])
    excess = []
    for seed in range(20):
        counts = as_counts(np.random.default_rng(seed).poisson(10 * (spectra @ maps).T))
        _, test = thin(counts, 0.5, jax.random.key(seed))
        one, other = (
            np.asarray(ej.held_out_losses(test, *(jnp.asarray(x, float) for x in (spectra, h))))
            for h in (wrong, maps)
        )
        excess.append(difference(one, other))
    worse, error = np.mean(excess, axis=0)
    mean, off = spectra @ maps[:, 0], spectra @ wrong[:, 0]
    p, q = mean / mean.sum(), off / off.sum()
    expected = 200 * 5 * mean.sum() * (p * np.log(p / q)).sum()
    assert worse == pytest.approx(expected, abs=4 * error / np.sqrt(20))
    assert np.std([w for w, _ in excess]) == pytest.approx(error, rel=0.5)  # 20 draws: 16 %


def test_the_first_that_is_as_good_as_the_best_is_taken():
    rng = np.random.default_rng(0)
    best = rng.normal(0, 1, 400)
    far, near = best + rng.normal(1, 1, 400), best + rng.normal(0.02, 1, 400)
    assert within_error([far, near, best]) == 1
    assert within_error([far, best, near]) == 1
    assert within_error([best, far]) == 0
    assert within_error([best]) == 0
