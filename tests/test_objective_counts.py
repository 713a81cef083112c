"""Counts: kept exactly, summed exactly, binned exactly, and refused with one sentence."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.special
from factor_problems import (
    N_PHASES,
    STORAGES,
    Example,
    array_sizes,
    example,
    inner_programs,
)

from esmpy_jax._checks import InputError
from esmpy_jax.objective import (
    SparseCounts,
    as_counts,
    bin_counts,
    counts_from_coo,
    pairs,
    pool_counts,
)
from esmpy_jax.objective._blocks import Blocks

#: Every pass, and what it takes beside D and H.
PASSES = {
    "pixel_pass": (),
    "channel_pass": (),
    "log_pass": (),
    "excess_pass": (),
    "pixel_moments": ("exposure",),
    "channel_moments": ("exposure",),
    "cross_pass": ("spectra", "exposure"),
    "steepest_drop": ("change",),
}


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


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("largest", [1, 200, 70_000])
def test_saturated_pass_is_the_nll_of_the_counts_themselves(storage, largest, precision):
    y = image(largest=largest).reshape(20, 9)
    y = np.concatenate([y, np.full((1, 9), largest), np.zeros((40, 9), int)])
    counts = as_counts(y, storage=storage)
    if isinstance(counts, SparseCounts):  # the full row needs blocks beyond the first rows
        assert counts.by_pixel.n_blocks > 0
    found = jax.jit(lambda c: c.saturated_pass())(counts)
    terms = y - scipy.special.xlogy(y, y)
    rounding = 10 * np.finfo(precision).eps * np.abs(terms).sum(1)
    assert (np.abs(np.asarray(found, float) - terms.sum(1)) <= rounding).all()


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


@pytest.mark.parametrize("storage", ["sparse", "dense"])
def test_pools_are_sums_of_their_pixels(storage):
    rng = np.random.default_rng(3)
    y, dose = rng.poisson(0.8, (30, 7)), rng.uniform(0.5, 2, 30)
    pool = rng.integers(0, 5, 30)
    pooled = pool_counts(as_counts(y, storage=storage, exposure=dose), pool, (6,))
    dense = np.zeros((6, 7), int)
    pixel, channel, value = pooled.to_coo()
    dense[pixel, channel] = value
    for i in range(6):  # the last one is empty
        np.testing.assert_array_equal(dense[i], y[pool == i].sum(0))
        assert float(pooled.exposure[i]) == pytest.approx(dose[pool == i].sum(), rel=1e-6)


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


def ones_for(name, n_channels, n_pixels):
    """Arguments of a pass for three phases."""
    args = jnp.ones((n_channels, 3)), jnp.ones((3, n_pixels))
    extra = {"spectra": jnp.ones((n_channels, 4)), "change": args[1], "exposure": args[1][:1]}
    return *args, *(extra[kind] for kind in PASSES[name])


def test_passes_make_nothing_of_size_channel_times_pixel():
    rng = np.random.default_rng(3)
    n_pixels, n_channels = 400, 500
    pixel, channel = rng.integers(0, n_pixels, 900), rng.integers(0, n_channels, 900)
    counts = counts_from_coo(
        pixel, channel, np.ones(900, int), scan_shape=(20, 20), n_channels=n_channels
    )
    assert counts.is_sparse
    for name in PASSES:
        args = ones_for(name, n_channels, n_pixels)
        sizes = [size for size, _ in array_sizes(getattr(counts, name), *args)]
        assert max(sizes) < 0.05 * n_pixels * n_channels, name


def test_dense_passes_hold_one_tile_of_floats():
    n_pixels, n_channels = 2000, 100
    counts = as_counts(np.ones((n_pixels, n_channels), int))
    assert not counts.is_sparse
    for name in PASSES:
        args = ones_for(name, n_channels, n_pixels)
        sizes = [
            size
            for size, dtype in array_sizes(getattr(counts, name), *args)
            if jnp.issubdtype(dtype, jnp.floating)
        ]
        assert max(sizes) <= 256 * n_channels, name


@pytest.mark.parametrize("name", PASSES)
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

    walk(jax.make_jaxpr(getattr(counts, name))(*ones_for(name, 4, 10)).jaxpr)
    assert found
    highest = jax.lax.Precision.HIGHEST
    assert all(p == (highest, highest) for p in found)


def spread_out(seed):
    """Pixels with none, a few and all of 90 channels: some rows overflow by many blocks."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((90, 5)) ** 4 + 0.01
    weights, abundances = rng.random((5, N_PHASES)) + 0.05, rng.random((N_PHASES, 70)) + 0.05
    filled = rng.choice([0.0, 0.03, 0.1, 1.0], (70, 1), p=[0.1, 0.5, 0.3, 0.1])
    y = rng.integers(1, 300, (70, 90)) * (rng.random((70, 90)) < filled)
    return Example(y, matrix, weights, abundances, (7, 10))


