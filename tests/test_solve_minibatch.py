"""Batches of pixels: the plain algorithm where there is one, its optimum where there are many."""

import jax
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.solve import _minibatch

N_PHASES = 3
CONSTRAINTS = (ej.Unconstrained(), ej.SumToOneAbundances(), ej.SumToOneWeights())
name = lambda x: type(x).__name__  # noqa: E731


def image(seed=0, ny=12, nx=16, dose=150.0):
    """Counts (y, x, channel) with a dark corner and two dark rows, and G."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((24, 6)) ** 3 + 0.01
    weights = rng.random((6, N_PHASES)) ** 2 + 0.02
    weights = weights / (matrix @ weights).sum(0)
    shares = rng.dirichlet(np.full(N_PHASES, 0.4), ny * nx).T
    y = rng.poisson(dose * matrix @ weights @ shares).T.reshape(ny, nx, 24)
    y[:2, :4] = 0
    y[6:8] = 0
    return y, matrix


def cut(y, *rows):
    """The image at these rows, as sparse counts."""
    return [ej.as_counts(part, storage="sparse") for part in np.split(y, rows)]


def given_start(y, matrix, seed=1):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.2, 1.0, (N_PHASES, y.shape[0] * y.shape[1]))
    return ej.GivenStart(rng.uniform(0.5, 1.5, (6, N_PHASES)), shares / shares.sum(0))


def objective(y, matrix, weights, abundances):
    """In NumPy, without constants."""
    model = matrix @ np.asarray(weights) @ np.asarray(abundances)
    counts = y.reshape(-1, y.shape[-1]).T
    return (model - np.where(counts > 0, counts * np.log(np.maximum(model, 1e-300)), 0.0)).sum()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=name)
def test_one_batch_is_the_multiplicative_update(x64, constraint):
    """Same W and H after 20 steps up to rounding, which the updates do not let grow."""
    y, matrix = image()
    start = given_start(y, matrix)
    fixed = None
    if not isinstance(constraint, ej.SumToOneWeights):
        fixed = np.full((6, N_PHASES), np.nan)
        fixed[2, 1], fixed[4] = 0.7, 0.0
    options = {"start": start, "constraint": constraint, "fixed_weights": fixed, "tol": -1.0}
    plain = ej.factorise(
        y, matrix, N_PHASES, solver=ej.MultiplicativeUpdate(), max_steps=20, **options
    )
    out = ej.factorise_batches(
        [y], matrix, N_PHASES, solver=ej.AbundanceUpdate(), inner=1, max_epochs=20, **options
    )
    np.testing.assert_allclose(out.weights, plain.weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(out.abundances, plain.abundances, rtol=1e-9, atol=1e-12)
    assert (out.steps, out.epochs) == (20, 20)
    assert out.result == ej.RESULTS.max_epochs_reached
    # what is traced bounds the objective, and W has moved once since the last visit
    assert plain.nll <= out.nll <= plain.nll + (out.nll_trace[-2] - out.nll_trace[-1])


@pytest.fixture(scope="module")
def fits():
    """For each constraint: the image, what the batches reach, and the optimum from there."""
    made = {}
    with jax.enable_x64(True):
        for constraint in CONSTRAINTS:
            y, matrix = image()
            start = given_start(y, matrix)
            options = {"start": start, "constraint": constraint}
            out = ej.factorise_batches(
                cut(y, 4, 6, 8), matrix, N_PHASES, max_epochs=3000, tol=0.05, **options
            )
            optimum = ej.factorise(y, matrix, N_PHASES, tol=1e-4, max_steps=300, **options)
            made[name(constraint)] = y, matrix, out, optimum
    return made


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=name)
def test_batches_of_unequal_size_reach_the_optimum(fits, constraint):
    y, matrix, out, optimum = fits[name(constraint)]
    assert out.converged
    assert out.remaining <= 0.05
    reached = objective(y, matrix, out.weights, out.abundances)
    assert -1e-3 < reached - optimum.nll < 1.0
    assert reached <= out.nll + 1e-6
    assert out.nll - reached < 0.05  # the bound has closed up
    assert out.steps == 1 + 4 * (out.epochs - 1)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=name)
def test_the_bound_never_rises(fits, constraint):
    _, _, out, _ = fits[name(constraint)]
    assert len(out.nll_trace) == out.epochs
    rounding = 1e-12 * abs(out.nll)
    assert (np.diff(out.nll_trace) <= rounding).all()


def test_sums_are_kept_and_empty_pixels_have_no_say(fits):
    shares = fits["SumToOneAbundances"][2].abundances
    np.testing.assert_allclose(shares.sum(0), 1.0, atol=1e-12)
    np.testing.assert_allclose(fits["SumToOneWeights"][2].weights.sum(0), 1.0, atol=1e-12)
    y, _, out, _ = fits["Unconstrained"]
    assert isinstance(out.abundances, np.ndarray)
    assert out.abundances.shape == (N_PHASES, 12 * 16)
    assert (out.abundances[:, y.sum(-1).ravel() == 0] < 1e-8).all()


def test_each_scan_shape_is_compiled_once(precision):
    """Batches of very different fill share a program, in single precision the bound falls too."""
    y, matrix = image(3, ny=24)
    y[20:] = np.random.default_rng(0).binomial(y[20:], 0.3)
    batches = cut(y, 4, 8, 12, 16, 20)
    assert len({b.by_channel.overflow.value.shape for b in batches}) > 1  # unlike by themselves
    before = _minibatch._visit._cached._cache_size()
    out = ej.factorise_batches(
        batches[:5], matrix, N_PHASES, start=given_start(y[:20], matrix), max_epochs=30
    )
    first = _minibatch._visit._cached._cache_size() - before
    assert first <= 2  # room for more overflow may have to be made once
    assert out.weights.dtype == precision
    falls = -np.diff(out.nll_trace)
    assert falls.min() > (-1e-9 if precision == "float64" else -0.05)
