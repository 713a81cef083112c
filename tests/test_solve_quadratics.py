"""Quadratic problems of single pixels: their minimum by trial of all active sets, in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from esmpy_jax.objective import pairs
from esmpy_jax.solve._pixel_quadratics import bounded_minimum, product, projected_inverse, symmetric
from esmpy_jax.solve._reduced import box_minimum

N_PIXELS = 40
KINDS = [(1, True), (2, False), (3, False), (3, True), (5, False), (5, True)]

#: Programs of the tests are compiled once for each number of phases, and quickly.
fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
minimum = fast(bounded_minimum, static_argnums=4)
inverse = fast(projected_inverse, static_argnums=2)


def curvatures(rng, n, rank):
    """Matrices of pixels with `rank` kinds of counts, of magnitudes from 1e-3 to 1e3."""
    rows = rng.random((N_PIXELS, rank, n)) ** 2 * 10 ** rng.uniform(-1, 1, (N_PIXELS, 1, n))
    return np.einsum("pri,prj->ijp", rows, rows)


def drawn(seed, n, rank=8, held=0.0, on_bounds=0.3):
    """Matrices, gradients, starts and free entries, with minima on and off the bounds."""
    rng = np.random.default_rng(seed)
    matrix = curvatures(rng, n, rank)
    start = rng.random((n, N_PIXELS)) * (rng.random((n, N_PIXELS)) > on_bounds)
    start[0] += 0.01 * (start.sum(0) == 0)
    aim = rng.normal(0.3, 0.7, (n, N_PIXELS))  # the minimum without bounds
    gradient = np.einsum("ijp,jp->ip", matrix, start - aim)
    return matrix, gradient, start, rng.random((n, N_PIXELS)) >= held


def value(problem, z):
    matrix, gradient, start, _ = problem
    d = z - start
    return (gradient * d).sum(0) + 0.5 * np.einsum("ip,ijp,jp->p", d, matrix, d)


def by_trial(problem, summed):
    """The lowest feasible value over all sets of entries that may differ from zero."""
    matrix, gradient, start, free = problem
    lowest = np.zeros(N_PIXELS)  # that of the start
    for p in range(N_PIXELS):
        a, h = matrix[:, :, p], start[:, p]
        entries, held = np.flatnonzero(free[:, p]), np.where(free[:, p], 0.0, h)
        target = a @ (h - held) - gradient[:, p]
        budget = (h - held).sum()
        for size in range(len(entries) + 1):
            for chosen in itertools.combinations(entries, size):
                s, z = list(chosen), held.copy()
                if summed and size:
                    system = np.block([[a[np.ix_(s, s)], np.ones((size, 1))], [np.ones(size), 0.0]])
                    z[s] = np.linalg.lstsq(system, np.r_[target[s], budget])[0][:-1]
                elif size:
                    z[s] = np.linalg.lstsq(a[np.ix_(s, s)], target[s])[0]
                if z.min() < 0 or (summed and abs((z - held).sum() - budget) > 1e-12):
                    continue
                d = z - h
                lowest[p] = min(lowest[p], gradient[:, p] @ d + 0.5 * d @ a @ d)
    return lowest


def check_feasible(problem, z, summed, eps):
    _, _, start, free = problem
    assert np.isfinite(z).all()
    assert z.min() >= 0
    np.testing.assert_array_equal(z[~free], start[~free])
    if summed:
        np.testing.assert_allclose(z.sum(0), start.sum(0), rtol=20 * eps)


@pytest.mark.parametrize(("n", "summed"), KINDS)
def test_minimum_of_all_active_sets(n, summed, x64):
    """From anywhere, with entries held and starts on the bounds; hardly ever short of the end."""
    missed = total = 0
    for seed, held, on_bounds in [(0, 0.0, 0.0), (1, 0.0, 0.4), (2, 0.3, 0.3), (3, 0.2, 0.9)]:
        problem = drawn(seed, n, held=held, on_bounds=on_bounds)
        z = np.asarray(minimum(*problem, summed))
        check_feasible(problem, z, summed, 2.3e-16)
        found, lowest = value(problem, z), by_trial(problem, summed)
        size = np.abs(lowest) + np.abs(problem[1] * problem[2]).sum(0)
        assert (found >= lowest - 1e-10 * size).all()
        assert (found <= 1e-12 * size).all()  # never worse than the start
        missed += (found > lowest + 1e-8 * size).sum()
        total += N_PIXELS
    assert missed <= 0.02 * total


@pytest.mark.parametrize(("n", "summed"), KINDS)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_fewer_counts_than_phases(rank, n, summed, x64):
    """The ridge makes one minimum of many; few miss it, and none gets worse or empty."""
    for seed in range(2):
        matrix, gradient, start, free = drawn(seed, n, max(rank, 1))
        matrix = matrix * (rank > 0)
        if rank == 0:  # no counts: what is left is the sum of each spectrum
            gradient = 0.1 + np.random.default_rng(seed).random(gradient.shape)
        second = jnp.stack([jnp.asarray(matrix[i, j]) for i, j in pairs(n)])
        ridged = symmetric(second, jnp.zeros(start.shape))
        problem = np.asarray(ridged), gradient, start, free
        z = np.asarray(minimum(*problem, summed))
        check_feasible(problem, z, summed, 2.3e-16)
        found, lowest = value(problem, z), by_trial(problem, summed)
        size = np.abs(lowest) + np.abs(gradient * start).sum(0)
        assert (found <= 1e-12 * size).all()
        if rank > 0:  # without any curvature a step may be refused
            assert (found > lowest + 1e-3 * size).mean() <= 0.2


@pytest.mark.parametrize("n", [3, 5])
def test_float32_is_never_worse_than_the_start(n):
    """Of matrices of any rank; rounding costs at most a part in 1e5 of what is to be won."""
    eps = np.finfo(np.float32).eps
    for rank, summed in itertools.product([1, 2, 8], [False, True]):
        *problem, free = drawn(rank, n, rank, held=0.2)
        rounded = [x.astype(np.float32) for x in problem]
        with jax.enable_x64(False):
            z = np.asarray(minimum(*rounded, free, summed))
        problem = (*(x.astype(float) for x in rounded), free)
        check_feasible(problem, z, summed, eps)
        found = value(problem, z.astype(float))
        size = np.abs(found) + np.abs(problem[1] * problem[2]).sum(0)
        assert (found <= 1e-5 * size).all()
        if rank == 8:
            missed = found > by_trial(problem, summed) + 1e-4 * size
            assert missed.mean() <= 0.05


def test_where_there_is_nothing_to_win(x64):
    """From the minimum back to it; with all entries held; and a sum of zero."""
    matrix, gradient, start, _ = drawn(7, 3)
    free = np.ones(start.shape, bool)
    for summed in (False, True):
        z = np.asarray(minimum(matrix, gradient, start, free, summed))
        slope = gradient + np.einsum("ijp,jp->ip", matrix, z - start)
        again = np.asarray(minimum(matrix, slope, z, free, summed))
        np.testing.assert_allclose(again, z, atol=1e-9)
        held = np.asarray(minimum(matrix, gradient, start, ~free, summed))
        np.testing.assert_array_equal(held, start)
    nothing = np.asarray(minimum(matrix, gradient, 0 * start, free, True))
    np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.parametrize(("n", "summed"), [(1, True), (2, False), (3, True), (5, True)])
def test_projected_inverse_is_numpy_s(n, summed, precision):
    """Pixel by pixel: the inverse of the free block, projected onto changes that sum to zero."""
    matrix, *_, free = drawn(3, n, held=0.3)
    matrix = matrix.astype(precision)
    found = inverse(matrix, free, summed)
    change = product(found, jnp.ones((n, N_PIXELS)))
    found = np.asarray(found)
    np.testing.assert_allclose(change, found.sum(1), rtol=1e-5, atol=1e-6 * np.abs(found).max())
    for p in range(N_PIXELS):
        s = np.flatnonzero(free[:, p])
        expected = np.zeros((n, n))
        if len(s):
            block = np.linalg.inv(matrix[:, :, p].astype(float)[np.ix_(s, s)])
            condition = np.linalg.cond(matrix[:, :, p].astype(float)[np.ix_(s, s)])
            ones = block.sum(1)
            expected[np.ix_(s, s)] = block - summed * np.outer(ones, ones) / ones.sum()
            room = 10 * np.finfo(precision).eps * condition * np.abs(block).max()
            np.testing.assert_allclose(found[:, :, p], expected, atol=room)
        else:
            np.testing.assert_array_equal(found[:, :, p], 0.0)


def test_symmetric_matrices_from_pairs(precision):
    matrix, gradient, *_ = drawn(0, 5, rank=1)
    second = np.stack([matrix[i, j] for i, j in pairs(5)]).astype(precision)
    diagonal = np.abs(gradient).astype(precision)
    found = np.asarray(symmetric(jnp.asarray(second), jnp.asarray(diagonal)))
    expected = matrix + np.eye(5)[:, :, None] * diagonal[None]
    trace = np.trace(expected)[None, None]
    np.testing.assert_allclose(found / trace, expected / trace, atol=10 * np.finfo(precision).eps)
    np.testing.assert_array_equal(found, found.swapaxes(0, 1))
    assert np.linalg.eigvalsh(found.T).min() > 0


@pytest.mark.parametrize("seed", range(4))
def test_minimum_in_a_box_where_sums_stay(seed, x64):
    """Two groups of entries whose weighted sums must not change, against SciPy's SLSQP."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(10, 10))
    matrix, gradient = root @ root.T + 0.1 * np.eye(10), 3 * rng.normal(size=10)
    lower = -rng.random(10) * (rng.random(10) < 0.7)
    free = np.ones(10, bool)
    free[[2, 7]] = False
    normals = np.zeros((2, 10))
    normals[0, :5], normals[1, 5:] = rng.random(5) + 0.1, rng.random(5) + 0.1
    normals = np.where(free, normals, 0.0)
    found = np.asarray(box_minimum(*map(jnp.asarray, (matrix, gradient, lower, free, normals))))
    best = minimize(
        lambda d: gradient @ d + 0.5 * d @ matrix @ d,
        np.zeros(10),
        jac=lambda d: gradient + matrix @ d,
        bounds=[
            (low if is_free else 0.0, None if is_free else 0.0)
            for low, is_free in zip(lower, free, strict=True)
        ],
        constraints={"type": "eq", "fun": lambda d: normals @ d, "jac": lambda d: normals},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert best.success
    np.testing.assert_allclose(found, best.x, atol=1e-5)
    np.testing.assert_allclose(normals @ found, 0.0, atol=1e-12)
