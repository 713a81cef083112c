"""Parts of an image binned in the shapes of the whole."""

import jax
import numpy as np
import pytest

from esmpy_jax.inference._bins import Bins
from esmpy_jax.objective import as_counts, bin_counts, relative_to_counts, thin


# as few counts as in practice; bins around the density at which the storage changes; both dense
@pytest.mark.parametrize("mean", [0.01, 0.06, 2.0])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_part_has_the_shapes_of_the_whole_and_its_own_counts(mean, factor, seed):
    rng = np.random.default_rng(seed)
    counts = as_counts(rng.poisson(mean * rng.gamma(2.0, 0.5, (1, 1, 300)), (16, 18, 300)))
    whole = relative_to_counts(counts)
    train, _ = thin(counts, 0.8, jax.random.key(seed))
    part = relative_to_counts(train)
    bins = Bins(whole)
    small, all_of_it = bins(part, factor), bins(whole, factor)
    # what compiled programs are told apart by
    assert jax.tree.structure(small) == jax.tree.structure(all_of_it)
    kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(c)] for c in (small, all_of_it)]
    assert kinds[0] == kinds[1]
    for binned, full in ((small, part), (all_of_it, whole)):
        expected = bin_counts(full, factor)
        np.testing.assert_array_equal(binned.to_dense(), expected.to_dense())
        np.testing.assert_array_equal(binned.exposure, expected.exposure)
