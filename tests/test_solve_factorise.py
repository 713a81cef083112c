"""`factorise` and its loop: results, traces, compilation, bad input, and phases recovered."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import Basis
from esmpy_jax._checks import InputError
from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneShares,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    poisson_nll,
)
from esmpy_jax.solve import (
    RESULTS,
    AbstractSolver,
    AbundanceUpdate,
    BinnedStart,
    GivenStart,
    MultiplicativeUpdate,
    Problem,
    RandomStart,
    VariableProjectionNewton,
    factorise,
    solve,
    update_abundances,
    update_weights,
)
from esmpy_jax.solve._factorise import _check_made
from esmpy_jax.solve._solver import check_limits

SCAN, N_CHANNELS, N_COLUMNS, N_PHASES = (6, 8), 12, 5, 3


def image(seed=0, dark=True):
    rng = np.random.default_rng(seed)
    matrix = rng.random((N_CHANNELS, N_COLUMNS)) ** 3 + 0.02
    weights = rng.dirichlet(np.full(N_COLUMNS, 0.4), N_PHASES).T
    abundances = rng.dirichlet(np.full(N_PHASES, 0.4), 48).T * 100
    y = rng.poisson(matrix @ weights @ abundances).T.reshape(*SCAN, N_CHANNELS)
    y[0, 0] *= not dark
    return y, matrix


Y, G = image()
START = RandomStart()


def fit(**options):
    """One small fit; the same shapes everywhere, so that little is compiled."""
    options = {"start": START, "max_steps": 60, "solver": MultiplicativeUpdate()} | options
    counts = as_counts(options.pop("counts", Y), storage="dense")
    return factorise(counts, options.pop("basis", G), options.pop("n_phases", 3), **options)


def assert_same(one, other):
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.abundances, other.abundances)
    np.testing.assert_array_equal(one.nll_trace, other.nll_trace)
    np.testing.assert_array_equal(one.nll_steps, other.nll_steps)
    assert bool(one.result == other.result)


def test_the_key_decides():
    first = fit(key=jax.random.key(5))
    assert_same(first, fit(key=jax.random.key(5)))
    assert_same(fit(), fit(key=jax.random.key(0)))
    assert np.abs(first.weights - fit(key=jax.random.key(6)).weights).max() > 1e-3


def test_trace_is_the_objective_and_goes_down(precision):
    storage = "dense" if precision == "float32" else "sparse"
    out = fit(counts=as_counts(Y, storage=storage), max_steps=200)
    assert out.weights.dtype == precision
    assert out.nll_trace.shape == out.nll_steps.shape
    magnitude = Y.sum() * np.finfo(precision).eps * 8
    assert (np.diff(out.nll_trace) <= magnitude).all()
    model = G @ np.asarray(out.weights, float) @ np.asarray(out.abundances, float)
    y = Y.reshape(-1, N_CHANNELS).T
    expected = (model - y * np.log(np.where(y > 0, model, 1.0))).sum()
    rtol = 1e-5 if precision == "float32" else 1e-12
    assert out.nll == pytest.approx(expected, rel=rtol)
    assert out.seconds > 0


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_nll_with_exposure_and_penalty_is_that_by_hand(storage, precision):
    exposure = np.random.default_rng(3).uniform(0.3, 3.0, Y.shape[:2])
    exposure[0, 1] = 0.0
    counts = as_counts(np.where(exposure[..., None] > 0, Y, 0), exposure=exposure, storage=storage)
    out = fit(
        counts=counts,
        constraint=SumToOneAbundances(),
        regulariser=LogSparsity(0.3, epsilon=0.1),
        max_steps=30,
    )
    h = np.asarray(out.abundances, float)
    model = G @ np.asarray(out.weights, float) @ (h * exposure.ravel())
    y = counts.to_dense().T
    assert ((model > 0) | (y == 0)).all()
    expected = (model - y * np.log(np.where(y > 0, model, 1.0))).sum()
    penalty = 0.3 * np.log1p(h / 0.1).sum()
    assert out.penalty == pytest.approx(penalty, rel=1e-5)
    rtol = 1e-5 if precision == "float32" else 1e-12
    assert out.nll == pytest.approx(expected + penalty, rel=rtol)


@pytest.mark.parametrize("max_steps", [0, 1, 7, 10, 25])
def test_max_steps_is_kept_to_the_step(max_steps):
    out = fit(max_steps=max_steps, tol=-1.0)
    assert out.steps == max_steps
    assert not out.converged
    assert "raise max_steps" in RESULTS[out.result]
    np.testing.assert_array_equal(
        out.nll_steps, [*range(0, max_steps, 10), max_steps] if max_steps else [0]
    )


def test_steps_are_those_of_the_updates():
    """Seven steps of the loop are seven times the two updates, H first."""
    counts, basis = as_counts(Y, storage="dense"), Basis.from_matrix(G)
    rng = np.random.default_rng(3)
    w, h = jnp.asarray(rng.random((5, 3)), float), jnp.asarray(rng.random((3, 48)), float)
    out = fit(start=GivenStart(w, h), max_steps=7, tol=-1.0)
    update_h, update_w = eqx.filter_jit(update_abundances), eqx.filter_jit(update_weights)
    for _ in range(7):
        h = update_h(counts, basis, w, h)
        w = update_w(counts, basis, w, h)
    np.testing.assert_allclose(out.weights, w, rtol=1e-5)
    np.testing.assert_allclose(out.abundances, h, rtol=1e-5)


def test_a_fit_can_be_continued():
    """Sixty steps are thirty and thirty more from what they gave, in every gauge."""
    for constraint in (Unconstrained(), SumToOneAbundances(), SumToOneWeights()):
        whole = fit(constraint=constraint, tol=-1.0)
        half = fit(constraint=constraint, tol=-1.0, max_steps=30)
        rest = fit(
            constraint=constraint,
            tol=-1.0,
            max_steps=30,
            start=GivenStart(half.weights, half.abundances),
        )
        assert rest.nll == pytest.approx(whole.nll, rel=1e-6)
        np.testing.assert_allclose(rest.weights, whole.weights, rtol=1e-3, atol=1e-5)


def test_progress_is_called_and_changes_nothing():
    for max_steps in (57, 120, 999):
        calls = []
        plain = fit(max_steps=max_steps, tol=5.0)
        seen = fit(
            max_steps=max_steps,
            tol=5.0,
            progress=lambda *call, calls=calls: calls.append(call),
        )
        assert_same(plain, seen)
        steps = [step for step, _, _ in calls]
        assert steps == sorted(set(steps))
        assert steps[-1] == seen.steps
        assert len(steps) <= 50
        assert all(total == max_steps for _, total, _ in calls)
        trace = dict(zip(seen.nll_steps.tolist(), seen.nll_trace.tolist(), strict=True))
        assert all(value == trace[step] for step, _, value in calls)


def test_values_that_are_not_finite_are_a_result():
    counts, basis = as_counts(Y, storage="dense"), Basis.from_matrix(G)
    problem = Problem(counts, basis, Unconstrained(), NoRegulariser())
    weights = jnp.ones((5, 3)).at[2, 1].set(jnp.nan)
    out = solve(
        problem,
        MultiplicativeUpdate(),
        weights,
        jnp.ones((3, 48)),
        max_steps=60,
    )
    assert not out.converged
    assert out.steps == 0  # seen at the first look
    assert "not finite" in RESULTS[out.result]


def test_throw():
    with pytest.raises(RuntimeError, match="raise max_steps"):
        fit(max_steps=10, tol=-1.0, throw=True)
    fit(max_steps=500, tol=1e9, throw=True)


# ---- fixed entries ----


def test_fixed_entries_stay():
    fixed_w, fixed_h = np.full((5, 3), np.nan), np.full((3, 48), np.nan)
    fixed_w[0] = 0.25
    fixed_w[1, 2] = 0.0
    fixed_h[1, :10] = 0.4
    fixed_h[0, 20] = 1.0
    for constraint in (SumToOneWeights(), SumToOneAbundances()):
        out = fit(constraint=constraint, fixed_weights=fixed_w, fixed_abundances=fixed_h)
        for factor, fixed in ((out.weights, fixed_w), (out.abundances, fixed_h)):
            known = ~np.isnan(fixed)
            np.testing.assert_array_equal(
                np.asarray(factor)[known], fixed[known].astype(factor.dtype)
            )
        summed = out.weights if isinstance(constraint, SumToOneWeights) else out.abundances
        np.testing.assert_allclose(summed.sum(0), 1, rtol=1e-5)


def test_known_weights_make_the_fit_convex():
    rng = np.random.default_rng(1)
    known = rng.random((5, 3)) + 0.1
    ends = [
        fit(
            fixed_weights=known,
            solver=AbundanceUpdate(),
            regulariser=LogSparsity(0.01, 10.0),  # allowed: the scale is known
            start=start,
            max_steps=2000,
            tol=-1.0,
        )
        for start in (RandomStart(), GivenStart(known))
    ]
    np.testing.assert_allclose(ends[0].weights, known, rtol=1e-6)
    assert ends[0].nll == pytest.approx(ends[1].nll, rel=1e-5)


def test_a_solver_that_holds_the_weights_knows_the_scale():
    known = np.random.default_rng(1).random((5, 3)) + 0.1
    start = GivenStart(known, np.ones((3, 48)))
    options = {"start": start, "regulariser": LogSparsity(0.01, 10.0), "max_steps": 50}
    held = fit(solver=AbundanceUpdate(), **options)
    fixed_too = fit(solver=AbundanceUpdate(), fixed_weights=known, **options)
    np.testing.assert_allclose(held.weights, known, rtol=1e-6)
    np.testing.assert_array_equal(held.abundances, fixed_too.abundances)


# ---- constraint SumToOneShares ----


def test_shares_do_not_feel_the_dose():
    """Pixels twice as bright: the same shares, W for the mean pixel."""
    y = np.where((np.arange(48) % 2 == 0).reshape(*SCAN, 1), 3 * Y, Y)
    one, other = (
        fit(counts=counts, constraint=SumToOneShares(), max_steps=300, tol=-1.0)
        for counts in (Y * 4, y)
    )
    for out, counts in ((one, Y * 4), (other, y)):
        np.testing.assert_allclose(out.abundances.sum(0), 1, rtol=1e-5)
        assert np.isfinite(np.asarray(out.abundances)).all()  # the empty pixel
        model = (G @ np.asarray(out.weights) @ np.asarray(out.abundances)).sum(0)
        assert model.mean() == pytest.approx(counts.sum() / 48, rel=0.1)


@pytest.mark.parametrize("held", [False, True])
def test_every_phase_is_as_bright_as_the_mean_pixel(held, x64):
    """Newton's steps and multiplicative updates end at one optimum, with fixed entries, too."""
    rng = np.random.default_rng(2)
    known = np.full((5, 3), np.nan)
    known[0, 1], known[3] = 0.0, [np.nan, 0.2, np.nan]
    start = GivenStart(rng.random((5, 3)) + 0.1, rng.dirichlet(np.ones(3), 48).T)
    ends = [
        fit(
            counts=20 * Y,
            solver=solver,
            start=start,
            constraint=SumToOneShares(),
            regulariser=LogSparsity(0.2, 0.05),
            fixed_weights=known if held else None,
            max_steps=steps,
            tol=1e-7,
        )
        for solver, steps in ((VariableProjectionNewton(), 300), (MultiplicativeUpdate(), 30_000))
    ]
    for end in ends:
        bright = (G.sum(0)[:, None] * np.asarray(end.weights)).sum(0)
        np.testing.assert_allclose(bright, 20 * Y.sum() / 48, rtol=1e-12)
        assert (np.diff(end.nll_trace) <= 1e-9).all()
        if held:
            np.testing.assert_array_equal(np.asarray(end.weights)[known == known], [0.0, 0.2])
    assert ends[0].converged
    assert ends[0].nll <= ends[1].nll + 1e-3


