"""Newton's method on H, and on W with H projected out: monotone, exact at the end, honest."""

import functools
import re

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
    RegionalSparsity,
    SumOf,
    SumToOneAbundances,
    SumToOneWeights,
    TotalVariation,
    Unconstrained,
)
from esmpy_jax.solve import (
    AbundanceNewton,
    AbundanceUpdate,
    Fixed,
    MultiplicativeUpdate,
    Problem,
    VariableProjectionNewton,
    solve,
)
from esmpy_jax.solve._abundance_newton import _conjugate_gradients, local_model
from esmpy_jax.solve._pixel_quadratics import product, projected_inverse, symmetric
from esmpy_jax.solve._reduced import reduce_to_weights
from esmpy_jax.solve._variable_projection import _along

CONSTRAINTS = {
    "free": Unconstrained(),
    "sum of H": SumToOneAbundances(),
    "sum of W": SumToOneWeights(),
}
IN_COMPOSITION = [True, True, True, True, False]
SCAN = (4, 5)

#: Compiling costs more than running: such programs are made with less care.
quickly = functools.partial(eqx.filter_jit, compiler_options={"xla_backend_optimization_level": 0})


def penalty_of(kind, rng):
    """A regulariser of always the same type; some strengths are zero."""
    strength = lambda most: rng.choice([0.0, most])  # noqa: E731
    return {
        "none": lambda: NoRegulariser(),
        "convex": lambda: SumOf((LaplacianSmoothness(strength(2.0)), TotalVariation(3.0, 0.1))),
        "all": lambda: SumOf(
            (LogSparsity(strength(0.5)), LaplacianSmoothness(strength(2.0)), TotalVariation(1.0))
        ),
        "separable": lambda: LogSparsity(0.5),
    }[kind]()


def random_problem(seed, constraint, penalty, storage, by_phase, held=(0.2, 0.2)):
    """Counts, exposure, fixed entries, penalties and start; one program per combination.

    The pattern of the counts is always the same, with an empty pixel and channel. Some entries of
    the start are zero. `held` is the share of fixed entries of W and H, or `None` for no such
    problem.
    """
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(0).random((20, N_CHANNELS)) < 0.6
    pattern[9], pattern[:, 5] = False, False
    y = (1 + rng.poisson(10 ** rng.uniform(-0.5, 1.5), pattern.shape)) * pattern
    y[rng.integers(20)] *= 20
    y[0] = np.where(pattern[0], 5000, 0)  # always 16 bits
    shape = (N_PHASES, N_CHANNELS, N_COLUMNS) if by_phase else (N_CHANNELS, N_COLUMNS)
    matrix = (rng.random(shape) ** 4 + 1e-3) * 10 ** rng.uniform(-1, 1, (1, N_COLUMNS))
    weights = rng.random((N_COLUMNS, N_PHASES)) + 0.01
    abundances = rng.random((N_PHASES, 20)) + 0.01
    abundances[rng.integers(1, N_PHASES, 20), np.arange(20)] *= rng.random(20) < 0.5
    fixed = [None, None]
    for i, (factor, share) in enumerate(zip((weights, abundances), held, strict=True)):
        if share is not None:
            mask = rng.random(factor.shape) < share
            mask[0] = False
            factor[mask] *= 0.2
            fixed[i] = Fixed(jnp.asarray(mask), jnp.asarray(np.where(mask, factor, 0.0), float))
    if constraint == "sum of H":
        known = fixed[1].mask if fixed[1] is not None else np.zeros(abundances.shape, bool)
        left = 1 - np.where(known, abundances, 0.0).sum(0)
        rest = np.where(known, 0.0, abundances)
        abundances = np.where(known, abundances, rest * left / rest.sum(0))
    if constraint == "sum of W":
        rows = np.array(IN_COMPOSITION)
        weights[rows] /= weights[rows].sum(0)
    made = Example(y, matrix, weights, abundances, SCAN, 10 ** rng.uniform(-0.5, 0.5, 20))
    counts, basis = made.counts(storage), made.basis(IN_COMPOSITION)
    return Problem(counts, basis, CONSTRAINTS[constraint], penalty_of(penalty, rng), *fixed), made


