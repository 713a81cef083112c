"""Counts: kept exactly, summed exactly, binned exactly, and refused with one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from factor_problems import STORAGES, array_sizes, inner_programs

from esmpy_jax._checks import InputError
from esmpy_jax.objective import SparseCounts, as_counts, bin_counts, counts_from_coo


def image(seed=0, largest=200, shape=(4, 5, 9)):
    rng = np.random.default_rng(seed)
    y = rng.integers(1, largest + 1, shape) * (rng.random(shape) < 0.3)
    y[0, 0] = 0
    y[:, :, 4] = 0
    y[1, 2, 3] = largest
    return y


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(
    ("largest", "kind"),
    [(255, "uint8"), (256, "uint16"), (70_000, "uint32"), (2**31 - 1, "uint32")],
)
def test_counts_are_kept_exactly(storage, largest, kind):
    y = image(largest=largest, shape=(4, 5, 9)) if largest < 10**6 else np.array([[[0, largest]]])
    counts = as_counts(y, storage=storage)
    stored = counts.by_pixel.first.value if isinstance(counts, SparseCounts) else counts.values  # pyright: ignore[reportAttributeAccessIssue]
    assert stored.dtype == kind
    assert counts.scan_shape == y.shape[:2]
    assert counts.is_sparse == (storage == "sparse")
    np.testing.assert_array_equal(counts.to_dense().reshape(y.shape), y)
    assert counts.total == y.sum()


@pytest.mark.parametrize("storage", STORAGES)
def test_triplets_come_back_sorted(storage):
    y = image().reshape(20, 9)
    pixel, channel, value = as_counts(y, storage=storage).to_coo()
    expected = np.nonzero(y)
    np.testing.assert_array_equal(pixel, expected[0])
    np.testing.assert_array_equal(channel, expected[1])
    np.testing.assert_array_equal(value, y[expected])


@pytest.mark.parametrize("storage", STORAGES)
def test_sums_are_exact_below_the_resolution_of_floats(storage, precision):
    """Summed as integers: a float32 sum of 300 counts of 65535 and one of 1 would lose the one."""
    y = np.full((300, 2), 65_535)
    y[17, 1] = 1
    counts = as_counts(y, storage=storage)
    np.testing.assert_array_equal(counts.pixel_totals(), y.sum(1))
    np.testing.assert_array_equal(counts.sum_spectrum(), y.sum(0).astype(precision))


def test_storage_follows_density():
    y = np.zeros((4, 4, 10), int)
    y[..., :2] = 1
    assert as_counts(y).is_sparse
    y[..., :3] = 1
    assert not as_counts(y).is_sparse
    assert as_counts(y, storage="sparse").is_sparse


@pytest.mark.parametrize("storage", STORAGES)
def test_scipy_sparse_matrices(storage):
    y = image().reshape(20, 9)
    for build in (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array):
        counts = as_counts(build(y), scan_shape=(4, 5), storage=storage)
        np.testing.assert_array_equal(counts.to_dense(), y)
    assert as_counts(scipy.sparse.csr_matrix(y)).scan_shape == (20,)
    with pytest.raises(InputError, match=r"\(3, 5\) does not hold the 20 pixels"):
        as_counts(scipy.sparse.csr_matrix(y), scan_shape=(3, 5))


@pytest.mark.parametrize("storage", STORAGES)
def test_pairs_that_come_twice_are_added_in_any_order(storage):
    rng = np.random.default_rng(1)
    pixel, channel = rng.integers(0, 6, 200), rng.integers(0, 5, 200)
    value = rng.integers(0, 100, 200).astype(np.uint8)
    expected = np.zeros((6, 5), int)
    np.add.at(expected, (pixel, channel), value)
    counts = counts_from_coo(
        pixel, channel, value, scan_shape=(2, 3), n_channels=5, storage=storage
    )
    assert expected.max() > 255  # more than the type that came in holds
    np.testing.assert_array_equal(counts.to_dense(), expected)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_binning_is_numpy_s(storage, factor):
    y = image(shape=(4, 5, 9))
    dose = np.random.default_rng(2).uniform(0.5, 2.0, (4, 5))
    small = (-(-4 // factor), -(-5 // factor))
    expected, exposure = np.zeros((*small, 9), int), np.zeros(small)
    for i in range(4):
        for j in range(5):
            expected[i // factor, j // factor] += y[i, j]
            exposure[i // factor, j // factor] += dose[i, j]
    binned = bin_counts(as_counts(y, storage=storage, exposure=dose), factor)
    assert binned.scan_shape == small
    np.testing.assert_array_equal(binned.to_dense().reshape(expected.shape), expected)
    assert binned.exposure is not None
    np.testing.assert_allclose(binned.exposure, exposure.ravel(), rtol=1e-6)
    plain = bin_counts(as_counts(y, storage=storage), factor).exposure
    assert plain is not None
    assert float(plain.sum()) == 20  # pixels


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (-2, "negative at pixel 7, channel 4"),
        (np.nan, "not finite at pixel 7, channel 4"),
        (np.inf, "not finite at pixel 7, channel 4"),
        (2.5, "not whole numbers at pixel 7, channel 4"),
        (1e30, "more than 2³¹"),
    ],
)
@pytest.mark.parametrize("storage", [*STORAGES, "scipy"])
def test_bad_counts_are_named(value, sentence, storage):
    y = image().astype(float)
    y[1, 2, 4] = value
    if storage == "scipy":
        y, storage = scipy.sparse.csr_matrix(y.reshape(20, 9)), "auto"
    with pytest.raises(InputError, match=sentence):
        as_counts(y, storage=storage)


def test_other_bad_input():
    y = image()
    with pytest.raises(InputError, match="no pixel axis"):
        as_counts(y[0, 0])
    with pytest.raises(InputError, match="have the type complex128"):
        as_counts(y * 1j)
    with pytest.raises(InputError, match=r"\(4, 6\) does not hold the 20 pixels"):
        as_counts(y, scan_shape=(4, 6))
    one, two = np.array([1]), np.array([1, 1])
    with pytest.raises(InputError, match="have 1, 2 and 1 entries"):
        counts_from_coo(one, two, one, scan_shape=(2,), n_channels=2)
    for pixel, channel in ((-1, 0), (2, 0), (0, -1), (0, 2)):
        with pytest.raises(InputError, match="outside the image of 2 pixels and 2 channels"):
            counts_from_coo(one * pixel, one * channel, one, scan_shape=(2,), n_channels=2)
    with pytest.raises(InputError, match="binning factor is 0"):
        bin_counts(as_counts(y), 0)
    half = np.array([2**30, 2**30])
    for storage in STORAGES:
        with pytest.raises(InputError, match="counts of channel 1 add up to 2³¹ or more"):
            as_counts(np.stack([0 * half, half], 1), storage=storage)
        with pytest.raises(InputError, match="counts of pixel 0 add up to 2³¹ or more"):
            as_counts(half[None], storage=storage)


@pytest.mark.parametrize("storage", STORAGES)
def test_exposure_is_checked(storage):
    y = image()
    dose = np.ones((4, 5))
    dose[0, 0] = 0.0  # an empty pixel may have no exposure
    as_counts(y, storage=storage, exposure=dose)
    for value in (0.0, -1.0, np.nan, np.inf):
        bad = dose.copy()
        bad[1, 2] = value
        with pytest.raises(InputError, match=f"exposure of pixel 7 is {value:g}"):
            as_counts(y, storage=storage, exposure=bad)
    with pytest.raises(InputError, match="each of the 20 pixels"):
        as_counts(y, storage=storage, exposure=np.ones(5))


@pytest.mark.parametrize("storage", STORAGES)
def test_no_counts_at_all_can_be_stored(storage):
    counts = as_counts(np.zeros((2, 3, 4), int), storage=storage)
    assert counts.total == 0
    np.testing.assert_array_equal(counts.to_dense(), np.zeros((6, 4)))
    np.testing.assert_array_equal(counts.pixel_pass(jnp.ones((4, 2)), jnp.ones((2, 6))), 0.0)
    np.testing.assert_array_equal(counts.channel_pass(jnp.ones((4, 2)), jnp.ones((2, 6))), 0.0)


def test_passes_make_nothing_of_size_channel_times_pixel():
    rng = np.random.default_rng(3)
    n_pixels, n_channels = 400, 500
    pixel, channel = rng.integers(0, n_pixels, 900), rng.integers(0, n_channels, 900)
    counts = counts_from_coo(
        pixel, channel, np.ones(900, int), scan_shape=(20, 20), n_channels=n_channels
    )
    assert counts.is_sparse
    args = (jnp.ones((n_channels, 3)), jnp.ones((3, n_pixels)))
    for name in ("pixel_pass", "channel_pass", "log_pass", "log_ratio_pass"):
        sizes = [size for size, _ in array_sizes(getattr(counts, name), *args)]
        assert max(sizes) < 0.05 * n_pixels * n_channels, name


def test_dense_passes_hold_one_tile_of_floats():
    n_pixels, n_channels = 2000, 64
    counts = as_counts(np.ones((n_pixels, n_channels), int))
    assert not counts.is_sparse
    args = (jnp.ones((n_channels, 3)), jnp.ones((3, n_pixels)))
    for name in ("pixel_pass", "channel_pass", "log_pass", "log_ratio_pass"):
        sizes = [
            size
            for size, dtype in array_sizes(getattr(counts, name), *args)
            if jnp.issubdtype(dtype, jnp.floating)
        ]
        assert max(sizes) <= 256 * n_channels, name


@pytest.mark.parametrize("name", ["pixel_pass", "channel_pass", "log_pass", "log_ratio_pass"])
def test_products_ask_for_full_float32(name):
    """Accelerators multiply float32 with fewer bits unless told otherwise."""
    counts = as_counts(np.ones((10, 4), int), storage="dense")
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation.params["precision"])
            for inner in inner_programs(equation):
                walk(inner)

    walk(jax.make_jaxpr(getattr(counts, name))(jnp.ones((4, 2)), jnp.ones((2, 10))).jaxpr)
    assert found
    highest = jax.lax.Precision.HIGHEST
    assert all(p == (highest, highest) for p in found)
