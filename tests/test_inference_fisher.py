"""Fisher information against brute force, and error bars against the scatter of repeated fits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import Basis
from esmpy_jax.inference import (
    Information,
    information,
    phase_composition,
    pixel_composition,
    weights_covariance,
)
from esmpy_jax.inference._fisher import free_abundances, free_weights
from esmpy_jax.objective import (
    AbstractConstraint,
    DenseCounts,
    LogSparsity,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    exposure_or_one,
    relative_to_counts,
)
from esmpy_jax.solve import Fixed, MultiplicativeUpdate, Problem

N_CHANNELS, N_COLUMNS, N_PHASES, N_PIXELS = 13, 4, 3, 7
ROWS = np.array([True, True, True, False])


def tiny_problem(
    *, by_phase=False, exposure=False, constraint: AbstractConstraint = Unconstrained(), **options
):
    rng = np.random.default_rng(3)
    shape = (N_PHASES, N_CHANNELS, N_COLUMNS) if by_phase else (N_CHANNELS, N_COLUMNS)
    basis = Basis.from_matrix(rng.random(shape) ** 3 + 0.02, in_composition=ROWS.tolist())
    weights = rng.random((N_COLUMNS, N_PHASES)) + 0.1
    weights[0, 1] = weights[2, 2] = 0.0
    abundances = rng.dirichlet(np.ones(N_PHASES), N_PIXELS).T
    abundances[0, [1, 4]] = abundances[2, [2, 4]] = abundances[1, [3, 5]] = 0.0
    abundances /= abundances.sum(0)
    if isinstance(constraint, SumToOneAbundances):
        weights *= 50.0
    else:
        abundances *= 50.0
    dose = rng.uniform(0.5, 2.0, N_PIXELS) if exposure else None
    mean = np.asarray(basis.endmembers(jnp.asarray(weights, float)), np.float64) @ abundances
    y = rng.poisson(mean.T * (1 if dose is None else dose[:, None]))
    counts = as_counts(y, scan_shape=(N_PIXELS,), exposure=dose)
    regulariser = options.pop("regulariser", NoRegulariser())
    problem = Problem(counts, basis, constraint, regulariser, **options)
    return problem, jnp.asarray(weights, float), jnp.asarray(abundances, float)


def dense_blocks(problem, weights, abundances, scale=None):
    """Expected information of (W, H) from the Jacobian of the whole model, in float64 NumPy."""
    scale = np.ones(weights.shape[1]) if scale is None else np.asarray(scale, float)
    dose = np.asarray(exposure_or_one(problem.counts), np.float64)

    with jax.enable_x64(True):
        basis = Basis(jnp.asarray(np.asarray(problem.basis.matrix)), problem.basis.columns)
        n_w = weights.size
        flat = jnp.concatenate(
            [
                jnp.asarray(np.asarray(weights, np.float64) / scale).ravel(),
                jnp.asarray(np.asarray(abundances, np.float64) * scale[:, None]).ravel(),
            ]
        )

        def model(theta):
            w, h = theta[:n_w].reshape(weights.shape), theta[n_w:].reshape(abundances.shape)
            return ((basis.endmembers(w) @ h) * dose).ravel()

        jacobian, mean = np.asarray(jax.jacobian(model)(flat)), np.asarray(model(flat))
    weighted = jacobian / np.where(mean > 0, mean, np.inf)[:, None]
    full = jacobian.T @ weighted
    return full[:n_w, :n_w], full[:n_w, n_w:], full[n_w:, n_w:]


def dense_schur(blocks, free, plane=None):
    """H eliminated on its free entries, and on `plane · dh = 0` in each pixel if asked for."""
    ww, wh, hh = blocks
    n_phases, n_pixels = free.shape
    directions = []
    for p in range(n_pixels):
        index = [a * n_pixels + p for a in range(n_phases) if free[a, p]]
        span = np.eye(len(index))
        if plane is not None and len(index):
            normal = np.array([plane[i // n_pixels] for i in index])[None, :]
            span = np.linalg.svd(normal)[2][1:].T
        full = np.zeros((free.size, span.shape[1]))
        full[index] = span
        directions.append(full)
    tangent = np.concatenate(directions, 1)
    cross = wh @ tangent
    return ww - cross @ np.linalg.solve(tangent.T @ hh @ tangent, cross.T)


def free_entries(problem, weights, abundances):
    """Of W and of H."""
    both = free_weights, free_abundances
    return [np.asarray(free(problem, weights, abundances)) for free in both]


@pytest.mark.parametrize(("by_phase", "exposure"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("constraint", [Unconstrained(), SumToOneAbundances()])
def test_information_is_that_of_the_dense_model(precision, by_phase, exposure, constraint):
    problem, weights, abundances = tiny_problem(
        by_phase=by_phase, exposure=exposure, constraint=constraint
    )
    scale = np.array([0.5, 2.0, 7.0])
    w_free, free = free_entries(problem, weights, abundances)
    assert free.any(0).all()
    assert not free.all()
    for s in (None, scale):
        found = information(
            problem, weights, abundances, None if s is None else jnp.asarray(s, float)
        )
        plane = None
        if isinstance(constraint, SumToOneAbundances):
            plane = np.ones(N_PHASES) if s is None else 1 / s
        blocks = dense_blocks(problem, weights, abundances, s)
        truth = dense_schur(blocks, free, plane)
        own = np.sqrt(np.diag(blocks[0]))  # S is what is left of this
        tolerance = 5e-5 if precision == "float32" else 1e-12
        error = np.abs(found.schur - truth) / (own[:, None] * own[None, :])
        assert error.max() < tolerance
        assert found.scale_known.all() == isinstance(constraint, SumToOneAbundances)

        # with 1 / x² added for the free entries x, but no more than is known of x alone
        each = np.ones(N_PHASES) if s is None else s
        h = (np.asarray(abundances, np.float64) * each[:, None]).ravel()
        w = (np.asarray(weights, np.float64) / each).ravel()
        bounds = 1 / np.maximum(h**2, 1 / np.diag(blocks[2]))
        bounded = dense_schur((*blocks[:2], blocks[2] + np.diag(bounds)), free, plane)
        bounds = 1 / np.maximum(w**2, 1 / np.diag(blocks[0]))
        bounded += np.diag(np.where(w_free.ravel(), bounds, 0.0))
        error = np.abs(found.bounded - bounded) / (own[:, None] * own[None, :])
        assert error.max() < tolerance


def test_information_of_many_tiles_is_the_sum_of_its_pixels(x64):
    """600 pixels need three tiles, the last one padded."""
    problem, weights, abundances = tiny_problem()
    repeats = 86
    y = np.tile(problem.counts.to_dense(), (repeats, 1))
    many = eqx.tree_at(lambda p: p.counts, problem, as_counts(y, scan_shape=(len(y),)))
    one = information(problem, weights, abundances)
    all_of_them = information(many, weights, jnp.tile(abundances, (1, repeats)))
    np.testing.assert_allclose(all_of_them.schur, repeats * one.schur, rtol=1e-9)


@pytest.mark.parametrize("by_phase", [False, True])
@pytest.mark.parametrize("constraint", [Unconstrained(), SumToOneAbundances()])
def test_free_entries_are_those_a_newton_step_leaves_positive(precision, by_phase, constraint):
    rng = np.random.default_rng(8)
    regulariser = LogSparsity(2.0, 0.1)
    mask_w, mask_h = rng.random((4, 3)) < 0.2, rng.random((3, 7)) < 0.2
    problem, weights, abundances = tiny_problem(
        by_phase=by_phase, exposure=True, constraint=constraint, regulariser=regulariser
    )
    w_free, h_free = free_entries(problem, weights, abundances)

    w, h = np.asarray(weights, np.float64), np.asarray(abundances, np.float64)
    g = np.asarray(problem.basis.matrix, np.float64)
    g = g if by_phase else np.broadcast_to(g, (N_PHASES, *g.shape))
    y, e = problem.counts.to_dense().T, np.asarray(problem.counts.exposure, np.float64)
    d = np.einsum("acj,ja->ca", g, w)
    model = d @ h
    slope = e - y / model  # of the NLL in the model of one channel and pixel
    h_slope = d.T @ slope + 2.0 / (h + 0.1)
    if isinstance(constraint, SumToOneAbundances):
        h_slope -= (h * h_slope).sum(0)
    h_step = h * ((d**2).T @ (e / model)) - h_slope
    w_slope = np.einsum("acj,cp,ap->ja", g, slope, h)
    w_step = w * np.einsum("acj,cp,ap->ja", g**2, e / model, h**2) - w_slope
    np.testing.assert_array_equal(h_free, h_step > 0)
    np.testing.assert_array_equal(w_free, w_step > 0)

    fixed = eqx.tree_at(
        lambda p: (p.fixed_weights, p.fixed_abundances),
        problem,
        (
            Fixed(jnp.asarray(mask_w), jnp.asarray(w, float)),
            Fixed(jnp.asarray(mask_h), jnp.asarray(h, float)),
        ),
        is_leaf=lambda x: x is None,
    )
    w_fixed, h_fixed = free_entries(fixed, weights, abundances)
    np.testing.assert_array_equal(w_fixed, (w_step > 0) & ~mask_w)
    np.testing.assert_array_equal(h_fixed, (h_step > 0) & ~mask_h)
    told = information(fixed, weights, abundances)
    np.testing.assert_array_equal(told.weights_known, mask_w)


def held_at_zero():
    """S of a problem whose free set is exactly the positive entries, so that scale is a gauge."""
    problem, weights, abundances = tiny_problem()
    w, h = np.asarray(weights), np.asarray(abundances)
    return w, h, dense_schur(dense_blocks(problem, w, h), h > 0)


def at_percent_errors(weights, covariance):
    return phase_composition(weights, covariance, np.flatnonzero(ROWS), np.ones(3))[1]


def gauge_fixed_inverse(schur, weights, free, fixed_rows=ROWS):
    """Dense inverse with the sum of each phase's composition rows held: another gauge."""
    index = np.flatnonzero(free.ravel())
    normals = np.stack(
        [np.outer(fixed_rows, np.arange(N_PHASES) == a).ravel()[index] for a in range(N_PHASES)]
    )
    span = np.linalg.svd(normals)[2][N_PHASES:].T
    out = np.zeros_like(schur)
    inner = span @ np.linalg.solve(span.T @ schur[np.ix_(index, index)] @ span, span.T)
    out[np.ix_(index, index)] = inner
    return out


