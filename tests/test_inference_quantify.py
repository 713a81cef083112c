"""At% and wt% against hand numbers; errors of single pixels against a dense inverse."""

import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import Basis
from esmpy_jax.inference import phase_composition, pixel_composition

ROWS = np.array([0, 1])


def test_fractions_are_those_of_the_chemist():
    """Fe2O3: 40 at% and 69.94 wt% iron; MgO: 50 at% and 60.30 wt% magnesium (CIAAW weights)."""
    weights = np.array([[2.0, 0.0], [3.0, 5.0], [0.0, 5.0], [7.0, 7.0]])
    rows, zero = np.array([0, 1, 2]), np.zeros((8, 8))
    atomic, error = phase_composition(weights, zero, rows, np.ones(3))
    np.testing.assert_allclose(atomic, [[0.4, 0.0], [0.6, 0.5], [0.0, 0.5]])
    assert not error.any()
    by_weight, _ = phase_composition(weights, zero, rows, np.array([55.845, 15.999, 24.305]))
    np.testing.assert_allclose(by_weight[0, 0], 0.69943, atol=2e-5)
    np.testing.assert_allclose(by_weight[2, 1], 0.60304, atol=2e-5)
    np.testing.assert_allclose(by_weight.sum(0), 1)


def test_errors_of_two_elements_by_hand():
    """c = x / (x + y) with independent errors: var c = (y² var x + x² var y) / (x + y)⁴."""
    weights = np.array([[3.0], [1.0], [5.0]])
    covariance = np.diag([0.04, 0.01, 9.0])
    _, error = phase_composition(weights, covariance, ROWS, np.ones(2))
    by_hand = np.sqrt((1.0 * 0.04 + 9.0 * 0.01) / 4**4)
    np.testing.assert_allclose(error, by_hand)
    # the same numbers as weights: m scales x and its error alike
    _, error = phase_composition(weights, covariance, ROWS, np.array([2.0, 4.0]))
    by_hand = np.sqrt((4.0**2 * 4 * 0.04 + 6.0**2 * 16 * 0.01) / 10**4)
    np.testing.assert_allclose(error, by_hand)


def test_errors_are_linear_propagation_also_with_correlations():
    rng = np.random.default_rng(0)
    weights = rng.random((4, 2)) + 0.5
    half = 1e-3 * rng.random((8, 8))
    covariance = half @ half.T
    rows, masses = np.array([0, 2, 3]), np.array([16.0, 28.0, 56.0])
    _, error = phase_composition(weights, covariance, rows, masses)
    draws = rng.multivariate_normal(weights.ravel(), covariance, 20_000).reshape(-1, 4, 2)
    content = draws[:, rows] * masses[None, :, None]
    scatter = (content / content.sum(1, keepdims=True)).std(0)
    np.testing.assert_allclose(error, scatter, rtol=0.03)  # sqrt(1 / 40 000) = 0.005


def test_phases_without_elements_and_errors_beyond_everything():
    weights = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    fraction, error = phase_composition(weights, np.eye(6) * 1e12, ROWS, np.ones(2))
    np.testing.assert_array_equal(fraction, [[0.0, 0.5], [0.0, 0.5]])
    np.testing.assert_array_equal(error, [[0.0, 1.0], [0.0, 1.0]])  # 1 stands for "not known"


# Single pixels.


def scene(by_phase=False):
    rng = np.random.default_rng(5)
    matrix = rng.random((2, 9, 3) if by_phase else (9, 3)) + 0.05
    basis = Basis.from_matrix(matrix)
    weights = np.array([[0.7, 0.2], [0.3, 0.8], [0.5, 0.4]])
    abundances = np.array([[40.0, 0.0, 25.0, 0.0], [20.0, 60.0, 0.0, 0.0]])
    exposure = np.array([1.0, 2.0, 0.5, 1.0])
    half = 0.01 * rng.random((6, 6))
    return basis, weights, abundances, exposure, half @ half.T


def by_brute_force(basis, weights, h, dose, covariance, free, masses, plane=None):
    """Variance of a pixel's fractions from the joint information of W and the pixel's H.

    W is known with `covariance` from elsewhere; given W, h is Gaussian around its own optimum.
    """
    matrix = np.asarray(basis.matrix, np.float64)
    matrix = matrix if matrix.ndim == 3 else np.broadcast_to(matrix, (2, *matrix.shape))
    d = np.einsum("acj,ja->ca", matrix, weights)
    ratio = dose / (d @ h)
    inner = (d * ratio[:, None]).T @ d
    cross = np.einsum("bcj,ca,c,b->jba", matrix, d, ratio, h).reshape(-1, 2)
    span = np.eye(2)[:, free]
    if plane is not None:
        span = span @ np.linalg.svd((plane[free])[None, :])[2][1:].T
    inverse = span @ np.linalg.solve(span.T @ inner @ span, span.T)

    def fractions(theta):
        w = theta[:6].reshape(3, 2)
        x = w[ROWS] @ theta[6:] * masses
        return x / x.sum()

    theta = np.concatenate([weights.ravel(), h])
    steps = 1e-6 * np.eye(8) * theta.max()
    jacobian = np.stack(
        [(fractions(theta + s) - fractions(theta - s)) / (2e-6 * theta.max()) for s in steps], 1
    )
    to_w = jacobian[:, :6] - jacobian[:, 6:] @ inverse @ cross.T
    variance = to_w @ covariance @ to_w.T + jacobian[:, 6:] @ inverse @ jacobian[:, 6:].T
    return fractions(theta), np.diag(variance)


