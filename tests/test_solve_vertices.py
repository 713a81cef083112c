"""The start from extreme pixels: which pixels it picks, and where it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax import InputError
from esmpy_jax._basis import Basis
from esmpy_jax.objective import (
    AbstractConstraint,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    relative_to_counts,
)
from esmpy_jax.solve import Fixed, Problem, VertexStart
from esmpy_jax.solve._vertices import _extreme, _features

KEY = jax.random.key(0)


def scene(n_phases=3, counts=3000.0, by_phase=False, empty=(), seed=0):
    """Pixels in groups of four: pure ones of each phase, then mixtures."""
    rng = np.random.default_rng(seed)
    energy = np.arange(30.0)
    peaks = [np.exp(-0.5 * ((energy - c) / 1.2) ** 2) for c in (5, 11, 17, 23)]
    matrix = np.stack([*peaks, 0.3 * np.exp(-energy / 20)], 1)
    weights = np.array(
        [[0.7, 0.1, 0.1], [0.1, 0.6, 0.1], [0.2, 0.1, 0.3], [0.0, 0.2, 0.5], [0.5, 0.6, 0.7]]
    )[:, :n_phases]
    pure = np.repeat(np.eye(n_phases), 4, 1)
    abundances = np.concatenate([pure, rng.dirichlet(np.full(n_phases, 5.0), 24).T], 1)
    mean = matrix @ weights @ abundances
    y = rng.poisson(counts / mean.sum(0).mean() * mean.T)
    y[list(empty)] = 0
    stack = np.stack([matrix] * n_phases) if by_phase else matrix
    basis = Basis.from_matrix(stack, in_composition=[True] * 4 + [False])
    return as_counts(y, scan_shape=(len(y),)), basis, weights


def problem_of(counts, basis, constraint: AbstractConstraint = Unconstrained(), **fixed):
    return Problem(counts, basis, constraint, NoRegulariser(), **fixed)


def angles(found, true):
    """Degrees between each true column and the nearest found one."""
    a, b = (np.asarray(x, float) / np.linalg.norm(x, axis=0) for x in (found, true))
    return np.degrees(np.arccos(np.clip((a.T @ b).max(0), -1, 1)))


@pytest.mark.parametrize("by_phase", [False, True])
@pytest.mark.parametrize("n_phases", [2, 3])
def test_the_start_is_near_the_pure_spectra(precision, n_phases, by_phase):
    counts, basis, weights = scene(n_phases, by_phase=by_phase)
    found, maps = VertexStart(average=4)(problem_of(counts, basis), n_phases, KEY)
    assert found.shape == (5, n_phases)
    assert maps.shape == (n_phases, counts.n_pixels)
    true = np.asarray(basis.matrix[0] if by_phase else basis.matrix) @ weights
    assert angles(np.asarray(basis.endmembers(found)), true).max() < 6
    # each group of four pure pixels belongs to a phase of its own
    owners = np.asarray(maps)[:, : 4 * n_phases].argmax(0).reshape(n_phases, 4)
    assert (owners == owners[:, :1]).all()
    assert len(set(owners[:, 0])) == n_phases


def test_extension_reaches_beyond_the_pixels(x64):
    """Twice as far from the mean spectrum, in the same direction, down to a small floor."""
    counts, basis, _ = scene()
    problem = problem_of(counts, basis)
    mean = np.asarray(VertexStart(0.0)(problem, 3, KEY)[0])
    near, far = (np.asarray(VertexStart(e)(problem, 3, KEY)[0]) for e in (1.0, 1.5))

    def shares(w):
        w = w * np.asarray(basis.matrix).sum(0)[:, None]
        return w / w.sum(0)

    mean, near, far = map(shares, (mean, near, far))
    np.testing.assert_allclose(mean, mean[:, :1] * np.ones((1, 3)), rtol=1e-6)
    expected = np.maximum(mean + 1.5 * (near - mean), 1e-3 * mean)
    np.testing.assert_allclose(far, expected / expected.sum(0), atol=2e-3)
    assert (far > 0).all()
    assert (np.abs(far - mean).sum(0) > 1.3 * np.abs(near - mean).sum(0)).all()


@pytest.mark.parametrize("constraint", [SumToOneAbundances(), SumToOneWeights()])
def test_the_start_obeys_the_constraint_and_fixed_entries(precision, constraint):
    counts, basis, _ = scene()
    if isinstance(constraint, SumToOneAbundances):
        counts = relative_to_counts(counts)
    mask = np.zeros((5, 3), bool)
    mask[3, 0] = True
    fixed = Fixed(jnp.asarray(mask), jnp.zeros((5, 3)))
    problem = problem_of(counts, basis, constraint, fixed_weights=fixed)
    weights, maps = map(np.asarray, VertexStart()(problem, 3, KEY))
    assert weights[3, 0] == 0
    sums = maps.sum(0) if isinstance(constraint, SumToOneAbundances) else weights[:4].sum(0)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert (weights >= 0).all()


def test_the_key_does_not_matter(precision):
    counts, basis, _ = scene()
    one, other = (VertexStart()(problem_of(counts, basis), 3, jax.random.key(k))[0] for k in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_features_are_white(x64):
    """Pixels of one phase and N counts: covariance 1 / N times the identity, up to a scale."""
    rng = np.random.default_rng(1)
    _, basis, weights = scene()
    mean = np.asarray(basis.matrix) @ weights[:, 0]
    y = rng.poisson(np.tile(400 * mean / mean.sum(), (4000, 1)))
    counts = as_counts(y, scan_shape=(4000,))
    fitted = jnp.asarray(np.where(weights[:, 0] > 0, weights[:, 0], 1e-3))
    features, totals = _features(problem_of(counts, basis), basis.matrix, fitted)
    np.testing.assert_array_equal(totals, y.sum(1))
    covariance = np.cov(features.T)
    # the direction of the mean itself is fixed by dividing by the counts
    values = np.linalg.eigvalsh(covariance)
    assert values[0] < 0.05 * values[-1]
    # 4000 draws: each variance to sqrt(2 / 4000) = 2 %
    assert values[-1] / values[1] < 1.15


def test_every_vertex_is_another_pixel_that_is_bright():
    """Two distinct places for four phases, and dim pixels far out that are mostly noise."""
    features = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [5.0, -9.0]])
    totals = np.array([100.0, 100.0, 100.0, 100.0, 1.0, 0.0])
    chosen = _extreme(features, totals, 4)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert len(set(_extreme(features, totals, 6))) == 6
    assert sorted(i % 2 for i in chosen[:2]) == [0, 1]


def test_pixels_without_counts_are_harmless(precision):
    counts, basis, weights = scene(empty=(0, 13, 30))
    found, maps = VertexStart()(problem_of(counts, basis), 3, KEY)
    assert np.isfinite(found).all()
    assert np.isfinite(maps).all()
    assert angles(np.asarray(found), weights).max() < 10


def test_an_absent_column_and_a_single_phase(precision):
    counts, basis, _ = scene(2)
    matrix = np.asarray(basis.matrix).copy()
    matrix = np.concatenate([matrix, np.zeros((30, 1))], 1)
    matrix[29, 5] = 1.0  # a column that saw next to nothing
    problem = problem_of(counts, Basis.from_matrix(matrix))
    found, maps = VertexStart()(problem, 1, KEY)
    assert np.isfinite(found).all()
    assert found.shape == (6, 1)
    np.testing.assert_allclose(
        float((found[:, 0] * matrix.sum(0)).sum() * maps.sum()), counts.total, rtol=1e-3
    )


def test_too_few_pixels_with_counts_are_refused():
    counts, basis, _ = scene(empty=range(34))
    with pytest.raises(InputError, match="Fewer than 3 pixels hold counts"):
        VertexStart()(problem_of(counts, basis), 3, KEY)