def told(schur, free, known=None, scale_known=False, summed=None):
    """Information whose bounds are far away, so that they only settle the scale."""
    known = np.zeros_like(free) if known is None else known
    bounded = schur + 1e-6 * np.diag(np.diag(schur))
    return Information(schur, bounded, free, known, np.full(N_PHASES, scale_known), summed)


def test_covariance_gives_the_errors_of_a_dense_inverse_in_another_gauge(x64):
    weights, _, schur = held_at_zero()
    free = weights > 0
    found = weights_covariance(weights, told(schur, free, ~free))
    assert not found[~free.ravel()].any()
    dense = gauge_fixed_inverse(schur, weights, free)
    np.testing.assert_allclose(
        at_percent_errors(weights, found), at_percent_errors(weights, dense), rtol=1e-4
    )


@pytest.mark.parametrize("entry", [(0, 1), (2, 2)])
def test_an_entry_at_zero_has_the_error_of_a_free_one(x64, entry):
    """The free ones know what they would follow it by: together the covariance with it free."""
    weights, _, schur = held_at_zero()
    free = weights > 0
    known = ~free
    known[entry] = False
    found = weights_covariance(weights, told(schur, free, known))
    free[entry] = True
    dense = gauge_fixed_inverse(schur, weights, free)
    errors = at_percent_errors(weights, found)
    np.testing.assert_allclose(errors, at_percent_errors(weights, dense), rtol=1e-3)
    assert errors[entry] > 0.01


