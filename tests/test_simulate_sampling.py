"""Poisson sampling: the distribution of every channel, determinism, memory-free corner cases."""

import functools

import jax
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.objective import _sampling
from esmpy_jax.simulate import sample_counts

D = np.array([[0.5, 0.0], [0.3, 0.1], [0.0, 0.0], [0.2, 0.9], [0.0, 0.4]])
H = np.array([[4.0, 0.0, 20.0, 1.0, 0.0, 0.5], [0.0, 0.0, 30.0, 2.0, 1.0, 7.0]])


def draw(seed, d=D, h=H, **kwargs):
    return np.asarray(sample_counts(d, h, key=jax.random.key(seed), **kwargs).to_dense(), int)


N_DRAWS = 300


@functools.cache
def many_draws():
    """(draw, pixel, channel)"""
    return np.stack([draw(seed) for seed in range(N_DRAWS)])


@pytest.mark.slow
def test_each_channel_is_poisson_with_the_right_mean():
    """Mean and variance over keys; 5 standard errors, and the sampling variance of a variance."""
    n, samples = N_DRAWS, many_draws()
    mean = (D @ H).T
    np.testing.assert_array_less(np.abs(samples.mean(0) - mean), 5 * np.sqrt(mean / n) + 1e-12)
    error = np.sqrt((mean + 2 * mean**2) / n)  # of the sample variance of a Poisson variable
    np.testing.assert_array_less(np.abs(samples.var(0, ddof=1) - mean), 6 * error + 1e-12)


def test_channels_and_pixels_are_independent():
    """A fixed total per pixel would make channels anticorrelated; Poisson ones are not."""
    samples = many_draws().astype(float)
    filled = samples[:, 2, [0, 1, 3, 4]]
    correlation = np.corrcoef(filled.T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(N_DRAWS)
    pixels = samples.sum(2)[:, [0, 2, 3, 5]]
    assert np.abs(np.corrcoef(pixels.T) - np.eye(4)).max() < 5 / np.sqrt(N_DRAWS)


def test_a_large_sample_follows_a_spectrum_over_six_decades():
    """Chi-squared of a bright pixel, from channels of few counts to channels of millions."""
    spectrum = np.logspace(-6, 0, 200)
    total = 2e6
    got = draw(0, spectrum[:, None], np.array([[total / spectrum.sum()]]))[0]
    expected = total * spectrum / spectrum.sum()
    bright = expected > 10
    chi2 = ((got - expected) ** 2 / expected)[bright].sum()
    assert abs(chi2 - bright.sum()) < 5 * np.sqrt(2 * bright.sum())
    assert abs(got.sum() - total) < 5 * np.sqrt(total)


def test_the_key_decides(precision):
    first = draw(3)
    np.testing.assert_array_equal(first, draw(3))
    assert (first != draw(4)).any()


def test_both_precisions_draw_the_same():
    rng = np.random.default_rng(0)
    d, h = rng.random((50, 3)), rng.random((3, 40))
    single = draw(1, d, h)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(single, draw(1, d, h))


def test_tiles_leave_no_seam(monkeypatch):
    """Small tiles: every pixel still gets its own mean."""
    monkeypatch.setattr(_sampling, "_ENTRIES", 2 * D.shape[0])
    monkeypatch.setattr(_sampling, "_BLOCK", 64)
    h = np.tile([[300.0], [200.0]], (1, 41))
    counts = draw(0, h=h, scan_shape=(1, 41))
    mean = (D @ h).T
    assert np.abs((counts - mean) / np.sqrt(np.maximum(mean, 1))).max() < 5
    assert counts.shape == (41, 5)


def test_nothing_expected_gives_nothing():
    assert draw(0)[1].sum() == 0, "an empty pixel"
    assert draw(0)[:, 2].sum() == 0, "an empty channel"
    dark = sample_counts(
        np.zeros((4, 1)), np.ones((1, 6)), key=jax.random.key(0), scan_shape=(2, 3)
    )
    assert int(dark.total) == 0
    assert dark.scan_shape == (2, 3)


def test_faint_images_are_stored_sparse():
    counts = sample_counts(np.full((500, 1), 0.002), np.ones((1, 64)), key=jax.random.key(0))
    assert counts.is_sparse


def test_bad_expectations_are_named():
    with pytest.raises(InputError, match="abundances"):
        sample_counts(D, -H, key=jax.random.key(0))
    with pytest.raises(InputError, match="phase spectra"):
        sample_counts(D * np.nan, H, key=jax.random.key(0))
