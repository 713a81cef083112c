"""Start values: in the gauge of the constraint, with the fixed entries, worth the counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import Basis
from esmpy_jax._checks import InputError
from esmpy_jax.objective import (
    AbstractConstraint,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
)
from esmpy_jax.solve import (
    BinnedStart,
    Fixed,
    GivenStart,
    MultiplicativeUpdate,
    NNDSVDStart,
    Problem,
    RandomStart,
    mean_weights,
)
from esmpy_jax.solve._binned import upsample
from esmpy_jax.solve._initialise import _nndsvd

ROWS = [True, True, True, True, False]
KEY = jax.random.key(3)
CONSTRAINTS = [Unconstrained(), SumToOneAbundances(), SumToOneWeights()]


def problem(
    constraint: AbstractConstraint = Unconstrained(),
    *,
    exposure=False,
    zero_column=False,
    by_phase=False,
):
    rng = np.random.default_rng(0)
    matrix = rng.random((9, 5)) + 0.1
    if zero_column:
        matrix[:, 1] = 0
    y = rng.poisson(rng.gamma(2.0, 3.0, (24, 1)) * (matrix @ rng.random((5, 1))).T)
    y[3] = 0
    dose = rng.uniform(0.5, 2.0, 24) if exposure else None
    if by_phase:
        matrix = np.stack([matrix, 2 * matrix, matrix**2])
    counts = as_counts(y, scan_shape=(4, 6), exposure=dose)
    return Problem(
        counts, Basis.from_matrix(matrix, in_composition=ROWS), constraint, NoRegulariser()
    )


def given(seed=1):
    rng = np.random.default_rng(seed)
    return GivenStart(rng.random((5, 3)), rng.random((3, 24)) * 50)


def starts():
    quick = BinnedStart(factor=2, solver=MultiplicativeUpdate(), restarts=1, max_steps=20)
    return [RandomStart(), NNDSVDStart(), given(), quick]


def check_gauge(problem, weights, abundances):
    w, h = np.asarray(weights), np.asarray(abundances)
    for factor, shape in ((w, (5, 3)), (h, (3, 24))):
        assert factor.shape == shape
        assert np.isfinite(factor).all()
        assert factor.min() >= 0
    if isinstance(problem.constraint, SumToOneAbundances):
        np.testing.assert_allclose(h.sum(0), 1, rtol=1e-5)
    if isinstance(problem.constraint, SumToOneWeights):
        np.testing.assert_allclose(w[:4].sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("start", starts(), ids=lambda s: type(s).__name__)
def test_starts_are_in_the_gauge(start, constraint):
    kinds = [{"exposure": True}, {"zero_column": True}, {"by_phase": True}]
    turn = CONSTRAINTS.index(constraint) + [type(s) for s in starts()].index(type(start))
    case = problem(constraint, **kinds[turn % 3])
    weights, abundances = start(case, 3, KEY)
    check_gauge(case, weights, abundances)
    if not isinstance(start, GivenStart):
        # every pixel with counts is expected to give them, or on average with one level for all
        expected = np.asarray(case.basis.endmembers(weights).sum(0) @ abundances)
        dose = 1.0 if case.counts.exposure is None else np.asarray(case.counts.exposure)
        totals = np.asarray(case.counts.pixel_totals())
        if isinstance(constraint, SumToOneAbundances):
            np.testing.assert_allclose(expected, (totals / dose).mean(), rtol=1e-3)
        else:
            some = totals > 0
            np.testing.assert_allclose((expected * dose)[some], totals[some], rtol=1e-5)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("start", starts()[:3], ids=lambda s: type(s).__name__)
def test_fixed_entries_are_put_in(start, constraint):
    rng = np.random.default_rng(5)
    masks = [rng.random((5, 3)) < 0.4, rng.random((3, 24)) < 0.3]
    masks[0][0], masks[1][0] = False, False
    values = [np.where(m, 0.15 * rng.random(m.shape), 0.0) for m in masks]
    fixed = [
        Fixed(jnp.asarray(m), jnp.asarray(v, float)) for m, v in zip(masks, values, strict=True)
    ]
    case = problem(constraint)
    case = Problem(case.counts, case.basis, constraint, NoRegulariser(), *fixed)
    factors = start(case, 3, KEY)
    check_gauge(case, *factors)
    for factor, mask, value in zip(factors, masks, values, strict=True):
        np.testing.assert_allclose(np.asarray(factor)[mask], value[mask], rtol=1e-6)


def test_a_known_spectrum_leaves_the_phases_balanced():
    """W of one phase known, in atomic fractions: H brings all phases to the same brightness."""
    known = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
    mask = np.zeros((5, 3), bool)
    mask[:, 1] = True
    case = problem()
    case = Problem(
        case.counts,
        case.basis,
        case.constraint,
        case.regulariser,
        Fixed(jnp.asarray(mask), jnp.asarray(np.where(mask, known[:, None], 0.0), float)),
    )
    weights, abundances = RandomStart()(case, 3, KEY)
    phases = np.asarray(case.basis.endmembers(weights).sum(0) * abundances.sum(1))
    assert phases.max() < 1.5 * phases.min()


def test_random_starts_follow_the_key():
    case = problem()
    for start in (RandomStart(), starts()[3]):
        first, again, other = (start(case, 3, jax.random.key(k)) for k in (1, 1, 2))
        for a, b, c in zip(first, again, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.abs(np.asarray(a) - np.asarray(c)).max() > 1e-3
    # and NNDSVD asks for none
    for a, b in zip(NNDSVDStart()(case, 3, KEY), NNDSVDStart()(case, 3, None), strict=True):  # pyright: ignore
        np.testing.assert_array_equal(a, b)


# ---- NNDSVD ----


def boutsidis(matrix, rank):
    """The published algorithm, from NumPy's SVD, zeros left at zero."""
    u, s, vt = np.linalg.svd(matrix)
    left, right = np.zeros((matrix.shape[0], rank)), np.zeros((rank, matrix.shape[1]))
    for j in range(rank):
        x, y = u[:, j], vt[j]
        pairs = [(np.maximum(x, 0), np.maximum(y, 0)), (np.maximum(-x, 0), np.maximum(-y, 0))]
        norms = [np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs]
        (a, b), norm = pairs[np.argmax(norms)], max(norms)
        left[:, j] = np.sqrt(s[j] * norm) * a / np.linalg.norm(a)
        right[j] = np.sqrt(s[j] * norm) * b / np.linalg.norm(b)
    return left, right