def test_mixing_that_only_the_bounds_limit(precision):
    """Phase b is nowhere purer than 97 %, so it may hold 3 % more of phase a: about its error.

    With 10⁸ counts nothing else matters. Phase a has pure pixels and is exact.
    """
    rng = np.random.default_rng(0)
    basis = Basis.from_matrix(rng.random((12, 3)) ** 3 + 0.01)
    weights = np.array([[0.5, 0.2], [0.5, 0.2], [0.0, 0.6]])
    share = np.array([1.0, 1.0, 0.03, 0.2, 0.5])
    abundances = np.stack([share, 1 - share])
    abundances *= 2e7 / np.asarray(basis.matrix).sum(0).mean()
    y = np.rint((np.asarray(basis.matrix, float) @ weights @ abundances).T).astype(int)
    problem = Problem(as_counts(y, scan_shape=(5,)), basis, Unconstrained(), NoRegulariser())
    known = Fixed(jnp.asarray(weights == 0), jnp.zeros((3, 2)))
    known_h = Fixed(jnp.asarray(abundances == 0), jnp.zeros((2, 5)))
    problem = eqx.tree_at(
        lambda p: (p.fixed_weights, p.fixed_abundances),
        problem,
        (known, known_h),
        is_leaf=lambda x: x is None,
    )
    info = information(problem, jnp.asarray(weights, float), jnp.asarray(abundances, float))
    covariance = weights_covariance(weights, info)
    _, errors = phase_composition(weights, covariance, np.arange(3), np.ones(3))
    assert errors[:, 0].max() < 1e-3
    reach = 0.03 * np.abs(weights[:, 0] - weights[:, 1])
    assert (errors[:, 1] > 0.5 * reach).all()
    assert (errors[:, 1] < 3 * reach).all()