def scan(problem, solver, weights, abundances, steps):
    """Factors, parts of the objective and what is believed to be left, before every step."""

    def step(carry, _):
        w, h, inner = carry
        believed = solver.predicted_decrease(inner)
        point = (w, h, problem.losses(w, h), problem.penalty(h), believed)
        return solver.step(problem, *carry), point

    start = (weights, abundances, solver.init(problem, weights, abundances))
    return jax.lax.scan(step, start, None, length=steps + 1)[1]


run = quickly(scan)


def starts(made):
    return jnp.asarray(made.weights, float), jnp.asarray(made.abundances, float)


def rises(losses, penalties):
    """Increases of the objective, differences before sums, and the size of rounding errors."""
    losses, penalties = np.asarray(losses, float), np.asarray(penalties, float)
    size = np.abs(losses).sum(1).max() + np.abs(penalties).max()
    return np.diff(losses, axis=0).sum(1) + np.diff(penalties), size


def check_feasible(problem, weights, abundances, tolerance):
    """Finite, non-negative, fixed entries exact, sums at one; (step, row, column) each."""
    for factor, fixed in (
        (weights, problem.fixed_weights),
        (abundances, problem.fixed_abundances),
    ):
        assert np.isfinite(factor).all()
        assert factor.min() >= 0
        if fixed is not None:
            mask = np.asarray(fixed.mask)
            expected = np.broadcast_to(np.asarray(fixed.values)[mask], factor[:, mask].shape)
            np.testing.assert_array_equal(factor[:, mask], expected)
    if isinstance(problem.constraint, SumToOneAbundances):
        np.testing.assert_allclose(abundances.sum(1), 1.0, rtol=tolerance)
    if isinstance(problem.constraint, SumToOneWeights):
        np.testing.assert_allclose(weights[:, np.array(IN_COMPOSITION)].sum(1), 1.0, rtol=tolerance)


gradients = quickly(jax.grad(lambda factors, problem: problem.objective(*factors)))


def stationarity(problem, weights, abundances):
    """How far from the Karush-Kuhn-Tucker conditions W and H are, in nats.

    The largest product of an entry with its slope, and of a slope that points upwards with the
    mean of the entries of the same phase (of W) or pixel (of H).
    """
    slopes = gradients((weights, abundances), problem)
    summed = np.array(IN_COMPOSITION), np.ones(N_PHASES, bool)
    kinds = SumToOneWeights, SumToOneAbundances
    fixed = problem.fixed_weights, problem.fixed_abundances
    out = []
    for i, factor in enumerate((weights, abundances)):
        x, g = np.asarray(factor, float), np.array(slopes[i], float)
        mask = np.zeros(x.shape, bool) if fixed[i] is None else np.asarray(fixed[i].mask)
        if isinstance(problem.constraint, kinds[i]):  # less the multiplier of the sum
            rows = summed[i][:, None] & ~mask
            part = np.where(rows, x, 0.0)
            g -= rows * ((part * g).sum(0) / np.maximum(part.sum(0), 1e-30))
            if i == 1:  # where there are no counts, any shares are good
                g[:, np.asarray(problem.counts.pixel_totals()) == 0] = 0.0
        g[mask] = 0.0
        out.append(max(np.abs(x * g).max(), (np.maximum(-g, 0.0) * x.mean(0)).max()))
    return out


def left_over(losses, penalties, believed, tol):
    """The first step at which at most `tol` nats are believed to be left, and what is left."""
    step = int(np.argmax(np.asarray(believed) <= tol))
    assert believed[step] <= tol
    left = (np.asarray(losses[step], float) - np.asarray(losses[-1], float)).sum()
    return step, left + float(penalties[step] - penalties[-1])


#: Constraint, penalty, storage, whether G depends on the phase, and what is fixed.
ABUNDANCES = [
    ("free", "none", "sparse", True, (None, 0.2)),
    ("free", "convex", "dense", False, (None, None)),
    ("sum of H", "all", "sparse", False, (None, 0.2)),
    ("sum of H", "separable", "dense", True, (None, None)),
]