# ---- G that follows W ----


def following(strength, seen=None):
    """Absorption by the phase's own first column, more at low channels."""
    depth = np.linspace(1.0, 0.0, N_CHANNELS)[:, None]

    def basis(weights):
        if seen is not None:
            seen.append(weights)
        if weights is None:
            return Basis.from_matrix(G)
        shares = np.asarray(weights / weights.sum(0)[None, :])
        return Basis.from_matrix(
            np.stack([G * np.exp(-strength * share * depth) for share in shares[0]])
        )

    return basis


def test_a_basis_that_follows_the_weights_ends_consistent():
    seen = []
    follow = following(0.8, seen)
    out = fit(basis=follow, max_steps=30_000, basis_rounds=60)
    assert seen[0] is None
    assert all(weights.shape == (5, 3) for weights in seen[1:])
    assert out.converged
    assert out.basis.matrix.shape == (3, N_CHANNELS, N_COLUMNS)
    own = follow(out.weights).matrix
    change = np.abs(own - out.basis.matrix).sum(1) / np.asarray(out.basis.matrix).sum(1)
    assert change.max() <= 1e-4
    # it moved on the way there, and W H are those of that basis
    assert np.abs(np.asarray(own) - G).max() > 0.01
    value = poisson_nll(as_counts(Y, storage="dense"), out.basis, out.weights, out.abundances)
    assert out.nll == pytest.approx(float(value), rel=1e-6)
    assert out.nll_steps[-1] == out.steps
    assert (np.diff(out.nll_steps) >= 0).all()