@pytest.mark.parametrize("by_phase", [False, True])
@pytest.mark.parametrize("plane", [None, np.array([0.5, 2.0])])
def test_pixel_errors_carry_the_noise_of_w_and_of_the_pixel(precision, by_phase, plane):
    basis, weights, abundances, exposure, covariance = scene(by_phase)
    masses = np.array([16.0, 56.0])
    known = np.ones((2, 4), bool)  # nothing is added for zeros
    free = abundances > 0
    fraction, error = pixel_composition(
        basis, weights, abundances, exposure, covariance, free, known, ROWS, masses, plane
    )
    rtol = 2e-4 if precision == "float32" else 1e-7
    for p in range(3):
        truth, variance = by_brute_force(
            basis,
            weights,
            abundances[:, p],
            exposure[p],
            covariance,
            free[:, p],
            masses,
            plane,
        )
        np.testing.assert_allclose(fraction[:, p], truth, rtol=rtol)
        np.testing.assert_allclose(error[:, p], np.sqrt(variance), rtol=10 * rtol)


@pytest.mark.parametrize("plane", [None, np.array([1.0, 1.0])])
def test_an_abundance_at_zero_adds_what_letting_it_free_would(precision, plane):
    """Without noise of W: the pixel of one phase has the error of a pixel where both are free."""
    basis, weights, abundances, exposure, _ = scene()
    nothing, ones = np.zeros((6, 6)), np.ones(2)
    free, known = abundances > 0, np.zeros((2, 4), bool)
    args = (basis, weights, abundances, exposure, nothing)
    _, error = pixel_composition(*args, free, known, ROWS, ones, plane)
    _, both = pixel_composition(*args, np.ones_like(free), known, ROWS, ones, plane)
    _, fixed = pixel_composition(*args, free, ~free, ROWS, ones, plane)
    np.testing.assert_allclose(error[:, 1:3], both[:, 1:3], rtol=1e-3)
    assert (error[:, :3] > 0.005).all()
    np.testing.assert_allclose(fixed[:, 1:3], 0, atol=1e-4)  # the user's own zeros are exact


def test_pixels_without_counts_show_the_mean_of_the_phases(precision):
    basis, weights, abundances, exposure, covariance = scene()
    free, known = abundances > 0, np.zeros((2, 4), bool)
    for dose in (exposure, np.where(abundances.sum(0) > 0, exposure, 0.0)):
        fraction, error = pixel_composition(
            basis, weights, abundances, dose, covariance, free, known, ROWS, np.ones(2)
        )
        assert np.isfinite(fraction).all()
        assert np.isfinite(error).all()
        np.testing.assert_allclose(fraction[:, 3], [0.45, 0.55], rtol=1e-5)  # .7 .3 and .2 .8
        # spread of the two phases, 0.25, and a little from W
        assert (error[:, 3] >= 0.25 - 1e-6).all()
        assert (error[:, 3] < 0.27).all()


def test_a_pixel_of_few_counts_has_a_large_error(precision):
    basis, weights, _, _, covariance = scene()
    few = np.array([[0.05], [0.0]])
    _, error = pixel_composition(
        basis,
        weights,
        few,
        np.ones(1),
        0 * covariance,
        few > 0,
        np.zeros((2, 1), bool),
        ROWS,
        np.ones(2),
    )
    assert (error > 0.5).all()
    assert (error <= 1).all()


def test_many_pixels_are_those_of_one_tile_repeated(precision):
    basis, weights, abundances, exposure, covariance = scene()
    free, known = abundances > 0, np.zeros((2, 4), bool)
    once = pixel_composition(
        basis, weights, abundances, exposure, covariance, free, known, ROWS, np.ones(2)
    )
    n = 100
    many = pixel_composition(
        basis,
        weights,
        np.tile(abundances, n),
        np.tile(exposure, n),
        covariance,
        np.tile(free, n),
        np.tile(known, n),
        ROWS,
        np.ones(2),
    )
    for few, lots in zip(once, many, strict=True):
        np.testing.assert_allclose(lots, np.tile(few, n), rtol=1e-4, atol=1e-6)


def test_one_phase_of_one_element(precision):
    basis = Basis.from_matrix(jnp.ones((5, 1)))
    fraction, error = pixel_composition(
        basis,
        np.ones((1, 1)),
        np.array([[3.0, 0.0]]),
        np.ones(2),
        np.full((1, 1), 0.1),
        np.array([[True, False]]),
        np.zeros((1, 2), bool),
        np.array([0]),
        np.ones(1),
    )
    np.testing.assert_allclose(fraction, 1)
    np.testing.assert_allclose(error, 0, atol=1e-6)
