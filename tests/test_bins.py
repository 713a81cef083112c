"""Bins of several sizes, of an image and of its parts, in the same shapes."""

import jax
import numpy as np
import pytest

from esmpy_jax.inference import _bins
from esmpy_jax.inference._bins import Bins
from esmpy_jax.inference._pools import number_of_pools, pooled_by_shares
from esmpy_jax.objective import as_counts, bin_counts, relative_to_counts, thin


# as few counts as in practice; bins around the density at which the storage changes; all dense
@pytest.mark.parametrize("mean", [0.01, 0.06, 2.0])
@pytest.mark.parametrize("shape", [(16, 18), (15, 17), (60,)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("few", "shared"), [(0, 0), (0, 2**21), (2**20, 2**21)])
def test_all_sizes_and_parts_share_shapes_and_keep_their_counts(
    mean, shape, seed, few, shared, monkeypatch
):
    monkeypatch.setattr(_bins, "FEW", few)
    monkeypatch.setattr(_bins, "SHARED_UP_TO", shared)
    rng = np.random.default_rng(seed)
    brightness = rng.gamma(2.0, 0.5, (*(1 for _ in shape), 300))
    counts = as_counts(rng.poisson(mean * brightness, (*shape, 300)))
    whole = relative_to_counts(counts)
    train, _ = thin(counts, 0.8, jax.random.key(seed))
    part = relative_to_counts(train)
    bins = Bins(whole, [[8, 2, 4]])
    kinds = set()
    for factor in (2, 4, 8):
        inside = tuple(slice(n) for n in bins.shape(factor))
        for full in (part, whole):
            binned = bins(full, factor)
            # what compiled programs are told apart by
            leaves = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(binned))
            kinds.add((jax.tree.structure(binned), leaves))
            expected = bin_counts(full, factor)
            values = binned.to_dense().reshape(*bins.grid(factor), -1)
            exposure = np.asarray(binned.exposure).reshape(bins.grid(factor))
            own = values[inside].reshape(-1, 300)
            np.testing.assert_array_equal(own, expected.to_dense())
            np.testing.assert_array_equal(exposure[inside].ravel(), expected.exposure)
            # nothing lies outside
            assert values.sum() == own.sum()
            assert (exposure > 0).sum() == (exposure[inside] > 0).sum()
    assert not (few and binned.is_sparse)
    assert len(kinds) == (1 if shared or binned.is_sparse else 3)


@pytest.mark.parametrize("shape", [(16, 18), (15, 17), (60,)])
@pytest.mark.parametrize("factor", [2, 4])
def test_means_and_repeats(shape, factor):
    rng = np.random.default_rng(factor)
    counts = as_counts(rng.poisson(1.0, (*shape, 20)))
    bins = Bins(counts, [[4, 2]])
    maps = rng.dirichlet(np.ones(3), shape).reshape(-1, 3).T
    means = bins.means(maps, factor)
    np.testing.assert_allclose(means.sum(0), 1.0)
    shaped, grid = maps.reshape(3, *shape), means.reshape(3, *bins.grid(factor))
    for index in np.ndindex(bins.shape(factor)):
        block = shaped[(slice(None), *(slice(i * factor, (i + 1) * factor) for i in index))]
        np.testing.assert_allclose(grid[(slice(None), *index)], block.reshape(3, -1).mean(1))
    again = bins.means(bins.at_full_resolution(means, factor), factor)
    np.testing.assert_allclose(again, means, rtol=1e-6)


@pytest.mark.parametrize(("n_phases", "together"), [(3, True), (5, False), (9, False)])
def test_pools_lie_in_a_grid_of_bins_that_has_room_for_all_pairs(n_phases, together):
    rng = np.random.default_rng(n_phases)
    counts = as_counts(rng.poisson(3.0, (16, 16, 20)))
    bins = Bins(counts, [[2]])
    bins(counts, 2)
    maps = rng.dirichlet(np.full(n_phases, 0.5), 256).T
    if n_phases == 5:
        bins = Bins(counts, [[4]])  # 16 places are fewer than half of 64 pools
        bins(counts, 4)
    pools, shares = bins.pooled(counts, maps)
    assert (pools.scan_shape == bins.grid(4 if n_phases == 5 else 2)) == together
    assert shares.shape == (n_phases, pools.n_pixels)
    assert pools.to_dense().sum() == counts.to_dense().sum()
    # no more of them than the counts are for, but for one that is not full of each pair
    assert (pools.pixel_totals() > 0).sum() <= 64 + n_phases * (n_phases - 1) / 2


@pytest.mark.parametrize("together", [True, False])
def test_pools_leave_places_empty_in_a_grid_that_is_not_too_large(together, monkeypatch):
    monkeypatch.setattr(_bins, "SHARED_UP_TO", 20 * 1024 - (not together))
    rng = np.random.default_rng(0)
    counts = as_counts(rng.poisson(3.0, (64, 64, 20)))
    bins = Bins(counts, [[2]])
    bins(counts, 2)
    maps = rng.dirichlet(np.full(3, 0.5), 64 * 64).T
    pools, shares = bins.pooled(counts, maps)
    assert (pools.scan_shape == (32, 32)) == together
    alone, own = pooled_by_shares(counts, maps, number_of_pools(counts.total))
    filled = np.asarray(pools.pixel_totals()) > 0
    some = np.asarray(alone.pixel_totals()) > 0
    np.testing.assert_array_equal(pools.to_dense()[filled], alone.to_dense()[some])
    np.testing.assert_allclose(shares[:, filled], np.asarray(own)[:, some], rtol=1e-6)
    assert not np.asarray(pools.exposure)[~filled].any()
    np.testing.assert_allclose(shares.sum(0), 1.0, rtol=1e-6)


def test_where_the_device_is_no_cpu_small_counts_are_dense_and_share_a_grid(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rng = np.random.default_rng(0)
    counts = as_counts(rng.poisson(0.01, (16, 16, 300)))
    assert not counts.is_sparse
    assert as_counts(rng.poisson(1e-4, (96, 96, 1000))).is_sparse  # over 8 million values
    assert as_counts(counts.to_dense(), storage="sparse").is_sparse  # as asked for
    bins = Bins(counts, [[4, 2]])
    assert bins.grid(4) == bins.grid(2) == (8, 8)
    kinds = {str(jax.tree.map(lambda x: (x.shape, x.dtype), bins(counts, f))) for f in (2, 4)}
    assert len(kinds) == 1
    assert bins(counts, 4).to_dense().sum() == counts.to_dense().sum()