def test_a_basis_still_moving_is_said():
    out = fit(basis=following(0.8), max_steps=4000, tol=10.0, basis_rounds=1)
    assert not out.converged
    assert "raise basis_rounds" in RESULTS[out.result]


def test_the_time_limit_ends_all_rounds():
    out = fit(basis=following(0.8), max_steps=10_000, basis_rounds=5, max_seconds=1e-9)
    assert out.result == RESULTS.max_seconds_reached
    assert out.steps == 10  # the first look


# ---- compilation ----


class Counting(AbstractSolver[None]):
    """A solver that says when it is traced."""

    inner: MultiplicativeUpdate
    traces: "Traces" = eqx.field(static=True)

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        self.traces.number += 1
        return self.inner.step(problem, weights, abundances, state)


class Traces:
    number = 0


def test_one_program_serves_all_fits_of_a_shape():
    traces = Traces()
    solver = Counting(MultiplicativeUpdate(), traces)
    common = {"solver": solver, "constraint": SumToOneAbundances()}
    fit(regulariser=LogSparsity(0.1), **common)
    once = traces.number
    assert once > 0
    fit(regulariser=LogSparsity(0.1), **common)
    fit(regulariser=LogSparsity(3.0, 0.2), key=jax.random.key(9), **common)
    fit(regulariser=LogSparsity(0.1), tol=3.0, max_steps=731, max_seconds=1e9, **common)
    fit(regulariser=LogSparsity(0.1), counts=Y[::-1], basis=G[:, ::-1], **common)
    fit(regulariser=LogSparsity(0.1), progress=lambda *call: None, **common)
    assert traces.number == once
    fit(regulariser=LaplacianSmoothness(0.1), **common)
    assert traces.number == 2 * once  # the counter does count


