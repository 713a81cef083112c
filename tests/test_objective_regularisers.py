"""Regularisers against an explicit Laplacian, their own gradients and their surrogates."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from esmpy_jax._checks import InputError
from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    NoRegulariser,
    RegionalSparsity,
    SumOf,
    TotalVariation,
)
from esmpy_jax.objective._total_variation import _OF_HESSIAN

SHAPES = [(3, 7), (3, 4, 5), (2, 1, 1), (1, 1, 6)]
ALL = {
    "none": NoRegulariser,
    "sparsity": lambda: LogSparsity(0.7, 0.2),
    "regional": lambda: RegionalSparsity(0.7, 0.2),
    "smoothness": lambda: LaplacianSmoothness(1.3),
    "variation": lambda: TotalVariation(1.1, 0.3),
    "sum": lambda: SumOf(
        (LogSparsity(0.7, 0.2), LaplacianSmoothness(1.3), TotalVariation(1.1, 0.3))
    ),
}


def maps_like(shape, seed=0):
    """With exact zeros and magnitudes from 1e-3 to 1e3."""
    rng = np.random.default_rng(seed)
    return 10 ** rng.uniform(-3, 3, shape) * (rng.random(shape) < 0.8)


def laplacian(scan_shape):
    """The graph Laplacian of the grid, as a Kronecker sum of those of its axes."""

    def line(n):
        steps = sp.csr_array(np.diff(np.eye(n), axis=0))
        return steps.T @ steps if n > 1 else sp.csr_array((1, 1))

    out = sp.csr_array((1, 1))
    for n in scan_shape:
        out = sp.kronsum(line(n), out)  # kron(out, I) + kron(I, line): the last axis is fastest
    return out


@eqx.filter_jit
def everything(regulariser, maps):
    return (
        *jax.value_and_grad(regulariser.value)(maps),
        *regulariser.gradient_split(maps),
        *regulariser.surrogate(maps),
    )


@eqx.filter_jit
def curved(regulariser, maps, direction):
    return regulariser.gradient(maps), regulariser.curvature(maps, direction)


@pytest.mark.parametrize("shape", SHAPES)
def test_smoothness_is_the_quadratic_form_of_the_laplacian(shape, x64):
    maps = maps_like(shape)
    matrix, flat = laplacian(shape[1:]), maps.reshape(shape[0], -1)
    value, gradient, positive, negative, *_ = everything(LaplacianSmoothness(1.3), maps)
    expected = (matrix @ flat.T).T
    np.testing.assert_allclose(value, 0.5 * 1.3 * (flat * expected).sum(), rtol=1e-12)
    atol = 1e-12 * maps.max()
    np.testing.assert_allclose(gradient.reshape(flat.shape), 1.3 * expected, rtol=1e-12, atol=atol)
    diagonal = matrix.diagonal() * flat
    np.testing.assert_allclose(positive.reshape(flat.shape), 1.3 * diagonal, rtol=1e-12)
    np.testing.assert_allclose(
        negative.reshape(flat.shape), 1.3 * (diagonal - expected), rtol=1e-12, atol=atol
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_variation_is_its_formula(shape, x64):
    maps = maps_like(shape) + 0.01
    scan, total = shape[1:], 0.0
    for pixel in np.ndindex(scan):
        squares = 0.0
        for axis in range(len(scan)):
            ahead = tuple(p + (i == axis) for i, p in enumerate(pixel))
            if ahead[axis] < scan[axis]:
                squares += ((maps[(slice(None), *ahead)] - maps[(slice(None), *pixel)]) ** 2).sum()
        total += np.sqrt(0.3**2 + squares) - 0.3
    np.testing.assert_allclose(TotalVariation(1.1, 0.3).value(jnp.asarray(maps)), 1.1 * total)


@pytest.mark.parametrize(
    "kind",
    [
        functools.partial(TotalVariation, 1.1, 0.3),
        functools.partial(LogSparsity, 1.1, 0.3),
        functools.partial(RegionalSparsity, 1.1, 0.3),
        functools.partial(LaplacianSmoothness, 1.1),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_pixels_outside_cost_nothing_and_pull_nowhere(kind, seed, x64):
    """Maps in the corner of a larger grid are worth what they are alone."""
    own = jnp.asarray(maps_like((3, 4, 5), seed))
    inside = np.zeros((6, 8), bool)
    inside[:4, :5] = True
    wide = jnp.asarray(maps_like((3, 6, 8), seed + 10)).at[:, :4, :5].set(own)
    direction = jnp.asarray(np.random.default_rng(seed).standard_normal(wide.shape))
    alone, among = kind(), kind(pixels=jnp.asarray(inside))
    for expected, found in zip(everything(alone, own), everything(among, wide), strict=True):
        if expected.ndim == 0:
            np.testing.assert_allclose(found, expected, rtol=1e-9)
        else:
            np.testing.assert_allclose(found[:, :4, :5], expected, rtol=1e-9, atol=1e-12)
            assert not jnp.where(inside, 0.0, found).any()
    ours = curved(among, wide, direction)[1]
    theirs = curved(alone, own, direction[:, :4, :5])[1]
    np.testing.assert_allclose(ours[:, :4, :5], theirs, rtol=1e-9, atol=1e-9)
    assert not jnp.where(inside, 0.0, ours).any()
    with pytest.raises(InputError, match=r"pixels has shape \(6, 8\); the maps have \(4, 5\)"):
        among.value(own)
    with pytest.raises(InputError, match="True and False"):
        kind(pixels=inside.astype(int))


def test_variation_of_small_steps_is_smoothness(x64):
    """With steps of epsilon / 1000 the next term of the root is 1e-6 / 4 of the first."""
    maps = jnp.asarray(1 + 1e-4 * np.random.default_rng(0).random((3, 4, 5)))
    variation, smoothness = TotalVariation(1.3, 0.1), LaplacianSmoothness(13.0)
    np.testing.assert_allclose(variation.value(maps), smoothness.value(maps), rtol=3e-6)
    direction = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4, 5)))
    ours, theirs = (curved(r, maps, direction)[1] for r in (variation, smoothness))
    np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.37])
def test_constant_maps_cost_nothing_and_pull_nowhere(level, precision):
    maps = jnp.full((3, 4, 5), level)
    for name in ("smoothness", "variation"):
        value, gradient, positive, negative, *_ = everything(ALL[name](), maps)
        assert float(value) == 0
        np.testing.assert_array_equal(gradient, 0.0)
        room = 8 * np.finfo(precision).eps * float(positive.max())
        np.testing.assert_allclose(positive, negative, atol=room)
        np.testing.assert_array_equal(curved(ALL[name](), maps, jnp.ones_like(maps))[1], 0.0)


def test_sparsity_is_its_formula(x64):
    maps = maps_like((3, 4, 5))
    value, gradient, *_ = everything(LogSparsity(0.7, 0.2), maps)
    np.testing.assert_allclose(value, 0.7 * np.log(1 + maps / 0.2).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, 0.7 / (maps + 0.2), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_regional_sparsity_is_that_of_the_weighted_mean_of_the_neighbours(shape):
    maps = maps_like(shape, 3)
    places = np.indices(shape[1:]).reshape(len(shape) - 1, -1)
    away = np.abs(places[:, :, None] - places[:, None, :])
    near = np.where(away > 1, 0.0, 2.0 ** (1 - away)).prod(0)
    near /= near.sum(1, keepdims=True)
    mean = (near @ maps.reshape(shape[0], -1).T).T
    expected = 0.7 * np.log1p(mean / 0.2).sum()
    np.testing.assert_allclose(RegionalSparsity(0.7, 0.2).value(jnp.asarray(maps)), expected, 1e-5)


@pytest.mark.parametrize("kind", [LogSparsity, RegionalSparsity])
@pytest.mark.parametrize("scan", [(7,), (4, 5)])
def test_pixels_without_a_part_are_as_if_cut_off(kind, scan, x64):
    rng = np.random.default_rng(len(scan))
    small = rng.random((3, *scan))
    wide = rng.random((3, *(n + 2 for n in scan)))  # what is outside may be anything
    inside = (slice(None), *(slice(n) for n in scan))
    wide[inside] = small
    pixels = np.zeros(wide.shape[1:], bool)
    pixels[inside[1:]] = True
    ours = everything(kind(0.7, 0.2, jnp.asarray(pixels)), jnp.asarray(wide))
    theirs = everything(kind(0.7, 0.2), jnp.asarray(small))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    for whole, own in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(np.asarray(whole)[inside], own, rtol=1e-12)
        assert not np.asarray(whole)[:, ~pixels].any()


def test_pixels_of_another_scan_are_refused():
    regulariser = LogSparsity(1.0, pixels=jnp.ones((2, 3), bool))
    with pytest.raises(InputError, match=r"pixels has shape \(2, 3\); the maps have \(3, 2\)"):
        regulariser.value(jnp.ones((2, 3, 2)))


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("name", ALL)
def test_gradient_split_and_surrogate_have_the_gradient(name, shape, precision):
    maps = jnp.asarray(maps_like(shape), float)
    value, gradient, positive, negative, curvature, slope = everything(ALL[name](), maps)
    assert value.dtype == precision
    assert float(positive.min()) >= 0
    assert float(negative.min()) >= 0
    assert float(curvature.min()) >= 0
    # both are differences of terms as large as positive + negative
    size = np.asarray(positive + negative + curvature * maps)
    atol = 8 * np.finfo(precision).eps * (size + 1)
    assert (np.abs(positive - negative - gradient) <= atol).all()
    assert (np.abs(curvature * maps + slope - gradient) <= atol).all()


@pytest.mark.parametrize("shape", SHAPES[:2])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), near=st.booleans())
def test_surrogates_lie_above(shape, seed, near):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        here, there = maps_like(shape, seed), maps_like(shape, seed + 1)
        if near:
            there = here * (1 + 1e-3 * rng.standard_normal(shape))
        for name in ("sparsity", "smoothness", "variation", "sum"):
            value, *_, curvature, slope = map(np.asarray, everything(ALL[name](), here))
            other = np.asarray(everything(ALL[name](), there)[0])
            above = 0.5 * curvature * (there**2 - here**2) + slope * (there - here)
            size = (
                np.abs(0.5 * curvature * (there**2 + here**2)).sum()
                + np.abs(slope * (there + here)).sum()
            )
            assert other <= value + above.sum() + 1e-13 * (size + value)


@pytest.mark.parametrize("shape", SHAPES[:2])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), start=st.sampled_from(["zero", "constant", "any"]))
def test_curvatures_lie_above(shape, seed, start):
    with jax.enable_x64(True):
        here, there = maps_like(shape, seed), maps_like(shape, seed + 1)
        here = {"zero": 0 * here, "constant": 0 * here + here.mean(), "any": here}[start]
        step = there - here
        for name in ("sparsity", "smoothness", "variation", "sum"):
            value = float(everything(ALL[name](), here)[0])
            other = float(everything(ALL[name](), there)[0])
            gradient, curved_step = map(np.asarray, curved(ALL[name](), here, step))
            above = gradient * step + 0.5 * curved_step * step
            size = np.abs(gradient * step).sum() + 0.5 * np.abs(curved_step * step).sum()
            assert other <= value + above.sum() + 1e-13 * (size + value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["smoothness", "variation", "sum"])
def test_curvature_is_symmetric_positive_and_below_the_surrogate_s(name, shape, x64):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        maps = jnp.asarray(maps_like(shape, seed))
        size = maps.size

        def product(maps, flat):
            return curved(ALL[name](), maps, flat.reshape(maps.shape))[1].ravel()

        matrix = np.asarray(jax.vmap(product, (None, 0))(maps, jnp.eye(size)))
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
        separable = np.diag(np.asarray(everything(ALL[name](), maps)[4]).ravel())
        room = 1e-12 * max(separable.max(), 1.0)
        assert np.linalg.eigvalsh(matrix).min() >= -room
        assert np.linalg.eigvalsh(separable - matrix).min() >= -room
        direction = rng.standard_normal(size)
        np.testing.assert_allclose(
            product(maps, jnp.asarray(direction)), matrix @ direction, atol=1e3 * room
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["sparsity", "smoothness", "variation", "sum"])
def test_local_curvature_lies_between_the_hessian_and_the_bound(name, shape, x64):
    """Of a convex penalty; as near to its Hessian as said, and the bound itself for the others."""
    regulariser, maps = ALL[name](), jnp.asarray(maps_like(shape, 3) / 30)
    size = maps.size

    def flat(function):
        one = lambda d: function(d.reshape(shape)).ravel()  # noqa: E731
        return np.asarray(jax.vmap(one)(jnp.eye(size)))

    near = flat(regulariser.local_curvature(maps))
    bound = flat(lambda d: regulariser.curvature(maps, d))
    np.testing.assert_allclose(near, near.T, atol=1e-12 * np.abs(near).max())
    if name in ("sparsity", "smoothness"):
        np.testing.assert_array_equal(near, bound)
        return
    convex = LaplacianSmoothness(1.3) if name == "sum" else NoRegulariser()
    convex = SumOf((convex, ALL["variation"]()))
    hessian = np.asarray(jax.hessian(convex.value)(maps)).reshape(size, size)
    expected = (1 - _OF_HESSIAN) * bound + _OF_HESSIAN * hessian
    room = 1e-11 * max(np.abs(bound).max(), 1.0)
    np.testing.assert_allclose(near, expected, atol=room)
    assert np.linalg.eigvalsh(near).min() >= -room


def test_sum_of_is_the_sum(x64):
    maps = maps_like((3, 4, 5))
    both = everything(ALL["sum"](), maps)
    parts = [everything(ALL[name](), maps) for name in ("sparsity", "smoothness", "variation")]
    for ours, *theirs in zip(both, *parts, strict=True):
        np.testing.assert_allclose(ours, sum(theirs), rtol=1e-12, atol=1e-9)
    ours, *theirs = (
        curved(ALL[n](), maps, maps[::-1])[1] for n in ("sum", "smoothness", "variation")
    )
    np.testing.assert_allclose(ours, sum(theirs), rtol=1e-12, atol=1e-9)
    for ours in everything(SumOf(()), maps):
        np.testing.assert_array_equal(ours, 0.0)


def test_strengths_are_data_not_code():
    traced = []

    @eqx.filter_jit
    def value(regulariser, maps):
        traced.append(regulariser)
        return regulariser.value(maps)

    maps = jnp.asarray(maps_like((2, 3)), float)
    for strength in (1.0, 2, np.float32(3.0), jnp.array(4.0)):
        terms = [LogSparsity, TotalVariation]
        terms = [term(strength, strength) for term in terms]
        value(SumOf((*terms, LaplacianSmoothness(strength))), maps)
    assert len(traced) == 1


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_strengths(bad):
    for kind in (LogSparsity, TotalVariation):
        with pytest.raises(InputError, match=rf"{kind.__name__}\.strength"):
            kind(bad)
        with pytest.raises(InputError, match=rf"{kind.__name__}\.epsilon"):
            kind(1.0, bad)
    with pytest.raises(InputError, match=r"LaplacianSmoothness\.strength"):
        LaplacianSmoothness(bad)


def test_zero_strength_is_no_penalty_but_zero_epsilon_is_an_error():
    maps = jnp.asarray(maps_like((2, 3)), float)
    assert float(LogSparsity(0.0).value(maps)) == 0
    assert float(LaplacianSmoothness(0.0).value(maps)) == 0
    assert float(TotalVariation(0.0).value(maps)) == 0
    for kind in (LogSparsity, TotalVariation):
        with pytest.raises(InputError, match=rf"{kind.__name__}\.epsilon"):
            kind(1.0, 0.0)