@pytest.mark.parametrize("case", ABUNDANCES, ids=lambda c: " ".join(map(str, c[:3])))
def test_abundances_never_worsen_and_end_at_their_minimum(case, x64):
    """Also from zeros, which multiplicative updates keep; with an empty and a bright pixel."""
    for seed in range(3):
        problem, made = random_problem(seed, *case)
        w, h, losses, penalties, believed = run(problem, AbundanceNewton(), *starts(made), 60)
        up, size = rises(losses, penalties)
        assert up.max() <= 1e-13 * size
        assert up.sum() < -1.0
        np.testing.assert_array_equal(w[-1], made.weights)
        check_feasible(problem, np.asarray(w), np.asarray(h), 1e-12)
        assert not np.isnan(believed).any()
        assert stationarity(problem, w[-1], h[-1])[1] < 1e-3
        step, left = left_over(losses, penalties, believed, 0.1)
        assert step <= 30  # most of them to find the scale of the bright pixel
        assert left <= 0.2


@quickly
def many_updates(problem, weights, abundances):
    def body(_, h):
        return AbundanceUpdate().step(problem, weights, h, None)[1]

    return jax.lax.fori_loop(0, 20_000, body, abundances)


def test_the_minimum_is_that_of_the_multiplicative_updates(x64):
    """Of 20 000 updates, which start without zeros because they could not leave them."""
    problem, made = random_problem(4, *ABUNDANCES[0])
    w, h, *_ = run(problem, AbundanceNewton(), *starts(made), 60)
    assert ((made.abundances == 0) & (np.asarray(h[-1]) > 0)).any()  # left again
    positive = jnp.where(problem.fixed_abundances.mask, made.abundances, made.abundances + 0.1)
    slow = many_updates(problem, w[-1], positive)
    found, reference = (np.asarray(problem.losses(w[-1], x)) for x in (h[-1], slow))
    np.testing.assert_allclose(found - reference, 0.0, atol=0.01)  # they end like 1 / steps
    assert (found <= reference + 1e-9 * np.abs(reference)).all()


#: Of both factors.
BOTH = {
    ("free", "all", "dense", True, (0.2, 0.2)): range(3),
    ("sum of H", "none", "sparse", False, (0.2, 0.2)): range(4),
    ("sum of W", "none", "dense", False, (None, None)): (0, 1, 3, 4),
}


@pytest.mark.parametrize("case", BOTH, ids=lambda c: " ".join(map(str, c[:3])))
def test_steps_of_both_never_worsen_and_end_at_an_optimum(case, x64):
    """Where the slope tells it: it vanishes. Total variation has kinks: 400 steps find no more."""
    kinks = case[1] == "all"
    for seed in BOTH[case]:
        problem, made = random_problem(seed, *case)
        w, h, losses, penalties, believed = run(
            problem, VariableProjectionNewton(), *starts(made), 400 if kinks else 60
        )
        up, size = rises(losses, penalties)
        assert up.max() <= 1e-13 * size
        assert up.sum() < -1.0
        check_feasible(problem, np.asarray(w), np.asarray(h), 1e-12)
        assert not np.isnan(believed).any()
        if kinks:
            step, left = left_over(losses, penalties, believed, 0.1)
            assert step <= 80
            assert left <= 0.1
        else:
            assert max(stationarity(problem, w[-1], h[-1])) < 1e-4
            assert believed[-1] < 0.1


def test_composition_rows_never_vanish_together(x64):
    problem, made = random_problem(2, "sum of W", "none", "dense", False, (None, None))
    w, h, losses, penalties, _ = run(problem, VariableProjectionNewton(), *starts(made), 60)
    up, size = rises(losses, penalties)
    check_feasible(problem, np.asarray(w), np.asarray(h), 1e-12)
    assert up.max() <= 1e-13 * size


def test_multiplicative_where_newton_steps_do_not_apply(x64):
    """A sum over W beside fixed entries."""
    problem, made = random_problem(0, "sum of W", "none", "dense", False, (None, 0.2))
    found, plain = (
        run(problem, solver, *starts(made), 20)
        for solver in (VariableProjectionNewton(), MultiplicativeUpdate())
    )
    for new, old in zip(found[:2], plain[:2], strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12)
    assert np.isnan(found[4][1:]).all()  # which `solve` reads as: look at the objective


