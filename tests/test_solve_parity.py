"""First-order solvers: downhill in every combination, and where they end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import Example, array_sizes
from test_solve_updates import (
    CONSTRAINTS,
    IN_COMPOSITION,
    magnitude,
    many_updates,
    objective_in_numpy,
    random_problem,
    small,
    to_sum,
)

from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    SumOf,
    SumToOneAbundances,
    SumToOneWeights,
    TotalVariation,
    as_counts,
)
from esmpy_jax.solve import (
    BlockMirrorDescent,
    Fixed,
    Problem,
    ProjectedGradient,
    QuadraticSurrogate,
    RandomStart,
    factorise,
)

SOLVERS = [ProjectedGradient(), QuadraticSurrogate(), BlockMirrorDescent()]


def name_of(solver):
    return type(solver).__name__


@eqx.filter_jit
def few_steps(problem, solver, weights, abundances):
    """Factors, losses and penalties along eight steps."""

    def one(carry, _):
        w, h, state = carry
        out = (w, h, problem.losses(w, h), problem.penalty(h))
        return solver.step(problem, w, h, state), out

    start = (weights, abundances, solver.init(problem, weights, abundances))
    return jax.lax.scan(one, start, None, 9)[1]


@eqx.filter_jit
def many_steps(problem, solver, weights, abundances, number):
    def one(_, carry):
        return solver.step(problem, *carry)

    start = (weights, abundances, solver.init(problem, weights, abundances))
    return jax.lax.fori_loop(0, number, one, start)[:2]


def in_sum(problem):
    """Which rows of W and of H sum to one."""
    rows = problem.basis.composition_rows & isinstance(problem.constraint, SumToOneWeights)
    phases = np.full(problem.fixed_abundances.mask.shape[0], True)
    return rows, phases & isinstance(problem.constraint, SumToOneAbundances)


def check_factors(problem, w, h, rtol):
    """Finite, non-negative, fixed entries in place, sums at one."""
    known = (problem.fixed_weights, problem.fixed_abundances)
    for factor, fixed, summed in zip((w, h), known, in_sum(problem), strict=True):
        assert np.isfinite(factor).all()
        assert factor.min() >= 0
        mask = np.asarray(fixed.mask)
        np.testing.assert_array_equal(factor[mask], np.asarray(fixed.values)[mask])
        if summed.any():
            np.testing.assert_allclose(factor[summed].sum(0), 1.0, rtol=rtol)


@pytest.mark.parametrize(
    ("constraint", "storage", "by_phase"),
    [("free", "dense", False), ("sum of H", "sparse", False), ("sum of W", "sparse", True)],
)
@pytest.mark.parametrize("solver", SOLVERS, ids=name_of)
def test_no_step_raises_the_objective(solver, constraint, storage, by_phase, x64):
    """Data, exposure, fixed entries, starts with zeros and all three penalties are drawn."""
    fell = []
    for seed in range(10):
        problem, made = random_problem(seed, CONSTRAINTS[constraint], storage, by_phase)
        start = jnp.asarray(made.weights), jnp.asarray(made.abundances)
        w, h, losses, penalties = map(np.asarray, few_steps(problem, solver, *start))
        rises = np.diff(losses, axis=0).sum(1) + np.diff(penalties)
        size = magnitude(problem, made, *start)
        assert rises.max() <= 1e-13 * size
        fell.append(rises.sum() < -1e-6 * size)
        for i in (1, 8):
            check_factors(problem, w[i], h[i], 1e-12)
    assert np.mean(fell) >= 0.8


@pytest.mark.parametrize("solver", SOLVERS, ids=name_of)
def test_float32_steps_lose_only_rounding(solver):
    """Steps in float32, judged in float64: a rounding of each entry costs at most the counts."""
    with jax.enable_x64(False):
        for seed in range(10):
            problem, made = random_problem(seed, CONSTRAINTS["sum of H"], "sparse", False)
            start = jnp.asarray(made.weights, float), jnp.asarray(made.abundances, float)
            w, h, *_ = few_steps(problem, solver, *start)
            before = np.inf
            for at in zip(np.asarray(w, np.float64), np.asarray(h, np.float64), strict=True):
                after, size = objective_in_numpy(made, problem.regulariser, *at)
                assert after <= before + 4e-7 * size
                before = after
            check_factors(problem, np.asarray(w)[-1], np.asarray(h)[-1], 2e-6)


# ---- where they end ----

PENALTIES = {"none": (0.0, 0.0), "smooth": (3.0, 0.0), "flat": (0.0, 1.0)}


def small_problem(constraint, penalties=(0.0, 0.0), *, hold_weights=False):
    """Everything but the constraint is data. Also W, H, and an H with zeros."""
    made = small()
    made.y[4] = 3  # an empty pixel has nothing to say about its split
    unit = 30.0 if constraint == "sum of W" else 1.0  # of H
    regulariser = SumOf(
        (
            LaplacianSmoothness(penalties[0] / unit**2),
            TotalVariation(penalties[1] / unit, 0.1 * unit),
        )
    )
    weights = np.array(made.weights)
    mask, values = np.zeros((3, 6), bool), np.zeros((3, 6))
    mask[0, 1], values[0, 1], mask[2, 3] = True, 0.25, True
    inside = to_sum(np.where(mask, values, 1 / 3), mask)
    zero = ~mask & (np.arange(6) % 3 == 0) & (np.arange(3)[:, None] > 0)
    border = to_sum(np.where(zero, 0.0, inside), mask)
    if constraint == "sum of W":
        scale = weights[:3].sum(0)
        weights, values = weights / scale, values * unit
        inside, border = (unit * h for h in (inside, border))
    problem = Problem(
        made.counts("dense"),
        made.basis([True, True, True, False]),
        CONSTRAINTS[constraint],
        regulariser,
        Fixed(jnp.full((4, 3), hold_weights), jnp.asarray(weights)),
        Fixed(jnp.asarray(mask), jnp.asarray(values)),
    )
    return problem, *(jnp.asarray(x) for x in (weights, inside, border))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("constraint", ["sum of H", "sum of W"])
def test_abundances_reach_the_optimum_of_the_updates(constraint, penalty, x64):
    """With W held the problem is convex."""
    problem, w, inside, border = small_problem(constraint, PENALTIES[penalty], hold_weights=True)
    best = float(problem.objective(w, many_updates(problem, w, inside, False)))
    for solver in SOLVERS:
        # a factor cannot lead away from zero
        start = inside if isinstance(solver, BlockMirrorDescent) else border
        held, h = many_steps(problem, solver, w, start, jnp.array(3000))
        np.testing.assert_array_equal(held, w)
        check_factors(problem, np.asarray(w), np.asarray(h), 1e-12)
        assert float(problem.objective(w, h)) == pytest.approx(best, abs=1e-7 * abs(best))
        assert (np.asarray(h)[np.asarray(border) == 0] > 0).any()  # zero was no trap


@pytest.mark.parametrize("constraint", ["sum of H", "sum of W"])
@pytest.mark.parametrize("solver", SOLVERS, ids=name_of)
def test_both_factors_end_where_the_conditions_of_an_optimum_hold(solver, constraint, x64):
    """No entry pulls where it is positive, and none pulls upwards where it is zero."""
    problem, w, h, _ = small_problem(constraint)
    w, h = many_steps(problem, solver, w, h, jnp.array(5000))
    check_factors(problem, np.asarray(w), np.asarray(h), 1e-12)
    gradients = jax.grad(lambda x: problem.objective(*x))((w, h))
    for x, gradient, fixed, summed in zip(
        (w, h),
        gradients,
        (problem.fixed_weights, problem.fixed_abundances),
        in_sum(problem),
        strict=True,
    ):
        x, gradient, free = np.asarray(x), np.asarray(gradient), ~np.asarray(fixed.mask)
        on_sum = summed[:, None] & free
        shares = np.where(on_sum, x, 0)
        multiplier = (shares * gradient).sum(0) / np.maximum(shares.sum(0), 1e-300)
        pull = np.where(free, gradient - np.where(on_sum, multiplier, 0.0), 0.0)
        counts = problem.counts.total
        assert np.abs(x * pull).max() <= 1e-5 * counts
        assert (pull * x.max()).min() >= -1e-4 * counts


@pytest.mark.parametrize("solver", SOLVERS, ids=name_of)
def test_sparse_steps_make_nothing_of_size_channel_times_pixel(solver):
    rng = np.random.default_rng(3)
    y = np.zeros((400, 500), int)
    y[rng.integers(0, 400, 900), rng.integers(0, 500, 900)] = 1
    counts = as_counts(y, scan_shape=(20, 20))
    assert counts.is_sparse
    basis = Example(y, rng.random((500, 5)), y, y, (20, 20)).basis(IN_COMPOSITION)
    regulariser = SumOf((LogSparsity(1.0), TotalVariation(1.0)))
    problem = Problem(counts, basis, SumToOneAbundances(), regulariser)
    weights, abundances = jnp.ones((5, 3)), jnp.full((3, 400), 1 / 3)

    def step(w, h):
        return solver.step(problem, w, h, solver.init(problem, w, h))[:2]

    sizes = [size for size, _ in array_sizes(step, weights, abundances)]
    assert max(sizes) < 0.05 * y.size


def test_factorise_runs_them():
    made, solver = small(), BlockMirrorDescent()
    out = factorise(
        made.counts("sparse"), made.basis(), 3, solver=solver, start=RandomStart(), max_steps=20
    )
    assert out.nll_trace[-1] < out.nll_trace[0]