def test_errors_do_not_depend_on_the_scale_of_the_phases(precision):
    problem, weights, abundances = tiny_problem()
    scale = jnp.array([1e-3, 1.0, 30.0])
    other_w, other_h = weights * scale[None, :], abundances / scale[:, None]
    errors = []
    for w, h, s in (
        (weights, abundances, None),
        (other_w, other_h, None),
        (weights, abundances, 1 / scale),
    ):
        info = information(problem, w, h, s)
        covariance = weights_covariance(
            np.asarray(w if s is None else w / s[None, :], np.float64), info
        )
        errors.append(at_percent_errors(np.asarray(w, np.float64), covariance * _unscale(s)))
    rtol = 2e-2 if precision == "float32" else 1e-8
    np.testing.assert_allclose(errors[1], errors[0], rtol=rtol)
    np.testing.assert_allclose(errors[2], errors[0], rtol=rtol)
    assert (errors[0] > 0).all()


def _unscale(s):
    if s is None:
        return 1.0
    each = np.tile(np.asarray(s, np.float64), N_COLUMNS)
    return each[:, None] * each[None, :]


def test_a_fixed_entry_has_no_error_and_settles_the_scale(x64):
    weights, _, schur = held_at_zero()
    known = weights == 0
    known[1, :] = True
    free = ~known
    found = weights_covariance(weights, told(schur, free, known, True))
    assert not found[:, known.ravel()].any()
    index = np.flatnonzero(free.ravel())
    np.testing.assert_allclose(
        found[np.ix_(index, index)], np.linalg.inv(schur[np.ix_(index, index)]), rtol=1e-4
    )
    # with the sum of the rows held as well, the fixed atomic fraction has no error either
    summed = weights_covariance(weights, told(schur, free, known, True, ROWS))
    canonical = at_percent_errors(weights, summed)
    dense = gauge_fixed_inverse(schur, weights, free)
    assert canonical[1] == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_allclose(canonical, at_percent_errors(weights, dense), rtol=1e-3, atol=1e-4)
    assert canonical[0, 0] > 0.01