def numpy_abundances(made, weights, abundances, summed):
    """H at its minimum for a W: damped Newton steps, with entries that come near zero put there."""
    d, y, h = made.matrix @ weights, made.y.T, abundances.copy()
    for _ in range(80):
        ratio = y / (d @ h)
        slope = d.sum(0)[:, None] - d.T @ ratio
        largest = 0.0
        for p in range(h.shape[1]):
            s = h[:, p] > 0
            n = s.sum()
            a = (d[:, s] * (ratio[:, p] / (d @ h[:, p]))[:, None]).T @ d[:, s]
            system = np.block([[a, np.ones((n, 1))], [np.ones(n), 0.0]]) if summed else a
            right = -np.append(slope[s, p], np.zeros(int(summed)))
            step = np.linalg.solve(system, right)[:n]
            relative = np.abs(step / h[s, p]).max()
            largest = max(largest, relative)
            h[s, p] += step / max(1.0, 2 * relative)
            h[h[:, p] < 1e-9, p] = 0.0
            if summed:
                h[:, p] /= h[:, p].sum()
        if largest < 1e-13:
            break
    return h


def numpy_slope(made, weights, abundances):
    """The gradient of the NLL in W with H held."""
    ratio = made.y.T / (made.matrix @ weights @ abundances)
    return made.matrix.T @ (1 - ratio) @ abundances.T


@quickly
def reduced_at(problem, weights, abundances):
    endmembers = problem.basis.endmembers(weights)
    model, _ = local_model(problem, endmembers, abundances)
    best = model.minimum(abundances)
    inverse = projected_inverse(model.matrix, model.free & (best > 0), model.summed)
    nothing = jnp.zeros(weights.shape[1], bool)
    change = best - abundances
    return reduce_to_weights(problem, endmembers, weights, abundances, change, inverse, nothing)


def gradient_and_hessian(reduced):
    """In the entries of W, from the scaled and decomposed ones."""
    root, vectors = np.asarray(reduced.metric), np.asarray(reduced.vectors)
    scaled = (vectors * np.asarray(reduced.values)) @ vectors.T
    return np.asarray(reduced.gradient) / root, scaled / np.outer(root, root)


@quickly
def coupled_step(problem, weights, abundances):
    """The step of coupled pixels by conjugate gradients, and the model that it minimises."""
    endmembers = problem.basis.endmembers(weights)
    model, second = local_model(problem, endmembers, abundances)
    best = model.minimum(abundances)
    step, won = _conjugate_gradients(problem, abundances, model, second, best)
    maps = abundances.reshape(-1, *SCAN)
    coupled = problem.regulariser.local_curvature(maps)
    alone = symmetric(second, jnp.zeros_like(abundances))

    def curved(flat):
        d = flat.reshape(abundances.shape)
        bent = jnp.stack(list(coupled(d.reshape(maps.shape)))).reshape(d.shape)
        return (product(alone, d) + bent).ravel()

    hessian = jax.lax.map(curved, jnp.eye(abundances.size))
    inside = model.free & (best > 0)
    return step, won, best - abundances, model.gradient, hessian, inside


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("constraint", ["free", "sum of H"])
def test_conjugate_gradients_are_numpy_s(constraint, seed, x64):
    """Entries that the separable step leaves positive minimise the coupled model, sums kept."""
    problem, made = random_problem(seed, constraint, "convex", "dense", False)
    factors = jnp.asarray(made.weights, float), jnp.asarray(made.abundances, float)
    step, won, alone, slope, hessian, inside = map(np.asarray, coupled_step(problem, *factors))
    hessian = 0.5 * (hessian + hessian.T)
    start, gradient, kept = alone.ravel(), slope.ravel(), inside.ravel()
    rows = np.zeros((0, kept.size))
    if constraint == "sum of H":
        pixel = np.tile(np.arange(inside.shape[1]), len(inside))
        rows = (pixel[None, :] == np.unique(pixel[kept])[:, None]).astype(float)
    normals = rows[:, kept]
    system = np.block(
        [[hessian[np.ix_(kept, kept)], normals.T], [normals, np.zeros((len(normals),) * 2)]]
    )
    right = -(gradient + hessian @ start)[kept]
    exact = start.copy()
    exact[kept] += np.linalg.solve(system, np.append(right, np.zeros(len(normals))))[: kept.sum()]
    value = lambda d: float(d @ (gradient + 0.5 * hessian @ d))  # noqa: E731
    found = step.ravel()
    assert won == pytest.approx(-value(found), rel=1e-9)
    # the last residual is a thousandth of the first, and its square that of the values; in so few
    # steps, plain descent does not come there in all of these problems
    assert value(found) - value(exact) <= 1e-5 * (value(start) - value(exact))
    np.testing.assert_allclose(found[~kept], start[~kept], rtol=0, atol=1e-14)