EXAMPLES = {
    "awkward": lambda seed: example("awkward", seed),
    "by phase": lambda seed: example("awkward", seed, by_phase=True, exposure=True),
    "pixel": lambda seed: example("pixel", seed),
    "channel": lambda seed: example("channel", seed),
    "overflow": spread_out,
}


def numpy_moments(y, endmembers, abundances, spectra, change, exposure):
    """What the passes say, by their definitions."""
    model = endmembers @ abundances  # (channel, pixel)
    first, second = exposure - y.T / model, y.T / model**2
    both = pairs(len(abundances))
    d2 = np.stack([endmembers[:, a] * endmembers[:, b] for a, b in both], 1)
    h2 = np.stack([abundances[a] * abundances[b] for a, b in both])
    drop = np.where(y.T > 0, -(endmembers @ change) / model, 0.0)
    cross = np.einsum("cp,ca,cj->jap", second, endmembers, spectra)
    return {
        "pixel_moments": (endmembers.T @ first, d2.T @ second),
        "channel_moments": (first @ abundances.T, second @ h2.T),
        "cross_pass": (spectra.T @ first, cross),
        "steepest_drop": np.maximum(drop.max(0), 0.0),
    }


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def all_moments(counts, endmembers, abundances, spectra, change, exposure):
    return {
        "pixel_moments": counts.pixel_moments(endmembers, abundances, exposure),
        "channel_moments": counts.channel_moments(endmembers, abundances, exposure),
        "cross_pass": counts.cross_pass(endmembers, abundances, spectra, exposure),
        "steepest_drop": counts.steepest_drop(endmembers, abundances, change),
    }


MOMENTS = [
    *itertools.product(["awkward"], STORAGES, ["float32", "float64"]),
    *itertools.product(["overflow"], ["sparse"], ["float32", "float64"]),
    ("by phase", "dense", "float64"),
    ("pixel", "sparse", "float32"),
    ("channel", "dense", "float64"),
]


@pytest.mark.parametrize(("name", "storage", "precision"), MOMENTS)
def test_moments_are_numpy_s(name, storage, precision):
    """Second moments have positive terms: each loses some roundings, and a sum one per term.

    First moments and a drop are differences; what they lose is relative to their terms.
    """
    problem, rng = EXAMPLES[name](1), np.random.default_rng(1)
    factors = problem.endmembers(), problem.abundances
    spectra = rng.random((len(factors[0]), 4)) ** 2
    change = rng.normal(0, 0.3, factors[1].shape) * factors[1]
    exposure = rng.random((1, len(problem.y))) + 0.5
    args = [x.astype(precision) for x in (*factors, spectra, change, exposure)]
    args64 = [x.astype(float) for x in args]
    expected = numpy_moments(problem.y, *args64)
    terms = numpy_moments(-problem.y, *args64)  # of the first moments: none is negative
    with jax.enable_x64(precision == "float64"):
        counts = problem.counts(storage)
        found = all_moments(counts, *args)
    if name == "overflow":
        assert counts.by_pixel.owner.size > 0
    rtol = 40 * float(np.finfo(precision).eps)
    for key in ("pixel_moments", "channel_moments", "cross_pass"):
        off = np.abs(np.asarray(found[key][0]) - expected[key][0])
        assert (off <= rtol * terms[key][0]).all(), key
        np.testing.assert_allclose(found[key][1], expected[key][1], rtol=rtol, err_msg=key)
    drops, empty = np.asarray(found["steepest_drop"]), problem.y.sum(1) == 0
    most = (np.abs(change) / factors[1]).max()  # no drop has larger terms than these
    np.testing.assert_allclose(drops, expected["steepest_drop"], atol=rtol * most)
    assert not drops[empty].any()
    assert not np.asarray(found["pixel_moments"][1])[:, empty].any()


def test_no_drop_where_all_counts_gain(precision):
    """A rise everywhere gives zero, and the largest of the drops is that of a channel in use."""
    endmembers = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    abundances = jnp.asarray([[2.0, 2.0], [1.0, 1.0]])
    change = jnp.asarray([[0.5, -1.0], [0.0, 0.25]])
    for storage in STORAGES:
        counts = as_counts(np.array([[3, 0, 1], [0, 2, 5]]), storage=storage)
        drops = counts.steepest_drop(endmembers, abundances, change)
        np.testing.assert_allclose(drops, [0.0, 0.25], rtol=4 * np.finfo(precision).eps)