def test_constraints_and_fixed_entries_are_told_to_the_covariance(x64):
    problem, weights, abundances = tiny_problem(constraint=SumToOneWeights())
    info = information(problem, weights, abundances)
    np.testing.assert_array_equal(info.summed, ROWS)
    assert not info.scale_known.any()
    mask = np.zeros((N_COLUMNS, N_PHASES), bool)
    mask[1, 2] = mask[3, 0] = True
    values = jnp.zeros(mask.shape).at[1, 2].set(0.5)
    fixed = Fixed(jnp.asarray(mask), values)
    problem, weights, abundances = tiny_problem(fixed_weights=fixed)
    info = information(problem, fixed.apply(weights), abundances)
    assert info.scale_known.tolist() == [False, False, True]  # a fixed zero pins no scale
    held = Fixed(jnp.arange(N_PIXELS)[None, :] == jnp.array([[0], [-1], [-1]]), abundances)
    problem, weights, abundances = tiny_problem(fixed_abundances=held)
    assert information(problem, weights, abundances).scale_known.tolist() == [True, False, False]


def test_what_the_counts_say_nothing_about_has_a_large_error(precision):
    """A phase without abundance; and two phases in one pixel."""
    problem, weights, abundances = tiny_problem()
    weights = weights / weights[ROWS].sum(0, keepdims=True)
    info = information(problem, weights, abundances.at[2].set(0.0))
    covariance = weights_covariance(np.asarray(weights, np.float64), info)
    _, errors = phase_composition(
        np.asarray(weights, np.float64), covariance, np.flatnonzero(ROWS), np.ones(3)
    )
    assert (errors[:, 2] > 0.3).all()
    assert np.isfinite(errors).all()
    one = eqx.tree_at(lambda p: p.counts, problem, as_counts(np.full((1, N_CHANNELS), 20)))
    info = information(one, weights[:, :2], jnp.full((2, 1), 10.0))
    covariance = weights_covariance(np.asarray(weights[:, :2], np.float64), info)
    errors = at_percent_errors(np.asarray(weights[:, :2], np.float64), covariance)
    assert (errors > 0.3).all()
    assert (errors <= 1).all()


def test_factors_that_are_not_finite_give_no_error_bars():
    problem, weights, abundances = tiny_problem()
    info = information(problem, weights.at[0, 0].set(jnp.nan), abundances)
    assert np.isnan(weights_covariance(np.asarray(weights, np.float64), info)).all()


# Honesty: the deviations of repeated fits from the truth.

N_DRAWS = 64


