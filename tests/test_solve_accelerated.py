"""Accelerated solvers: monotone and feasible in every combination, faster than plain updates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import N_CHANNELS, N_COLUMNS, N_PHASES, Example, array_sizes

from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    NoRegulariser,
    SumOf,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
)
from esmpy_jax.solve import (
    ExtrapolatedUpdate,
    Fixed,
    JointMultiplicativeUpdate,
    MultiplicativeUpdate,
    Problem,
    SquaremUpdate,
)

SOLVERS = {
    "joint": JointMultiplicativeUpdate(),
    "extrapolated": ExtrapolatedUpdate(),
    "squarem": SquaremUpdate(inner=2),
}
CONSTRAINTS = {
    "free": Unconstrained(),
    "sum of H": SumToOneAbundances(),
    "sum of W": SumToOneWeights(),
}
IN_COMPOSITION = [True, True, True, False, False]
SCAN = (4, 5)

#: Constraint, storage, and whether G depends on the phase. The tests below use problems of the
#: same shapes and kinds and as many steps, so that nothing is compiled for them alone.
PROBLEMS = [
    ("free", "dense", True),
    ("sum of H", "dense", False),
    ("sum of W", "sparse", True),
]
DENSE = {constraint: by_phase for constraint, storage, by_phase in PROBLEMS if storage == "dense"}
STEPS = 40


def on_simplex(entries, mask):
    """The entries outside the mask scaled so that every column sums to one."""
    free = np.where(mask, 0.0, entries)
    left = 1 - np.where(mask, entries, 0.0).sum(0)
    return np.where(mask, entries, free * (left / free.sum(0)))


def random_problem(seed, constraint, storage, by_phase):
    """Counts, exposure, fixed entries, penalties and start, drawn; one program per combination.

    The pattern of the sparse counts is always the same, with an empty pixel and channel.
    """
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(0).random((20, N_CHANNELS)) < 0.3
    pattern[9], pattern[:, 5] = False, False
    y = (1 + rng.poisson(10 ** rng.uniform(-1, 2), pattern.shape)) * pattern
    y[rng.integers(20)] *= 20
    y[0] = np.where(pattern[0], 5000, 0)  # always 16 bits
    shape = (N_PHASES, N_CHANNELS, N_COLUMNS) if by_phase else (N_CHANNELS, N_COLUMNS)
    matrix = (rng.random(shape) ** 4 + 1e-3) * 10 ** rng.uniform(-1, 1, (1, N_COLUMNS))
    weights = rng.random((N_COLUMNS, N_PHASES)) + 0.01
    abundances = rng.random((N_PHASES, 20)) + 0.01
    weights[1, 0] = abundances[1, 3] = 0.0  # zeros stay
    masks = [rng.random(x.shape) < rng.choice([0.0, 0.2]) for x in (weights, abundances)]
    masks[0][0], masks[1][0] = False, False
    for factor, mask in zip((weights, abundances), masks, strict=True):
        factor[mask] *= 0.2
    if constraint == "sum of H":
        abundances = on_simplex(abundances, masks[1])
    if constraint == "sum of W":
        rows = np.array(IN_COMPOSITION)
        weights[rows] = on_simplex(weights[rows], masks[0][rows])
    regulariser = SumOf(
        (LogSparsity(rng.choice([0.0, 0.5])), LaplacianSmoothness(rng.choice([0, 2.0])))
    )
    made = Example(y, matrix, weights, abundances, SCAN, 10 ** rng.uniform(-0.5, 0.5, 20))
    fixed = [
        Fixed(jnp.asarray(m), jnp.asarray(np.where(m, f, 0.0), float))
        for m, f in zip(masks, (weights, abundances), strict=True)
    ]
    counts, basis = made.counts(storage), made.basis(IN_COMPOSITION)
    return Problem(counts, basis, CONSTRAINTS[constraint], regulariser, *fixed), made


@eqx.filter_jit
def run(problem, solver, weights, abundances):
    """Factors and parts of the objective at the start and after every step."""

    def step(carry, _):
        w, h, _ = carry
        point = (w, h, problem.losses(w, h), problem.penalty(h))
        return solver.step(problem, *carry), point

    start = (weights, abundances, solver.init(problem, weights, abundances))
    return jax.lax.scan(step, start, None, length=STEPS + 1)[1]


objective = eqx.filter_jit(Problem.objective)


def starts(made):
    return jnp.asarray(made.weights, float), jnp.asarray(made.abundances, float)


def check_feasible(problem, weights, abundances, tolerance):
    """Finite, non-negative, fixed entries exact, sums at one; (step, row, column) each."""
    for factor, fixed in (
        (weights, problem.fixed_weights),
        (abundances, problem.fixed_abundances),
    ):
        assert np.isfinite(factor).all()
        assert factor.min() >= 0
        mask = np.asarray(fixed.mask)
        expected = np.broadcast_to(np.asarray(fixed.values)[mask], factor[:, mask].shape)
        np.testing.assert_array_equal(factor[:, mask], expected)
    if isinstance(problem.constraint, SumToOneAbundances):
        np.testing.assert_allclose(abundances.sum(1), 1.0, rtol=tolerance)
    if isinstance(problem.constraint, SumToOneWeights):
        np.testing.assert_allclose(weights[:, np.array(IN_COMPOSITION)].sum(1), 1.0, rtol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("constraint", "storage", "by_phase"), PROBLEMS)
def test_no_step_increases_the_objective_or_leaves_the_constraints(
    solver, constraint, storage, by_phase, x64
):
    for seed in range(3):
        problem, made = random_problem(seed, constraint, storage, by_phase)
        w, h, losses, penalties = run(problem, SOLVERS[solver], *starts(made))
        losses, penalties = np.asarray(losses), np.asarray(penalties)
        rises = np.diff(losses, axis=0).sum(1) + np.diff(penalties)
        size = float(problem.counts.pixel_totals().sum() + np.abs(losses).sum(1).max())
        assert rises.max() <= 1e-13 * size
        assert rises.sum() < -1.0  # it did something
        check_feasible(problem, np.asarray(w), np.asarray(h), 1e-12)


@pytest.mark.parametrize("solver", ["extrapolated", "squarem"])
def test_float32_loses_only_rounding(solver):
    """Steps in float32 judged in float64: a rounding of each entry costs at most the counts."""
    with jax.enable_x64(False):
        problem, made = random_problem(3, "sum of H", "dense", False)
        w, h, *_ = run(problem, SOLVERS[solver], *starts(made))
        check_feasible(problem, np.asarray(w), np.asarray(h), 2e-6)
    with jax.enable_x64(True):
        exact, _ = random_problem(3, "sum of H", "dense", False)
        points = [(jnp.asarray(a, float), jnp.asarray(b, float)) for a, b in zip(w, h, strict=True)]
        values = np.array([float(objective(exact, *p)) for p in points])
        size = float(exact.counts.pixel_totals().sum()) + np.abs(values).max()
    assert np.diff(values).max() <= 1e-6 * size
    assert values[-1] < values[0] - 1


def test_momentum_that_leads_upwards_is_dropped(x64):
    """Half of the entries lifted to the double, near the optimum: the plain step, and t = 1."""
    problem, w, h = near_optimum()
    solver = ExtrapolatedUpdate()
    state = solver.init(problem, w, h)
    rng = np.random.default_rng(0)
    bad = eqx.tree_at(
        lambda s: (s.previous_weights, s.previous_abundances, s.inertia),
        state,
        (*(jnp.asarray(rng.integers(0, 2, x.shape)) * x for x in (w, h)), jnp.array(1e6)),
    )
    *new, after = one_step(solver, problem, w, h, bad)
    plain = one_step(MultiplicativeUpdate(), problem, w, h, None)
    np.testing.assert_allclose(new[0], plain[0], rtol=1e-12)
    np.testing.assert_allclose(new[1], plain[1], rtol=1e-12)
    assert float(after.inertia) == 1.0
    *_, after = one_step(solver, problem, w, h, state)  # the honest momentum is kept
    assert float(after.inertia) > 1.0


def test_a_squared_step_that_leads_upwards_is_refused(x64):
    problem, made = random_problem(1, "free", "dense", False)
    problem = Problem(problem.counts, problem.basis, Unconstrained(), NoRegulariser())
    w, h = starts(made)
    solver = SquaremUpdate(inner=1)
    state = solver.init(problem, w, h)
    refused = 0
    for _ in range(40):  # the curvature sometimes asks for too much by itself
        longest = eqx.tree_at(lambda s: s.longest, state, jnp.array(1e8))
        w, h, after = one_step(solver, problem, w, h, longest)
        refused += float(after.longest) < 1e8
        room = 1e-13 * float(np.abs(state.objective.excess).sum())
        assert float(state.objective.decrease_to(after.objective)) >= -room
        state = after
    assert refused > 0


def near_optimum():
    problem, made = random_problem(1, "free", "dense", True)
    w, h, *_ = settled(problem, MultiplicativeUpdate(), *starts(made), 5)
    return problem, w, h


def settled(problem, solver, weights, abundances, rounds):
    """Factors after `rounds` × 40 steps, and the objective; its state starts anew every 40."""
    losses = penalties = jnp.zeros((1, 1))
    for _ in range(rounds):
        w, h, losses, penalties = run(problem, solver, weights, abundances)
        weights, abundances = w[-1], h[-1]
    return weights, abundances, float(losses[-1].sum() + penalties[-1])


@eqx.filter_jit
def one_step(solver, problem, weights, abundances, state):
    return solver.step(problem, weights, abundances, state)


def test_joint_update_is_numpy_s(x64):
    """Both factors from the ratio of the old ones, each phase keeping its counts."""
    problem, made = random_problem(1, "free", "dense", False)
    problem = Problem(problem.counts, problem.basis, Unconstrained(), NoRegulariser())
    w, h, *_ = run(problem, JointMultiplicativeUpdate(), *starts(made))
    ratio = made.y.T / (made.endmembers() @ made.abundances)
    sums = made.endmembers().sum(0)[:, None] * made.exposure
    new_h = made.abundances * (made.endmembers().T @ ratio) / sums
    shared = made.weights * (made.matrix.T @ ratio @ made.abundances.T)
    new_w = shared / (made.matrix.sum(0)[:, None] * (new_h @ made.exposure))
    np.testing.assert_allclose(h[1], new_h, rtol=1e-12)
    np.testing.assert_allclose(w[1], new_w, rtol=1e-12)
    # it ends in the minimum over both factors: every phase stands for the counts it was given
    counts = (made.matrix.sum(0) @ new_w) * (new_h @ made.exposure)
    np.testing.assert_allclose(counts, shared.sum(0), rtol=1e-12)


def dense_problem(constraint, made, fixed_weights, smoothness=0.0):
    """Counts and G of an example, with the kind of penalty and constraint of `PROBLEMS`."""
    if DENSE[constraint]:
        made.matrix = np.broadcast_to(made.matrix, (N_PHASES, *made.matrix.shape))
    regulariser = SumOf((LogSparsity(0.0), LaplacianSmoothness(smoothness)))
    fixed = [
        Fixed(jnp.full(x.shape, held), jnp.asarray(x * held, float))
        for x, held in ((made.weights, fixed_weights), (made.abundances, False))
    ]
    basis, kind = made.basis(IN_COMPOSITION), CONSTRAINTS[constraint]
    counts = eqx.tree_at(lambda c: c.values, made.counts("dense"), replace_fn=jnp.uint16)
    return Problem(counts, basis, kind, regulariser, *fixed)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("constraint", DENSE)
def test_fixed_points_of_the_plain_updates_stay(solver, constraint, x64):
    """Whole-numbered counts that a model explains without remainder: every ratio is one."""
    rng = np.random.default_rng(5)
    matrix = rng.integers(0, 4, (N_CHANNELS, N_COLUMNS)).astype(float)
    weights = rng.integers(1, 9, (N_COLUMNS, N_PHASES)).astype(float)
    abundances = rng.integers(0, 9, (N_PHASES, 20)).astype(float)
    if constraint == "sum of H":
        weights, abundances = 20 * weights, rng.multinomial(4, [0.3, 0.3, 0.4], 20).T / 4
    y = np.rint((matrix @ weights @ abundances).T).astype(int)
    made = Example(y, matrix, weights, abundances, SCAN, np.ones(20))
    w, h, *_ = run(dense_problem(constraint, made, False), SOLVERS[solver], *starts(made))
    np.testing.assert_allclose(w[-1], weights, rtol=1e-11)
    np.testing.assert_allclose(h[-1], abundances, rtol=1e-11)


@pytest.mark.parametrize("constraint", DENSE)
def test_the_same_optimum_where_there_is_only_one(constraint, x64):
    """W fixed: convex in H, with or without smoothness, and plain updates find the optimum."""
    rng = np.random.default_rng(6)
    weights = rng.random((N_COLUMNS, N_PHASES)) * 200
    truth = rng.dirichlet(np.full(N_PHASES, 5.0), 20).T
    matrix = rng.random((N_CHANNELS, N_COLUMNS)) ** 4 + 0.01
    made = Example(np.zeros((20, N_CHANNELS), int), matrix, weights, truth, SCAN, np.ones(20))
    made.y = rng.poisson(made.model().T)
    smoothness = 3.0 if constraint == "sum of H" else 0.0
    problem = dense_problem(constraint, made, True, smoothness)
    start = (jnp.asarray(weights), jnp.asarray(np.full((N_PHASES, 20), 1 / N_PHASES)))
    _, best, lowest = settled(problem, MultiplicativeUpdate(), *start, 15)
    for name, solver in SOLVERS.items():
        w, h, value = settled(problem, solver, *start, 2 if name == "squarem" else 10)
        np.testing.assert_array_equal(w, weights)
        # entries at zero get there as slowly as one over the number of steps
        assert value == pytest.approx(lowest, abs=0.01)
        np.testing.assert_allclose(h, best, atol=0.01)


def spectrum_image(seed):
    """12 × 12 pixels of three mixed phases with peaks on a background, 60 counts per pixel."""
    rng = np.random.default_rng(seed)
    channel = np.arange(60)[:, None]
    peaks = np.exp(-0.5 * ((channel - rng.uniform(5, 55, 7)) / 1.5) ** 2)
    matrix = np.concatenate([peaks, np.exp(-channel / 30)], 1)
    matrix /= matrix.sum(0)
    weights = np.concatenate([rng.dirichlet(np.full(7, 0.7), 3).T, np.full((1, 3), 0.3)]) * 45
    truth = rng.dirichlet(np.full(3, 0.4), 144).T
    made = Example(np.zeros((144, 60), int), matrix, weights, truth, (12, 12))
    made.y = rng.poisson(made.model().T)
    # beside the truth, so that all of them go to the same of the many local optima
    made.weights = weights * rng.uniform(0.7, 1.3, weights.shape)
    made.abundances = 0.7 * truth + 0.1
    return made


def test_nearer_to_the_optimum_than_plain_updates(x64):
    """After 60 steps of each; and squared extrapolation after as many passes over the counts."""
    plain, extrapolated = MultiplicativeUpdate(), ExtrapolatedUpdate()
    squarem = SquaremUpdate(inner=5)
    for seed in range(3):
        made = spectrum_image(seed)
        problem = Problem(made.counts("dense"), made.basis(), Unconstrained(), NoRegulariser())
        lowest = end(problem, squarem, *starts(made), 120)
        gap = end(problem, plain, *starts(made), 60) - lowest
        assert gap > 0.3  # nats; the reference is exact to some 0.001
        assert end(problem, extrapolated, *starts(made), 60) - lowest < 0.8 * gap
        assert end(problem, squarem, *starts(made), 60) - lowest < 0.1 * gap
        gap = end(problem, plain, *starts(made), 10 * PASSES_OF_SQUAREM // 2) - lowest
        assert end(problem, squarem, *starts(made), 10) - lowest < gap


#: Of one step with five inner updates, two looks at the objective included; a plain step has two.
PASSES_OF_SQUAREM = 3 * (5 + 1) + 2


@eqx.filter_jit
def end(problem, solver, weights, abundances, steps):
    """The objective after so many steps, which compile nothing new."""
    start = (weights, abundances, solver.init(problem, weights, abundances))
    w, h, _ = jax.lax.fori_loop(0, jnp.asarray(steps), lambda _, c: solver.step(problem, *c), start)
    return problem.objective(w, h)


@pytest.mark.parametrize("solver", SOLVERS)
def test_sparse_steps_make_nothing_of_size_channel_times_pixel(solver):
    rng = np.random.default_rng(3)
    y = np.zeros((400, 500), int)
    y[rng.integers(0, 400, 900), rng.integers(0, 500, 900)] = 1
    counts = as_counts(y, scan_shape=(20, 20))
    assert counts.is_sparse
    basis = Example(y, rng.random((500, N_COLUMNS)), y, y, (20, 20)).basis(IN_COMPOSITION)
    problem = Problem(counts, basis, SumToOneWeights(), LaplacianSmoothness(1.0))

    def step(w, h):
        return SOLVERS[solver].step(problem, w, h, SOLVERS[solver].init(problem, w, h))[:2]

    sizes = [
        size for size, _ in array_sizes(step, jnp.ones((N_COLUMNS, 3)) / 3, jnp.ones((3, 400)))
    ]
    assert max(sizes) < 0.05 * y.size