@pytest.mark.parametrize("storage", STORAGES)
def test_moments_of_models_near_zero_are_finite(storage, precision):
    """Spectra from far below the least divisor to one, and a phase that is absent."""
    rng = np.random.default_rng(4)
    sizes = 10.0 ** np.array([-400.0, -44, -38, -30, -20, -15, -9, -7, -5, -3, -1, 0])
    endmembers = np.stack([sizes, np.roll(sizes, 4) * (rng.random(12) < 0.5), 0 * sizes], 1)
    abundances = np.array([[1.0, 1e-3, 1e-9, 0.0, 1e-20], [1.0, 1e-9, 1.0, 1.0, 1e-20], [1] * 5])
    y = np.minimum(10.0 ** rng.integers(0, 5, (5, 12)), 60_000).astype(int)
    y[0, 0] = 60_000
    args = endmembers, abundances, endmembers, -abundances, np.ones((1, 5))
    found = all_moments(as_counts(y, storage=storage), *(jnp.asarray(x, float) for x in args))
    for name in ("pixel_moments", "cross_pass", "steepest_drop"):
        for values in jax.tree.leaves(found[name]):
            assert np.isfinite(values).all(), name
    for second in (found["pixel_moments"][1], found["cross_pass"][1], found["steepest_drop"]):
        assert np.asarray(second).min() >= 0
    assert np.isfinite(found["channel_moments"][0]).all()


@pytest.mark.parametrize("storage", STORAGES)
def test_curvature_of_small_models_is_kept(storage, precision):
    """`sum Y (D / X)²` has no unit: it is the same for spectra of any size."""
    rng = np.random.default_rng(5)
    endmembers, abundances = rng.random((12, 3)) + 0.1, rng.random((3, 5)) + 0.1
    y = rng.integers(1, 5, (5, 12))
    y[0, 0] = 60_000  # stored as in the test above
    counts = as_counts(y, storage=storage)
    expected = numpy_moments(y, endmembers, abundances, endmembers, abundances, 1.0)
    for size in (1e-4, 1e-9):
        small = jnp.asarray(size * endmembers, float)
        maps = jnp.asarray(abundances, float)
        found = all_moments(counts, small, maps, small, -maps, jnp.ones((1, 5)))
        np.testing.assert_allclose(
            found["pixel_moments"][1], expected["pixel_moments"][1], rtol=1e-5
        )
        np.testing.assert_allclose(found["cross_pass"][1], expected["cross_pass"][1], rtol=1e-5)


@pytest.mark.parametrize("lengths", [(4, 4), (32, 8), (96, 64)])
def test_rows_and_blocks_of_any_length_say_the_same(lengths, x64):
    problem = spread_out(3)
    pixel, channel = np.nonzero(problem.y)
    value = problem.y[pixel, channel].astype(np.uint16)
    blocks = Blocks.pack(pixel, channel, value, 70, 90, lengths)
    assert blocks.first.value.shape == (lengths[0], 70)
    assert blocks.overflow.value.shape[0] == lengths[1]
    assert (blocks.owner.size == 0) == (lengths[0] >= 90)
    for new, old in zip(blocks.to_triplets(), (pixel, channel, value), strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(blocks.totals(), problem.y.sum(1))
    usual = problem.counts("sparse")
    counts = SparseCounts(blocks, usual.by_channel, (7, 10), 90)
    change = np.random.default_rng(0).normal(0, 1, (N_PHASES, 70)) * problem.abundances
    args = [problem.endmembers(), problem.abundances, problem.matrix, change, np.ones((1, 70))]
    found, expected = all_moments(counts, *args), numpy_moments(problem.y, *args)
    np.testing.assert_allclose(found["pixel_moments"][1], expected["pixel_moments"][1], rtol=1e-13)
    np.testing.assert_allclose(found["cross_pass"][1], expected["cross_pass"][1], rtol=1e-13)
    np.testing.assert_allclose(found["steepest_drop"], expected["steepest_drop"], rtol=1e-12)


def test_slots_are_few():
    """One pixel with all channels does not lengthen the rows of the others."""
    y = np.zeros((1000, 800), int)
    rng = np.random.default_rng(0)
    y[np.repeat(np.arange(1000), 5), rng.integers(0, 800, 5000)] = 1
    y[500] = 1
    counts = as_counts(y, storage="sparse")
    number = np.count_nonzero(y)
    for blocks in (counts.by_pixel, counts.by_channel):
        assert blocks.first.value.size + blocks.overflow.value.size < 2.2 * number
