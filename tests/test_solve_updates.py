"""The multiplicative updates: NumPy's formula, monotone in every combination, right at the end."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import (
    N_CHANNELS,
    N_COLUMNS,
    N_PHASES,
    STORAGES,
    Example,
    array_sizes,
    example,
    plain_update_abundances,
    plain_update_weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    NoRegulariser,
    SumOf,
    SumToOneAbundances,
    SumToOneWeights,
    TotalVariation,
    Unconstrained,
    as_counts,
)
from esmpy_jax.solve import Fixed, Problem, update_abundances, update_weights

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
CONSTRAINTS = {
    "free": Unconstrained(),
    "sum of H": SumToOneAbundances(),
    "sum of W": SumToOneWeights(),
}
IN_COMPOSITION = [True, True, True, False, False]


CASES = [
    *itertools.product(["exposure"], STORAGES, ["float32", "float64"]),
    ("pixel", "sparse", "float32"),
    ("pixel", "dense", "float64"),
    ("by phase", "sparse", "float32"),
    ("channel", "sparse", "float64"),
]


@eqx.filter_jit
def plain_updates(counts, basis, weights, abundances):
    return (
        update_weights(counts, basis, weights, abundances),
        update_abundances(counts, basis, weights, abundances),
    )


@pytest.mark.parametrize(("case", "storage", "precision"), CASES)
def test_updates_are_numpy_s(case, storage, precision):
    with jax.enable_x64(precision == "float64"):
        check_against_numpy(case, storage, TOLERANCE[precision])


def check_against_numpy(case, storage, rtol):
    name = case if case in ("pixel", "channel") else "awkward"
    problem = example(name, exposure=case == "exposure", by_phase=case == "by phase")
    w, h = plain_updates(
        problem.counts(storage),
        problem.basis(),
        jnp.asarray(problem.weights, float),
        jnp.asarray(problem.abundances, float),
    )
    np.testing.assert_allclose(w, plain_update_weights(problem), rtol=rtol)
    np.testing.assert_allclose(h, plain_update_abundances(problem), rtol=rtol)


@eqx.filter_jit
def one_step(problem, weights, abundances):
    """Factors and objectives after no, one and two updates."""
    h = update_abundances(
        problem.counts,
        problem.basis,
        weights,
        abundances,
        constraint=problem.constraint,
        regulariser=problem.regulariser,
        fixed=problem.fixed_abundances,
    )
    w = update_weights(
        problem.counts,
        problem.basis,
        weights,
        h,
        constraint=problem.constraint,
        fixed=problem.fixed_weights,
    )
    states = ((weights, abundances), (weights, h), (w, h))
    return w, h, [problem.losses(*s) for s in states], [problem.penalty(s[1]) for s in states]


def random_problem(seed, constraint, storage, by_phase):
    """Everything that is data is drawn: counts, exposure, fixed entries, strengths, start.

    Only what is another program is a parameter. The pattern of the sparse counts is always the
    same, with empty pixels and channels, so that each combination is compiled once.
    """
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(0).random((20, N_CHANNELS)) < 0.25
    pattern[[0, 9]], pattern[:, 5] = False, False
    y = rng.poisson(10 ** rng.uniform(-1, 3), (20, N_CHANNELS))
    y = (y + 1) * pattern if storage == "sparse" else y * (rng.random(y.shape) < 0.5)
    y[rng.integers(20)] *= rng.choice([1, 1000])
    y[[0, 9]] = 0
    y = np.minimum(y, 60_000)
    y[10] = np.where(pattern[10], np.maximum(y[10], 1), 0)
    y[10, np.flatnonzero(pattern[10])[0]] = 60_000  # always 16 bits
    shape = (N_PHASES, N_CHANNELS, N_COLUMNS) if by_phase else (N_CHANNELS, N_COLUMNS)
    # columns that see only some channels, so that some entries meet no counts at all
    matrix = rng.random(shape) ** 4 * (rng.random(shape) < 0.7) + 1e-6 * (rng.random(shape) < 0.5)
    matrix = matrix * 10 ** rng.uniform(-1, 2, (1, N_COLUMNS))
    weights, abundances = rng.random((N_COLUMNS, N_PHASES)), rng.random((N_PHASES, 20))
    for factor in (weights, abundances):
        factor *= 10 ** rng.uniform(-12, 0, factor.shape) if rng.random() < 0.3 else 1
        factor *= rng.random(factor.shape) < (0.8 if rng.random() < 0.3 else 1)
    masks = [
        rng.random(f.shape) < (0.3 if rng.random() < 0.5 else 0) for f in (weights, abundances)
    ]
    masks[0][0], masks[1][0] = False, False
    values = [np.where(m, 0.2 * rng.random(m.shape), 0.0) for m in masks]
    weights, abundances = (
        np.where(m, v, f) for m, v, f in zip(masks, values, (weights, abundances), strict=True)
    )
    weights[0] += 0.01
    abundances[0] += 0.01
    rows = np.array(IN_COMPOSITION)
    if isinstance(constraint, SumToOneAbundances):
        abundances = to_sum(abundances, masks[1])
        weights = np.where(masks[0], weights, weights * 10 ** rng.uniform(0, 3))
    if isinstance(constraint, SumToOneWeights):
        weights[rows] = to_sum(weights[rows], masks[0][rows])
    strengths = [s if rng.random() < 0.6 else 0.0 for s in 10 ** rng.uniform(-2, 2, 3)]
    regulariser = SumOf(
        (
            LogSparsity(strengths[0], 10 ** rng.uniform(-2, 0)),
            LaplacianSmoothness(strengths[1]),
            TotalVariation(strengths[2], 10 ** rng.uniform(-2, 0)),
        )
    )
    dose = 10 ** rng.uniform(-1, 1, 20) if rng.random() < 0.5 else np.ones(20)
    if rng.random() < 0.3:
        dose[0] = 0.0
    made = Example(y, matrix, weights, abundances, (4, 5), dose)
    fixed = [
        Fixed(jnp.asarray(m), jnp.asarray(v, float)) for m, v in zip(masks, values, strict=True)
    ]
    return Problem(
        made.counts(storage), made.basis(IN_COMPOSITION), constraint, regulariser, *fixed
    ), made


def to_sum(entries, mask):
    free = np.where(mask, 0.0, entries)
    left = 1 - np.where(mask, entries, 0.0).sum(0)
    return np.where(mask, entries, free * (left / free.sum(0)))


def magnitude(problem, made, w, h):
    """Sum of the magnitudes of all terms of the objective."""
    expected = np.maximum(np.asarray(problem.basis.endmembers(w)) @ np.asarray(h), 1e-30)
    logs = made.y.T * np.abs(np.log(expected))
    return float((expected * made.dose() + logs).sum()) + float(problem.penalty(h))


#: Storage and kind of G meet in one product only, so that each pair is tried with one constraint.
COMBINATIONS = [
    *itertools.product(CONSTRAINTS, ["sparse"], [False]),
    *itertools.product(CONSTRAINTS, ["dense"], [True]),
    ("sum of H", "dense", False),
    ("sum of W", "sparse", True),
]


@pytest.mark.parametrize(("constraint", "storage", "by_phase"), COMBINATIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_update_increases_the_objective(constraint, storage, by_phase, seed):
    with jax.enable_x64(True):
        problem, made = random_problem(seed, CONSTRAINTS[constraint], storage, by_phase)
        w, h = jnp.asarray(made.weights), jnp.asarray(made.abundances)
        for _ in range(6):
            w_new, h_new, losses, penalties = one_step(problem, w, h)
            room = 1e-13 * magnitude(problem, made, w, h)
            for i in (0, 1):
                rise = float((losses[i + 1] - losses[i]).sum() + penalties[i + 1] - penalties[i])
                assert rise <= room
            w, h = w_new, h_new
            check_factors(problem, np.asarray(w), np.asarray(h), 1e-12)


def check_factors(problem, w, h, rtol):
    """Finite, non-negative, fixed entries in place, sums at one."""
    for factor, fixed in ((w, problem.fixed_weights), (h, problem.fixed_abundances)):
        assert np.isfinite(factor).all()
        assert factor.min() >= 0
        mask = np.asarray(fixed.mask)
        np.testing.assert_array_equal(factor[mask], np.asarray(fixed.values)[mask])
    if isinstance(problem.constraint, SumToOneAbundances):
        np.testing.assert_allclose(h.sum(0), 1.0, rtol=rtol)
    if isinstance(problem.constraint, SumToOneWeights):
        np.testing.assert_allclose(w[np.array(IN_COMPOSITION)].sum(0), 1.0, rtol=rtol)


def objective_in_numpy(made, regulariser, w, h):
    """The objective and the sum of the magnitudes of its terms, in float64."""
    sparsity, smoothness, variation = regulariser.terms
    model = (made.matrix @ w) @ h * made.dose()
    logs = made.y.T * np.log(np.maximum(model, 1e-29))
    logs[:, made.dose() == 0] = 0
    maps = h.reshape(-1, *made.scan_shape)
    steps = np.zeros(made.scan_shape)
    steps[:-1] += (np.diff(maps, axis=1) ** 2).sum(0)
    steps[:, :-1] += (np.diff(maps, axis=2) ** 2).sum(0)
    epsilon = float(variation.epsilon)
    penalty = float(sparsity.strength) * np.log1p(maps / float(sparsity.epsilon)).sum()
    penalty += 0.5 * float(smoothness.strength) * steps.sum()
    penalty += float(variation.strength) * (np.sqrt(epsilon**2 + steps) - epsilon).sum()
    return model.sum() - logs.sum() + penalty, model.sum() + np.abs(logs).sum() + penalty


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_float32_updates_lose_only_rounding(constraint):
    """Steps in float32, judged in float64: a rounding of each entry costs at most the counts."""
    with jax.enable_x64(False):
        for seed in range(12):
            problem, made = random_problem(seed, CONSTRAINTS[constraint], "sparse", False)
            w, h = jnp.asarray(made.weights, float), jnp.asarray(made.abundances, float)
            before = np.inf
            for _ in range(6):
                after, size = objective_in_numpy(
                    made, problem.regulariser, np.asarray(w, np.float64), np.asarray(h, np.float64)
                )
                assert after <= before + 4e-7 * size
                before = after
                w, h, *_ = one_step(problem, w, h)
                check_factors(problem, np.asarray(w), np.asarray(h), 2e-6)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_sparse_updates_make_nothing_of_size_channel_times_pixel(constraint):
    rng = np.random.default_rng(3)
    y = np.zeros((400, 500), int)
    y[rng.integers(0, 400, 900), rng.integers(0, 500, 900)] = 1
    counts = as_counts(y, scan_shape=(20, 20))
    assert counts.is_sparse
    basis = Example(y, rng.random((500, 5)), y, y, (20, 20)).basis(IN_COMPOSITION)
    regulariser = SumOf((LogSparsity(1.0), LaplacianSmoothness(1.0), TotalVariation(1.0)))
    problem = Problem(counts, basis, CONSTRAINTS[constraint], regulariser)
    weights, abundances = jnp.ones((5, 3)), jnp.ones((3, 400))

    def update(w, h):
        kind = problem.constraint
        h = update_abundances(counts, basis, w, h, constraint=kind, regulariser=regulariser)
        return update_weights(counts, basis, w, h, constraint=kind), problem.losses(w, h)

    sizes = [size for size, _ in array_sizes(update, weights, abundances)]
    assert max(sizes) < 0.05 * y.size


# ---- where the updates end: the convex problem in one factor against scipy ----


def small(seed=4):
    rng = np.random.default_rng(seed)
    made = Example(
        np.zeros((6, 8), int),
        rng.random((8, 4)) ** 3 + 0.02,
        rng.random((4, 3)),
        rng.dirichlet(np.ones(3), 6).T,
        (2, 3),
        rng.uniform(0.5, 2.0, 6),
    )
    made.weights = made.weights * 30
    made.y = rng.poisson(made.model().T)
    made.y[4] = 0
    return made


@eqx.filter_jit
def many_updates(problem, weights, abundances, of_weights):
    def step(_, factor):
        if of_weights:
            return update_weights(
                problem.counts,
                problem.basis,
                factor,
                abundances,
                constraint=problem.constraint,
                fixed=problem.fixed_weights,
            )
        return update_abundances(
            problem.counts,
            problem.basis,
            weights,
            factor,
            constraint=problem.constraint,
            regulariser=problem.regulariser,
            fixed=problem.fixed_abundances,
        )

    return jax.lax.fori_loop(0, 5000, step, weights if of_weights else abundances)


def scipy_optimum(objective, start, sums=None, fixed=None):
    """The constrained minimum of a convex objective by SLSQP with exact gradients."""
    shape = start.shape
    value = jax.jit(jax.value_and_grad(lambda x: objective(x.reshape(shape))))
    bounds = [(0.0, None)] * start.size
    if fixed is not None:
        bounds = [
            (v, v) if m else (0.0, None)
            for m, v in zip(fixed[0].ravel(), fixed[1].ravel(), strict=True)
        ]
    constraints = ()
    if sums is not None:
        matrix = np.zeros((shape[1], *shape))
        for i in range(shape[1]):
            matrix[i, sums, i] = 1.0
        matrix = matrix.reshape(shape[1], -1)
        constraints = ({"type": "eq", "fun": lambda x: matrix @ x - 1, "jac": lambda x: matrix},)
    found = minimize(
        lambda x: [np.asarray(v, float) for v in value(jnp.asarray(np.maximum(x, 0)))],
        start.ravel(),
        jac=True,
        method="SLSQP",
        bounds=bounds,
        constraints=constraints,
        options={"maxiter": 2000, "ftol": 1e-10},
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize(
    "case", ["free", "smooth", "sum", "sum, smooth", "sum, flat", "sum, fixed"]
)
def test_abundances_converge_to_scipy_s_optimum(case, x64):
    made = small()
    if case in ("sum", "sum, fixed"):  # an empty pixel, having nothing to say, keeps its split
        made.y[4] = 3
    constraint = SumToOneAbundances() if "sum" in case else Unconstrained()
    kinds = {"smooth": LaplacianSmoothness(3.0), "flat": TotalVariation(3.0, 0.1)}
    regulariser = kinds.get(case.split(", ")[-1], NoRegulariser())
    mask, values = np.zeros((3, 6), bool), np.zeros((3, 6))
    mask[0, 1], values[0, 1], mask[2, 3] = True, 0.25, True
    fixed = Fixed(jnp.asarray(mask), jnp.asarray(values)) if "fixed" in case else None
    problem = Problem(
        made.counts("dense"), made.basis(), constraint, regulariser, fixed_abundances=fixed
    )
    weights = jnp.asarray(made.weights)
    start = np.full((3, 6), 1 / 3)
    if fixed is not None:
        start = to_sum(np.where(mask, values, start), mask)
    ours = many_updates(problem, weights, jnp.asarray(start), False)
    best = scipy_optimum(
        lambda h: problem.objective(weights, h),
        start,
        sums=slice(None) if "sum" in case else None,
        fixed=(mask, values) if fixed is not None else None,
    )
    ours = float(problem.objective(weights, ours))
    assert ours == pytest.approx(best, abs=1e-6 * abs(best))


@pytest.mark.parametrize("constraint", ["free", "sum of W"])
def test_weights_converge_to_scipy_s_optimum(constraint, x64):
    made = small()
    rows = [True, True, True, False]
    problem = Problem(
        made.counts("sparse"), made.basis(rows), CONSTRAINTS[constraint], NoRegulariser()
    )
    abundances = jnp.asarray(made.abundances * 30)
    start = np.full((4, 3), 1 / 3)
    ours = many_updates(problem, jnp.asarray(start), abundances, True)
    sums = np.array(rows) if constraint == "sum of W" else None
    best = scipy_optimum(lambda w: problem.objective(w, abundances), start, sums=sums)
    assert float(problem.objective(ours, abundances)) == pytest.approx(best, abs=1e-6 * abs(best))