def test_nndsvd_is_the_published_one():
    matrix = np.random.default_rng(0).random((5, 12)) ** 2
    ours, theirs = _nndsvd(matrix, 3), boutsidis(matrix, 3)
    for a, b in zip(ours, theirs, strict=True):
        assert (b == 0).any()
        np.testing.assert_allclose(a, np.maximum(b, 0.01 * b.mean()), rtol=1e-9)


def test_nndsvd_of_a_product_of_one_phase_is_that_product():
    rng = np.random.default_rng(0)
    matrix = (rng.random((5, 1)) + 0.1) @ (rng.random((1, 12)) + 0.1)
    left, right = _nndsvd(matrix, 1)
    np.testing.assert_allclose(left @ right, matrix, rtol=1e-9)


@pytest.mark.parametrize("row", [[1, 0, 0, 0], [3, 1, 0, 2]])
def test_nndsvd_of_fewer_directions_than_phases_is_finite(row):
    matrix = np.outer(row, [1, 0, 2, 1, 0]).astype(float)
    left, right = _nndsvd(matrix, 3)
    for factor in (left, right):
        assert np.isfinite(factor).all()
        assert factor.min() > 0
    np.testing.assert_allclose(left @ right, matrix, atol=0.05 * matrix.max())


def test_nndsvd_needs_columns():
    case = Problem(
        as_counts(np.ones((9, 4), int)),
        Basis.from_matrix(np.ones((4, 2))),
        Unconstrained(),
        NoRegulariser(),
    )
    with pytest.raises(InputError, match="at least as many columns and pixels"):
        NNDSVDStart()(case, 3, KEY)


def test_mean_weights_fit_a_spectrum(precision):
    matrix = np.random.default_rng(2).random((30, 4)) ** 3
    matrix[20], matrix[:, 3] = 0, 0  # a channel out of reach, a column that sees nothing
    weights = np.array([3.0, 0.5, 8.0, 0.0])
    spectrum = matrix @ weights * 1e4
    spectrum[20] = 1e7
    found = mean_weights(jnp.asarray(matrix, float), jnp.asarray(spectrum, float), 3000)
    np.testing.assert_allclose(found, weights * 1e4, rtol=1e-3)


