"""Draws from recorded counts: their distribution, their storage, and both copies of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import STORAGES

from esmpy_jax._checks import InputError
from esmpy_jax.objective import SparseCounts, as_counts, find_places, resample, thin
from esmpy_jax.sharding import pixel_mesh, shard

N_DRAWS = 400
SHARE = 0.3


def recorded(storage="sparse", largest=255):
    """Mostly empty channels, one pixel so full that it overflows, and a largest count."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.poisson(rng.gamma(0.3, 6, (30, 40))), largest - 1)
    y[3] += 1
    y[7, 5] = largest
    y[11] = 0
    return as_counts(y, scan_shape=(5, 6), storage=storage)


def from_channels(counts):
    """The counts as the copy by channel has them, (pixel, channel)."""
    channel, pixel, value = counts.by_channel.to_triplets()
    out = np.zeros((counts.n_pixels, counts.n_channels), int)
    out[pixel, channel] = value
    return out


def draws(storage, kind):
    """(draw, pixel, channel): bootstraps, or the first of the two parts.

    Parts of counts that are all small are drawn photon by photon.
    """
    counts = recorded(storage, 40 if kind == "thin few" else 255)
    places = find_places(counts)
    out = []
    for key in jax.random.split(jax.random.key(5), N_DRAWS):
        if kind == "resample":
            new = resample(counts, key, places=places)
        else:
            new = thin(counts, SHARE, key, places=places)[0]
        out.append(new.to_dense().astype(int))
    return counts.to_dense().astype(int), np.stack(out)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["resample", "thin", "thin few"])
def test_means_and_variances_are_those_of_the_distribution(kind, storage):
    y, drawn = draws(storage, kind)
    mean = y if kind == "resample" else SHARE * y
    variance = y if kind == "resample" else SHARE * (1 - SHARE) * y
    error = np.sqrt(variance / N_DRAWS)
    assert np.abs(drawn.mean(0) - mean)[y == 0].max() == 0
    some = y > 0
    scores = (drawn.mean(0) - mean)[some] / error[some]
    # of some 500 scores: none beyond five standard errors, and about one on average
    assert np.abs(scores).max() < 5
    assert abs((scores**2).mean() - 1) < 5 * np.sqrt(2 / some.sum())
    # variances, and no more covariance than chance between neighbours in either order
    ratio = drawn.var(0)[some] / variance[some]
    assert abs(ratio.mean() - 1) < 0.03
    z = ((drawn - mean) / np.sqrt(np.maximum(variance, 1)))[:, some]
    for order in (slice(None), np.argsort(np.nonzero(y)[1], kind="stable")):
        at = z[:, order]
        assert abs((at[:, 1:] * at[:, :-1]).mean()) < 5 / np.sqrt(N_DRAWS * some.sum())
    # whole images scatter as the sum of independent counts does
    totals = drawn.sum((1, 2))
    assert 0.8 < totals.var() / variance.sum() < 1.25


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("seed", range(3))
def test_two_parts_add_up_to_the_counts(seed, storage):
    counts = recorded(storage)
    first, second = thin(counts, 0.5, jax.random.key(seed))
    few = recorded(storage, 40)
    parts = thin(few, 0.5, jax.random.key(seed))
    np.testing.assert_array_equal(sum(p.to_dense().astype(int) for p in parts), few.to_dense())
    for part in (first, second):
        assert part.to_dense().max() <= 255
    np.testing.assert_array_equal(
        first.to_dense().astype(int) + second.to_dense(), counts.to_dense()
    )
    nothing, everything = thin(counts, 0.0, jax.random.key(seed))
    assert nothing.total == 0
    assert everything.total == counts.total


def test_draws_may_exceed_the_type_of_the_counts():
    counts = as_counts(np.full((40, 3), 255), storage="dense")
    drawn = resample(counts, jax.random.key(0)).to_dense()
    assert drawn.max() > 255
    assert abs(drawn.mean() - 255) < 5 * np.sqrt(255 / 120)


def test_both_copies_hold_the_same_counts():
    counts = recorded()
    assert counts.by_pixel.overflow.value.size
    made = [resample(counts, jax.random.key(3)), *thin(counts, 0.5, jax.random.key(3))]
    made += [resample(made[1], jax.random.key(4))]  # of counts that hold zeros in their places
    for new in made:
        np.testing.assert_array_equal(from_channels(new), new.to_dense())
        np.testing.assert_array_equal(new.sum_spectrum(), new.to_dense().sum(0))
        np.testing.assert_array_equal(new.pixel_totals(), new.to_dense().sum(1))


def test_draws_are_counts_as_any_other():
    """Passes over places that became empty give what counts without such places give."""
    counts = recorded()
    part = thin(counts, 0.3, jax.random.key(3))[0]
    again = as_counts(part.to_dense(), scan_shape=part.scan_shape, storage="sparse")
    rng = np.random.default_rng(1)
    factors = jnp.asarray(rng.random((40, 3)), float), jnp.asarray(rng.random((3, 30)), float)
    for name in ("pixel_pass", "channel_pass", "log_pass", "excess_pass"):
        one, other = (getattr(c, name)(*factors) for c in (part, again))
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-4)


def test_draws_share_all_but_the_values():
    counts = recorded()
    assert isinstance(counts, SparseCounts)
    places = find_places(counts)
    one, other = (resample(counts, jax.random.key(k), places=places) for k in (0, 1))
    same = [a is b for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
    assert same.count(False) == 4  # the values: by pixel and by channel, first and overflow
    assert one.by_pixel.first.partner is counts.by_pixel.first.partner
    assert other.by_channel.owner is counts.by_channel.owner


@pytest.mark.parametrize("storage", STORAGES)
def test_draws_follow_the_key_and_can_be_compiled(storage):
    counts = recorded(storage)
    places = find_places(counts)
    compiled = jax.jit(lambda key: resample(counts, key, places=places).sum_spectrum())
    for seed in (0, 1):
        direct = resample(counts, jax.random.key(seed)).sum_spectrum()
        np.testing.assert_array_equal(compiled(jax.random.key(seed)), direct)
    assert (compiled(jax.random.key(0)) != compiled(jax.random.key(1))).any()


def test_counts_on_several_devices_are_refused():
    spread = shard(recorded(), pixel_mesh(jax.devices()[:1]))
    with pytest.raises(InputError, match="draw before `shard`"):
        resample(spread, jax.random.key(0))


@pytest.mark.parametrize("seed", range(3))
def test_draws_for_pixels_are_those_of_all(seed):
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random(60) < 0.1, 3.0, 0.05)[:, None]  # bright pixels need overflow blocks
    counts = as_counts(rng.poisson(rate, (60, 400)), storage="sparse")
    key = jax.random.key(seed)
    for whole, own in zip(thin(counts, 0.7, key), thin(counts.for_pixels(), 0.7, key), strict=True):
        np.testing.assert_array_equal(whole.to_dense(), own.to_dense())
        assert own.by_channel is None