@pytest.mark.parametrize("constraint", ["free", "sum of H"])
def test_reduced_hessian_is_that_of_the_projected_objective(constraint, x64):
    """Against differences of NumPy's slope along which H follows W."""
    rng = np.random.default_rng(1)
    summed = constraint == "sum of H"
    matrix = rng.random((N_CHANNELS, N_COLUMNS)) ** 3 + 0.01
    weights = rng.random((N_COLUMNS, N_PHASES)) * 300 + 30
    truth = rng.dirichlet(np.full(N_PHASES, 2.0), 6).T
    truth[0, 0], truth[1, 1] = 0.0, 0.0
    truth /= truth.sum(0)
    made = Example(np.zeros((6, N_CHANNELS), int), matrix, weights, truth, (6,))
    made.y = rng.poisson(made.model().T)
    made.y[0] = rng.poisson((matrix @ weights @ truth)[:, 0])
    at = weights * rng.uniform(0.9, 1.1, weights.shape)
    start = np.full(truth.shape, 1 / 3)
    h = numpy_abundances(made, at, start, summed)
    assert (h == 0).sum() < h.size / 2
    problem = Problem(made.counts("dense"), made.basis(), CONSTRAINTS[constraint], NoRegulariser())
    reduced = reduced_at(problem, jnp.asarray(at), jnp.asarray(h))
    gradient, hessian = gradient_and_hessian(reduced)
    np.testing.assert_allclose(gradient, numpy_slope(made, at, h).ravel(), rtol=1e-8, atol=1e-8)
    found = np.zeros_like(hessian)
    for i in range(at.size):
        step = 1e-4 * at.ravel()[i]
        ends = []
        for sign in (1, -1):
            moved = at.copy()
            moved.ravel()[i] += sign * step
            ends.append(numpy_slope(made, moved, numpy_abundances(made, moved, h, summed)).ravel())
        found[i] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(hessian, found, atol=1e-5 * np.abs(found).max())


def spectrum_image(seed=0):
    """32 x 32 pixels of three mixed phases, 300 channels, 18 counts in a pixel."""
    rng = np.random.default_rng(seed)
    channel = np.arange(300)[:, None]
    peaks = np.exp(-0.5 * ((channel - rng.uniform(10, 280, 8)) / 4) ** 2)
    matrix = np.concatenate([peaks, np.exp(-channel / 100)], 1)
    matrix /= matrix.sum(0)
    weights = np.concatenate([rng.dirichlet(np.full(8, 0.5), 3).T, np.full((1, 3), 0.4)])
    weights *= 18 / weights.sum(0)
    y, x = np.mgrid[:32, :32] / 32
    maps = np.stack([np.exp(-8 * ((y - a) ** 2 + (x - b) ** 2)) for a, b in rng.random((3, 2))])
    maps = (maps + 0.02).reshape(3, -1)
    made = Example(np.zeros((1024, 300), int), matrix, weights, maps / maps.sum(0), (32, 32))
    made.y = rng.poisson(made.model().T)
    return made


def drawn_start(seed):
    rng = np.random.default_rng(100 + seed)
    return rng.random((9, 3)) + 0.1, rng.random((3, 1024)) + 0.1


#: Rounding and hundreds of steps want the care that conftest.py leaves out.
CARE = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
image_run = eqx.filter_jit(scan, compiler_options=CARE)


def fit_image(made, weights, abundances):
    problem = Problem(made.counts("sparse"), made.basis(), Unconstrained(), NoRegulariser())
    factors = jnp.asarray(weights, float), jnp.asarray(abundances, float)
    return problem, image_run(problem, VariableProjectionNewton(), *factors, 40)