# ---- bad input ----


def fixed(shape, **entries):
    out = np.full(shape, np.nan)
    for place, value in entries.items():
        out[tuple(int(i) for i in place[1:].split("_"))] = value
    return out


BAD = {
    "no phases": ({"n_phases": 0}, "number of phases is 0; give at least 1"),
    "steps": ({"max_steps": -1}, "max_steps is -1; give a whole number that is not negative"),
    "steps, yes": ({"max_steps": True}, "max_steps is True; give a whole number"),
    "tolerance": ({"tol": float("nan")}, "tol is NaN"),
    "time": ({"max_seconds": float("nan")}, "max_seconds is nan"),
    "negative time": ({"max_seconds": -1.0}, "max_seconds is -1"),
    "no phases, G follows": (
        {"n_phases": -1, "basis": following(0.1)},
        "number of phases is -1; give at least 1",
    ),
    "too many phases": ({"n_phases": 6}, "6 phases are more than the data can carry"),
    "channels": ({"basis": G[:-1]}, "G has 11 channels but the counts have 12"),
    "channels, G follows": (
        {"basis": lambda w: Basis.from_matrix(G[:-1])},
        "G has 11 channels but the counts have 12",
    ),
    "G of other phases": (
        {"basis": np.stack([G, G])},
        "G is given for 2 phases but 3 are asked for",
    ),
    "negative G": ({"basis": -G}, "negative or non-finite"),
    "negative counts": ({"counts": Y - 1}, "negative at pixel 0, channel 0"),
    "no counts": ({"counts": 0 * Y}, "holds no counts at all"),
    "no composition": (
        {
            "basis": Basis.from_matrix(G, in_composition=[False] * 5),
            "constraint": SumToOneWeights(),
        },
        "needs at least one column of G in the composition",
    ),
    "scale": ({"regulariser": LogSparsity(1.0)}, "without a constraint only shrinks H"),
    "scale, partly known": (
        {"regulariser": LogSparsity(1.0), "fixed_weights": fixed((5, 3), _0_0=1.0, _0_1=0.0)},
        "fix an entry of W in every phase",
    ),
    "fixed shape": ({"fixed_weights": np.ones((3, 5))}, r"fixed_weights has shape \(3, 5\)"),
    "fixed sign": ({"fixed_weights": fixed((5, 3), _1_1=-0.1)}, "negative or infinite"),
    "fixed infinite": ({"fixed_abundances": fixed((3, 48), _1_1=np.inf)}, "negative or infinite"),
    "fixed sum of W": (
        {
            "constraint": SumToOneWeights(),
            "fixed_weights": fixed((5, 3), _1_2=0.7, _3_2=0.4),
        },
        "fixed_weights contradicts the sum-to-one constraint: column 2 adds up to 1.1",
    ),
    "fixed sum of H": (
        {"constraint": SumToOneAbundances(), "fixed_abundances": fixed((3, 48), _0_7=1.5)},
        "fixed_abundances contradicts the sum-to-one constraint: column 7 adds up to 1.5",
    ),
    "all fixed": (
        {
            "constraint": SumToOneAbundances(),
            "fixed_abundances": fixed((3, 48), _0_7=0.2, _1_7=0.2, _2_7=0.2),
        },
        "every entry of column 7 is fixed and they do not add up to 1",
    ),
    "fixed sum of shares": (
        {"constraint": SumToOneShares(), "fixed_abundances": fixed((3, 48), _0_7=1.5)},
        "fixed_abundances contradicts the sum-to-one constraint: column 7 adds up to 1.5",
    ),
    "rounds": ({"basis_rounds": 0}, "basis_rounds is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case):
    options, sentence = BAD[case]
    with pytest.raises(InputError, match=sentence) as caught:
        fit(**options)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "kind"), [("key", 0, jax.Array), ("solver", RandomStart, AbstractSolver)]
)
def test_what_is_none_of_its_kind_is_refused(name, value, kind):
    """As without type checks, which are on in tests."""
    with pytest.raises(InputError, match=rf"^The {name} is .*, which is none; give an example\.$"):
        _check_made(value, kind, name, "an example")
    with pytest.raises(InputError, match="tol is 'a'; give a number of nats"):
        check_limits(2, 10, "a", None)
    with pytest.raises(InputError, match="max_seconds is a; give a number of seconds"):
        check_limits(2, 10, 0.1, "a")
    check_limits(2, 10, jnp.asarray(0.1), np.float32(3.0))