def scene(shares):
    """Two phases, pure in two thirds of 8 × 8 pixels, with some elements in one phase only."""
    rng = np.random.default_rng(0)
    energy = np.arange(40.0)
    peaks = [np.exp(-0.5 * ((energy - c) / 1.5) ** 2) for c in (6, 12, 20, 31)]
    matrix = np.stack([*peaks, np.exp(-energy / 30) * 0.2], 1)
    weights = np.array([[0.5, 0.3], [0.3, 0.2], [0.2, 0.0], [0.0, 0.5], [0.6, 0.9]])
    second = np.repeat([0.0, 1.0, 0.5], [28, 20, 16])
    second[48:] = np.linspace(0.25, 0.75, 16)
    abundances = np.stack([1 - second, second])
    thickness = rng.uniform(0.6, 1.4, 64) if shares else np.ones(64)
    mean = matrix @ weights @ abundances * thickness
    scale = 2000 / mean.sum(0).mean()
    draws = rng.poisson(mean.T * scale, (N_DRAWS, 64, 40))
    basis = Basis.from_matrix(matrix, in_composition=[True] * 4 + [False])
    return basis, weights, abundances, scale, draws


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("unconstrained", marks=pytest.mark.slow),
        "shares",
        pytest.param("zeros known", marks=pytest.mark.slow),
    ],
)
def test_error_bars_match_the_scatter_of_repeated_fits(x64, case):
    """Where the zeros of H are known, deviations from the truth have the predicted variance.

    Where they are not, abundances that cannot be negative are too large on average, which shifts
    the compositions: the deviations still have the predicted size, but part of them is bias.
    """
    shares = case == "shares"
    basis, weights, abundances, scale, draws = scene(shares)
    constraint = SumToOneAbundances() if shares else Unconstrained()

    def problem_of(draw):
        counts = as_counts(draw, scan_shape=(64,), storage="dense")
        counts = relative_to_counts(counts) if shares else counts
        assert isinstance(counts, DenseCounts)
        counts = eqx.tree_at(lambda c: c.values, counts, counts.values.astype(jnp.int32))
        zeros = Fixed(jnp.asarray(abundances == 0), jnp.zeros(abundances.shape))
        return Problem(
            counts,
            basis,
            constraint,
            NoRegulariser(),
            fixed_abundances=zeros if case == "zeros known" else None,
        )

    problems = [problem_of(draw) for draw in draws]
    # started off the bounds, which multiplicative updates cannot leave
    w0 = jnp.asarray(np.maximum(weights, 0.01)) * (scale if shares else 1.0)
    h0 = jnp.asarray(0.96 * abundances + 0.02) * (1.0 if shares else scale)

    @jax.jit
    def refit(problem):
        def step(_, factors):
            w, h, _ = MultiplicativeUpdate().step(problem, factors[0], factors[1], None)
            return w, h

        return jax.lax.fori_loop(0, 1500, step, (w0, h0))

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    rows, ones, mixed = np.arange(4), np.ones(4), slice(48, 64)
    found, errors, pixels, pixel_errors = [], [], [], []
    for problem, w, h in zip(problems, *jax.vmap(refit)(stacked), strict=True):
        covariance = weights_covariance(np.asarray(w), information(problem, w, h))
        composition, error = phase_composition(np.asarray(w), covariance, rows, ones)
        found.append(composition)
        errors.append(error)
        free = np.asarray(free_abundances(problem, w, h))
        composition, error = pixel_composition(
            basis,
            np.asarray(w),
            np.asarray(h)[:, mixed],
            np.asarray(exposure_or_one(problem.counts))[0, mixed],
            covariance,
            free[:, mixed],
            np.zeros((2, 16), bool),
            rows,
            ones,
            np.ones(2) if shares else None,
        )
        pixels.append(composition)
        pixel_errors.append(error)
    found, errors, pixels, pixel_errors = map(np.array, (found, errors, pixels, pixel_errors))

    # A variance from 64 draws has a relative error of sqrt(2 / 64), a mean one of 1/8 error.
    truth = weights[:4] / weights[:4].sum(0)
    present = truth > 0
    predicted = np.sqrt((errors**2).mean(0))
    spread = (found.var(0) / predicted**2)[present]
    bias = ((found.mean(0) - truth) / predicted)[present]
    if case == "zeros known":
        assert (np.abs(spread - 1) < 4 * np.sqrt(2 / N_DRAWS)).all()
        assert (np.abs(bias) < 4 / np.sqrt(N_DRAWS)).all()
    else:
        assert (np.abs(spread + bias**2 - 1) < 1.2).all()
        assert (spread + bias**2 > 0.4).all()
    # an absent element is never found beyond its one-sided error
    assert (found[:, ~present] < 3 * errors[:, ~present]).all()
    assert (errors[:, ~present] < 0.01).all()

    amounts = weights[:4] @ abundances[:, mixed]
    predicted = np.sqrt((pixel_errors**2).mean(0))
    spread = (pixels.var(0) / predicted**2).mean(1)
    bias = ((pixels.mean(0) - amounts / amounts.sum(0)) / predicted).mean(1)
    # 1024 values for each element; those of one draw share W, which is a small part here
    assert (np.abs(spread - 1) < 0.2).all()
    assert (np.abs(bias) < (0.2 if case == "zeros known" else 0.5)).all()
