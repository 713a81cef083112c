"""Regularisers against an explicit Laplacian, their own gradients and their surrogates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from esmpy_jax._checks import InputError
from esmpy_jax.objective import LaplacianSmoothness, LogSparsity, NoRegulariser, SumOf

SHAPES = [(3, 7), (3, 4, 5), (2, 1, 1), (1, 1, 6)]
ALL = {
    "none": NoRegulariser,
    "sparsity": lambda: LogSparsity(0.7, 0.2),
    "smoothness": lambda: LaplacianSmoothness(1.3),
    "both": lambda: SumOf((LogSparsity(0.7, 0.2), LaplacianSmoothness(1.3))),
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


def test_sparsity_is_its_formula(x64):
    maps = maps_like((3, 4, 5))
    value, gradient, *_ = everything(LogSparsity(0.7, 0.2), maps)
    np.testing.assert_allclose(value, 0.7 * np.log(1 + maps / 0.2).sum(), rtol=1e-12)
    np.testing.assert_allclose(gradient, 0.7 / (maps + 0.2), rtol=1e-12)


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
        for name in ("sparsity", "smoothness", "both"):
            value, *_, curvature, slope = map(np.asarray, everything(ALL[name](), here))
            other = np.asarray(everything(ALL[name](), there)[0])
            above = 0.5 * curvature * (there**2 - here**2) + slope * (there - here)
            size = (
                np.abs(0.5 * curvature * (there**2 + here**2)).sum()
                + np.abs(slope * (there + here)).sum()
            )
            assert other <= value + above.sum() + 1e-13 * (size + value)


def test_sum_of_is_the_sum(x64):
    maps = maps_like((3, 4, 5))
    both = everything(ALL["both"](), maps)
    parts = [everything(ALL[name](), maps) for name in ("sparsity", "smoothness")]
    for ours, *theirs in zip(both, *parts, strict=True):
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
        value(SumOf((LogSparsity(strength, strength), LaplacianSmoothness(strength))), maps)
    assert len(traced) == 1


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_strengths(bad):
    with pytest.raises(InputError, match=r"LogSparsity\.strength"):
        LogSparsity(bad)
    with pytest.raises(InputError, match=r"LogSparsity\.epsilon"):
        LogSparsity(1.0, bad)
    with pytest.raises(InputError, match=r"LaplacianSmoothness\.strength"):
        LaplacianSmoothness(bad)


def test_zero_strength_is_no_penalty_but_zero_epsilon_is_an_error():
    maps = jnp.asarray(maps_like((2, 3)), float)
    assert float(LogSparsity(0.0).value(maps)) == 0
    assert float(LaplacianSmoothness(0.0).value(maps)) == 0
    with pytest.raises(InputError, match=r"LogSparsity\.epsilon"):
        LogSparsity(1.0, 0.0)