# ---- what it is for ----


def angle(a, b):
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return np.degrees(np.arccos(min(cosine, 1.0)))


def test_separated_phases_are_recovered():
    """Each phase lacks two of the columns and has pixels almost of its own; 3000 counts each.

    The spectrum of a phase rests on some 10⁵ counts in 40 channels, which by themselves would
    give an angle of sqrt(40 / 10⁵) = 1.1 degrees; G has 8 columns to place them in.
    """
    for seed in range(4):
        rng = np.random.default_rng(seed)
        channel = np.arange(40)[:, None]
        matrix = np.exp(-((channel - rng.permutation(np.linspace(2, 37, 8))[None]) ** 2) / 4) + 0.01
        weights = np.concatenate([0.5 * np.eye(3), 0.2 * rng.random((5, 3))])
        abundances = rng.dirichlet([0.15] * 3, 144).T * 3000
        truth = matrix @ weights
        truth /= truth.sum(0)
        y = rng.poisson(truth @ abundances).T.reshape(12, 12, 40)
        out = factorise(
            as_counts(y, storage="dense"),
            matrix,
            3,
            start=BinnedStart(factor=2, restarts=2, max_steps=500),
            key=jax.random.key(seed),
            max_steps=1000,
        )
        found = np.asarray(out.basis.endmembers(out.weights))
        order = [int(np.argmin([angle(t, f) for f in found.T])) for t in truth.T]
        assert sorted(order) == [0, 1, 2]
        for phase, match in enumerate(order):
            assert angle(truth[:, phase], found[:, match]) < 1.0
            maps = np.corrcoef(abundances[phase], np.asarray(out.abundances)[match])
            assert maps[0, 1] > 0.999