# ---- given factors ----


def test_given_factors_are_kept_where_they_fit():
    rng = np.random.default_rng(7)
    w, h = rng.random((5, 3)), rng.random((3, 24))
    shares, fractions = h / h.sum(0), w / w[:4].sum(0)
    for constraint, weights, abundances in zip(
        CONSTRAINTS, (w, w, fractions), (h, shares, h), strict=True
    ):
        out = GivenStart(weights, abundances)(problem(constraint), 3, KEY)
        np.testing.assert_allclose(out[0], weights, rtol=1e-5)
        np.testing.assert_allclose(out[1], abundances, rtol=1e-5)
    # where only the gauge differs, the product is kept
    out = GivenStart(w, h)(problem(SumToOneWeights()), 3, KEY)
    np.testing.assert_allclose(out[0] @ out[1], w @ h, rtol=1e-5)


def test_given_weights_alone_start_with_even_shares():
    case = problem()
    weights, abundances = GivenStart(np.random.default_rng(7).random((5, 3)))(case, 3, KEY)
    parts = np.asarray(case.basis.endmembers(weights).sum(0)[:, None] * abundances)
    np.testing.assert_allclose(parts, np.tile(parts[:1], (3, 1)), rtol=1e-5)


def test_given_factors_are_checked():
    case, good = problem(), given()
    for weights, abundances, sentence in (
        (np.ones((4, 3)), None, r"W has shape \(4, 3\)"),
        (good.weights, np.ones((3, 23)), r"H has shape \(3, 23\)"),
        (-np.ones((5, 3)), None, "W holds negative or non-finite"),
        (good.weights, np.full((3, 24), np.nan), "H holds negative or non-finite"),
    ):
        with pytest.raises(InputError, match=sentence):
            GivenStart(weights, abundances)(case, 3, KEY)


# ---- the binned start ----


def flat_counts(shape, per_pixel):
    return as_counts(np.full((*shape, 2), per_pixel // 2), storage="sparse")


@pytest.mark.parametrize(
    ("shape", "per_pixel", "factor"),
    [
        ((64, 64), 4000, 1),  # enough already
        ((64, 64), 1000, 2),  # 2 × 2 pixels reach 2000
        ((64, 64), 18, 8),  # 16 × 16 would leave 4 bins
        ((128, 128), 18, 16),
        ((64, 16), 18, 2),  # the short side decides
        ((12, 12), 18, 1),
        ((1, 256), 500, 4),  # a line is binned along itself
    ],
)
def test_bin_factor(shape, per_pixel, factor):
    assert BinnedStart().bin_factor(flat_counts(shape, per_pixel)) == factor
    assert BinnedStart(factor=3).bin_factor(flat_counts(shape, per_pixel)) == 3


def test_upsampling_repeats_each_bin():
    small = jnp.arange(12.0).reshape(2, 6)
    expected = np.kron(np.asarray(small).reshape(2, 2, 3), np.ones((1, 3, 3)))[:, :5, :7]
    out = upsample(small, (2, 3), (5, 7), 3)
    np.testing.assert_array_equal(np.asarray(out).reshape(2, 5, 7), expected)


def test_no_phase_is_excluded_from_a_pixel():
    case = problem()
    start = BinnedStart(factor=2, restarts=1, max_steps=300, floor=0.2)
    weights, abundances = start(case, 3, KEY)
    parts = np.asarray(case.basis.endmembers(weights).sum(0)[:, None] * abundances)
    shares = parts / parts.sum(0)
    assert shares.min() > 0.2 / (1 + 2 * 0.2)  # raised to 0.2, then brought back to a sum of 1
    assert shares.min() < 0.2  # the floor is met somewhere, and is no more than that


def test_binned_start_is_checked():
    case = problem()
    fixed = Fixed(jnp.ones((3, 24), bool), jnp.ones((3, 24)))
    case = Problem(
        case.counts, case.basis, case.constraint, case.regulariser, fixed_abundances=fixed
    )
    with pytest.raises(InputError, match="Fixed abundances cannot be binned"):
        BinnedStart(factor=2)(case, 3, KEY)
    with pytest.raises(InputError, match="binning factor of the start is 0"):
        BinnedStart(factor=0)(case, 3, KEY)
    with pytest.raises(ValueError, match="at least 1"):
        BinnedStart(restarts=0)
