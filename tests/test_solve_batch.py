"""Batches of fits: each is the fit that `solve` makes alone, and one program serves all."""

import dataclasses
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from factor_problems import STORAGES

from esmpy_jax._basis import Basis
from esmpy_jax._checks import InputError
from esmpy_jax.objective import (
    LaplacianSmoothness,
    NoRegulariser,
    SumToOneAbundances,
    Unconstrained,
    as_counts,
    find_places,
    resample,
)
from esmpy_jax.solve import (
    RESULTS,
    AbstractSolver,
    AbundanceNewton,
    MultiplicativeUpdate,
    Problem,
    RandomStart,
    VariableProjectionNewton,
    solve,
    solve_batch,
)
from esmpy_jax.solve._batch import fit_bytes

N_PHASES = 2
STEPS = 60


def problem(storage="sparse", seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.random((12, 4)) ** 3 + 0.01
    y = rng.poisson((matrix @ rng.random((4, 2)) @ rng.gamma(0.5, 30, (2, 20))).T)
    counts = as_counts(y, scan_shape=(4, 5), storage=storage)
    return Problem(counts, Basis.from_matrix(matrix), Unconstrained(), NoRegulariser())


def starts(case, n_fits, *, converged=False):
    """Random ones; with `converged` the second begins where a long fit has ended."""
    keys = jax.random.split(jax.random.key(0), n_fits)
    factors = [RandomStart()(case, N_PHASES, key) for key in keys]
    if converged:
        end = solve(case, MultiplicativeUpdate(), *factors[1], max_steps=2000, tol=1e-3)
        factors[1] = end.weights, end.abundances
    return tuple(jnp.stack(x) for x in zip(*factors, strict=True))


def check_same(batch, single, rtol):
    assert batch.steps == single.steps
    assert RESULTS[batch.result] == RESULTS[single.result]
    np.testing.assert_array_equal(batch.nll_steps, single.nll_steps)
    np.testing.assert_allclose(batch.nll_trace, single.nll_trace, rtol=rtol)
    for name in ("weights", "abundances"):
        one, other = (np.asarray(getattr(x, name)) for x in (batch, single))
        np.testing.assert_allclose(one, other, rtol=0, atol=100 * rtol * other.max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("solver", [MultiplicativeUpdate(), AbundanceNewton()], ids=repr)
def test_a_batch_is_its_fits_one_by_one(solver, storage):
    """Rounding apart, which in float64 leaves no doubt about a step more or less."""
    case = problem(storage)
    weights, abundances = starts(case, 3, converged=True)
    options = {"max_steps": STEPS, "tol": 0.3 if solver.check_every > 1 else 1e-3}
    alone = [solve(case, solver, w, h, **options) for w, h in zip(weights, abundances, strict=True)]
    assert len({fit.steps for fit in alone}) > 1  # they end at different times
    for fit, single in zip(
        solve_batch(case, solver, weights, abundances, batch_size=3, **options), alone, strict=True
    ):
        check_same(fit, single, 1e-10)
        np.testing.assert_allclose(fit.remaining, single.remaining, rtol=1e-4, atol=1e-8)
        assert fit.problem is case
        assert fit.converged == single.converged


def test_newton_steps_on_both_factors_in_a_batch():
    case = problem("dense")
    weights, abundances = starts(case, 2)
    solver = VariableProjectionNewton(warm_up=3, trials=3)
    batch = solve_batch(case, solver, weights, abundances, max_steps=STEPS, batch_size=2)
    long = [
        solve(case, MultiplicativeUpdate(), w, h, max_steps=10_000, tol=0.01)
        for w, h in zip(weights, abundances, strict=True)
    ]
    for fit, plain in zip(batch, long, strict=True):
        assert fit.converged
        assert fit.steps < STEPS
        # a tenth of a nat, and what the updates may have left
        assert abs(fit.nll - plain.nll) < 0.2


@pytest.mark.slow
def test_groups_change_nothing():
    case = problem()
    weights, abundances = starts(case, 5, converged=True)
    fits = {
        size: solve_batch(
            case,
            MultiplicativeUpdate(),
            weights,
            abundances,
            max_steps=STEPS,
            tol=0.3,
            batch_size=size,
        )
        for size in (1, 3, 5, None)  # one by one, groups of 3 and 2, one group, by memory
    }
    for size in (3, 5, None):
        assert len(fits[size]) == 5
        for fit, alone in zip(fits[size], fits[1], strict=True):
            check_same(fit, alone, 3e-6)


def test_each_fit_may_have_its_own_problem():
    """Strengths of a regulariser, and bootstraps: values alone differ, and are not mixed up."""
    case = dataclasses.replace(problem(), constraint=SumToOneAbundances())
    weights, abundances = (jnp.repeat(x, 3, 0) for x in starts(case, 1))
    smooth = [
        dataclasses.replace(case, regulariser=LaplacianSmoothness(s)) for s in (0.0, 3.0, 30.0)
    ]
    places, keys = find_places(case.counts), jax.random.split(jax.random.key(1), 3)
    drawn = [
        dataclasses.replace(case, counts=resample(case.counts, key, places=places)) for key in keys
    ]
    for several in (smooth, drawn):
        batch = solve_batch(several, MultiplicativeUpdate(), weights, abundances, max_steps=STEPS)
        assert len({fit.nll for fit in batch}) == 3
        for i, fit in enumerate(batch):
            single = solve(
                several[i], MultiplicativeUpdate(), weights[i], abundances[i], max_steps=STEPS
            )
            check_same(fit, single, 3e-6)
            assert fit.problem is several[i]


def test_a_fit_that_breaks_leaves_the_others_alone():
    case = problem()
    weights, abundances = starts(case, 3)
    broken = weights.at[1, 0, 0].set(jnp.nan)
    options = {"max_steps": STEPS, "batch_size": 3}
    good = solve_batch(case, MultiplicativeUpdate(), weights, abundances, **options)
    bad = solve_batch(case, MultiplicativeUpdate(), broken, abundances, **options)
    assert bad[1].result == RESULTS.nonfinite
    assert bad[1].steps == 0  # seen at the first look
    for i in (0, 2):
        np.testing.assert_array_equal(bad[i].nll_trace, good[i].nll_trace)
        np.testing.assert_array_equal(bad[i].abundances, good[i].abundances)


# ---- compilation ----


class Counting(AbstractSolver[None]):
    """A solver that says when it is traced."""

    traces: "Traces" = eqx.field(static=True)

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        self.traces.number += 1
        return MultiplicativeUpdate().step(problem, weights, abundances, state)


class Traces:
    number = 0


@pytest.mark.parametrize("size", [1, 2])
def test_one_program_serves_the_whole_batch(size, caplog):
    case = dataclasses.replace(problem(), constraint=SumToOneAbundances())
    weights, abundances = starts(case, 4)
    traces = Traces()

    def run(scale, key, **options):
        several = [
            dataclasses.replace(case, regulariser=LaplacianSmoothness(scale * s)) for s in range(4)
        ]
        w = weights * jax.random.uniform(jax.random.key(key), weights.shape, minval=0.5)
        return solve_batch(several, Counting(traces), w, abundances, batch_size=size, **options)

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        run(1.0, 0, max_steps=30)
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA" in r.getMessage()]
    assert sum("_run" in message for message in compiled) == 1
    assert not any("solve" in m or "start" in m or "advance" in m for m in compiled)
    once = traces.number
    assert once > 0
    run(0.3, 1, max_steps=57, tol=3.0)
    assert traces.number == once


# ---- memory and bad input ----


def test_memory_of_a_fit_grows_with_what_it_has_of_its_own():
    case = problem()
    own = eqx.filter_vmap(LaplacianSmoothness)(jnp.ones(5))
    number = case.basis.matrix.dtype.itemsize
    assert fit_bytes(case, N_PHASES, own) == fit_bytes(case, N_PHASES, None) + number
    assert fit_bytes(case, 2 * N_PHASES, None) > 2 * fit_bytes(case, N_PHASES, None)


def test_batches_are_checked():
    case, other = problem(), problem("dense")
    weights, abundances = starts(case, 2)

    def run(problems, w=weights, h=abundances, **options):
        solve_batch(problems, MultiplicativeUpdate(), w, h, max_steps=3, **options)

    with pytest.raises(InputError, match="1 problems but 2 starts"):
        run([case])
    with pytest.raises(InputError, match="at least one start"):
        run(case, weights[:0], abundances[:0])
    with pytest.raises(InputError, match="differ in kind"):
        run([case, other])
    with pytest.raises(InputError, match="batch_size is 0"):
        run(case, batch_size=0)
    longer = dataclasses.replace(case, basis=Basis.from_matrix(np.ones((13, 4))))
    with pytest.raises(InputError, match="different shapes"):
        run([case, longer])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"max_steps": -1}, "max_steps is -1"), ({"tol": np.nan}, "tol is NaN")],
)
def test_limits_that_say_nothing_are_refused(options, sentence):
    case = problem()
    with pytest.raises(InputError, match=sentence):
        solve_batch(case, MultiplicativeUpdate(), *starts(case, 2), **({"max_steps": 5} | options))