@functools.cache
def in_both_precisions():
    """Of ten fits in float32: when they believe to be done, and what float64 improves then.

    Also what it improves after all 40 steps; in nats.
    """
    made = spectrum_image()
    found = []
    for seed in range(10):
        with jax.enable_x64(False):
            _, (w, h, losses, penalties, believed) = fit_image(made, *drawn_start(seed))
            assert np.isfinite(losses).all()
            step, _ = left_over(losses, penalties, believed, 0.1)
        polished = []
        with jax.enable_x64(True):
            for k in (step, -1):
                _, (_, _, better, _, _) = fit_image(made, w[k], h[k])
                polished.append(float((better[0] - better[-1]).sum()))
        found.append((step, *polished))
    return np.array(found).T


@pytest.mark.slow
def test_float32_ends_at_an_optimum_of_float64():
    steps, left, at_end = in_both_precisions()
    assert steps.max() <= 30
    assert np.median(left) <= 0.02
    assert at_end.max() <= 0.1


@pytest.mark.slow
def test_saddles_are_not_taken_for_optima():
    assert in_both_precisions()[1].max() <= 0.1


@pytest.mark.parametrize(
    ("solver", "constraint", "penalty"),
    [
        (VariableProjectionNewton(), "sum of H", "none"),
        (VariableProjectionNewton(), "sum of H", "convex"),
        (VariableProjectionNewton(), "sum of W", "convex"),  # every step is multiplicative
        (AbundanceNewton(), "sum of H", "none"),
        (AbundanceNewton(), "sum of H", "convex"),
    ],
)
def test_what_solvers_know_of_the_objective_is_the_objective(solver, constraint, penalty, x64):
    """Also after steps that were refused, of which the fits near the optimum have some."""

    def looks(problem, weights, abundances):
        def step(carry, _):
            w, h, inner = solver.step(problem, *carry)
            known = solver.excess(problem, w, h, inner)
            return (w, h, inner), (*known, problem.excess(w, h), problem.penalty(h))

        start = (weights, abundances, solver.init(problem, weights, abundances))
        return jax.lax.scan(step, start, None, length=30)[1]

    looks = quickly(looks)
    for seed in range(3):
        problem, made = random_problem(seed, constraint, penalty, "dense", False, (None, None))
        excess, cost, expected, penalties = looks(problem, *starts(made))
        np.testing.assert_allclose(excess, expected, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(cost, penalties, rtol=1e-12)


def many_counts(seed):
    """Sixty-four bins of 160 000 counts, and the penalty of the default fit on their shares."""
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(0.1 * np.ones(120), 8).T
    weights = rng.dirichlet(np.ones(8), 3).T * (rng.random((8, 3)) < 0.7) + 1e-3
    abundances = rng.dirichlet(0.3 * np.ones(3), 64).T
    counts = rng.poisson(1.6e5 * (matrix @ weights / weights.sum(0)) @ abundances).T
    made = Example(counts, matrix, weights, abundances, (8, 8))
    penalty = SumOf((LogSparsity(0.5, 0.05), RegionalSparsity(0.5, 0.05)))
    data = made.counts("dense")
    exposure = jnp.full(64, 1.6e5)
    data = eqx.tree_at(lambda c: c.exposure, data, exposure, is_leaf=lambda x: x is None)
    return Problem(data, made.basis(), SumToOneAbundances(), penalty)


def test_float32_converges_on_ten_million_counts():
    """Rounding hid the last nats where the sum of the counts was rounded as a whole."""
    ends = []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        w, h = rng.random((8, 3)) / 8 + 0.01, rng.dirichlet(np.ones(3), 64).T
        with jax.enable_x64(False):
            problem = many_counts(seed)
            start = jnp.asarray(w, float), jnp.asarray(h, float)
            ours = solve(problem, VariableProjectionNewton(), *start, max_steps=300)
        with jax.enable_x64(True):
            problem = many_counts(seed)
            w, h = (jnp.asarray(np.asarray(x, float)) for x in (ours.weights, ours.abundances))
            best = solve(
                problem, VariableProjectionNewton(), w, h, max_steps=300, tol=1e-4, resume=True
            )
            left = problem.objective(w, h) - problem.objective(best.weights, best.abundances)
        ends.append((ours.converged, float(left), ours.steps))
    converged, left, _ = zip(*ends, strict=True)
    assert all(converged), ends
    assert max(left) < 0.5, ends  # one standard error


def test_what_is_left_along_a_refused_step():
    """Of `slope t - bend t²`, known at its beginning and at t = 1."""
    slope, bend = jnp.array([1.0, 1.0, 0.3, 0.0]), jnp.array([2.0, 50.0, 0.3, 1.0])
    expected = slope**2 / (4 * bend)
    np.testing.assert_allclose(_along(slope, slope - bend), expected, rtol=1e-6)
    # a step that would better be longer is not extrapolated, nor a slope that leads upwards
    np.testing.assert_allclose(_along(jnp.array([1.0, -1.0]), jnp.array([0.9, -3.0])), [0.5, 0.0])


def test_entries_at_zero_grow_again(x64):
    """Multiplicative steps would keep them."""
    made = spectrum_image()
    problem, (w, h, losses, *_) = fit_image(made, made.weights, made.abundances)
    lowest = float(losses[-1].sum())
    start = made.weights.copy()
    start[np.argsort(start[:8, 1])[-2:], 1] = 0.0
    _, (w, h, losses, penalties, _) = fit_image(made, start, made.abundances)
    assert losses[1].sum() > lowest + 10  # after the warm-up
    assert losses[-1].sum() <= lowest + 0.1
    up, size = rises(losses, penalties)
    assert up.max() <= 1e-13 * size
    # scale-invariant, and each phase has sums of one
    np.testing.assert_allclose((problem.basis.column_sums * w[-1]).sum(0), 1.0, rtol=1e-12)
    assert max(stationarity_of(problem, w[-1], h[-1])) < 1e-4


def stationarity_of(problem, weights, abundances):
    slopes = gradients((weights, abundances), problem)
    return [
        float(jnp.maximum(jnp.abs(x * g).max(), (jnp.maximum(-g, 0.0) * x.mean(0)[None]).max()))
        for x, g in zip((weights, abundances), slopes, strict=True)
    ]


@pytest.mark.parametrize("kept", [[1, 3], [8], [0, 1, 2, 3, 8]])
def test_columns_that_are_zero_and_fewer_columns_than_phases(kept, x64):
    made = spectrum_image()
    left_out = np.setdiff1d(np.arange(9), kept)
    made.matrix[:, left_out] = 0.0
    made.matrix[:, kept] += 1e-6  # so that every count is explained
    _, (w, h, losses, penalties, believed) = fit_image(made, *drawn_start(0))
    for values in (w, h, losses):
        assert np.isfinite(values).all()
    up, size = rises(losses, penalties)
    assert up.max() <= 1e-13 * size
    assert not np.isnan(believed).any()
    if len(kept) != 2:  # two columns cannot tell three phases apart: there is no curvature to tell
        assert believed[-1] <= 0.1


def lowered(solver, storage):
    made = spectrum_image()
    problem = Problem(
        made.counts(storage),
        made.basis(IN_COMPOSITION[:4] * 2 + [False]),
        SumToOneAbundances(),
        SumOf((LogSparsity(0.1), LaplacianSmoothness(0.1))),
    )
    factors = starts(made)
    state = solver.init(problem, *factors)
    return problem, factors, state


@pytest.mark.parametrize("solver", [AbundanceNewton(), VariableProjectionNewton()])
def test_steps_run_on_any_device(solver):
    """No 64-bit numbers, no shapes known at run time, no calls of the host; two of LAPACK."""
    with jax.enable_x64(False):
        problem, factors, state = lowered(solver, "sparse")
        text = eqx.filter_jit(solver.step).lower(problem, *factors, state).lowered.as_text()
    assert "stablehlo.while" in text
    assert not re.search(r"\bf64\b|xf64|<f64", text)
    assert not re.search(r"tensor<[^>]*\?", text)
    assert not re.search("callback|infeed|outfeed|send|recv", text)
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert called <= {"lapack_spotrf_ffi", "lapack_ssyevd_ffi", "lapack_strsm_ffi"} | {
        "blas_strsm",
        "Sharding",
    }, called


@pytest.mark.parametrize("solver", [AbundanceNewton(), VariableProjectionNewton()])
def test_sparse_steps_make_nothing_of_size_channel_times_pixel(solver):
    problem, factors, state = lowered(solver, "sparse")
    sizes = [size for size, _ in array_sizes(solver.step, problem, *factors, state)]
    assert max(sizes) < 0.5 * 1024 * 300
