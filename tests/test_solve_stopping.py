"""When a fit stops: how far it believes the optimum to be, time limits, rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_solve_factorise import N_CHANNELS, fit, image

from esmpy_jax._checks import InputError
from esmpy_jax.objective import LogSparsity, SumToOneAbundances, SumToOneWeights, Unconstrained
from esmpy_jax.solve import (
    RESULTS,
    AbstractSolver,
    GivenStart,
    VariableProjectionNewton,
)
from esmpy_jax.solve._abundance_newton import second_opinion
from esmpy_jax.solve._solver import check_limits


def objective(y, matrix, weights, abundances):
    """In float64 NumPy, without constants."""
    model = matrix @ np.asarray(weights, np.float64) @ np.asarray(abundances, np.float64)
    y = y.reshape(-1, N_CHANNELS).T
    return (model - y * np.log(np.where(y > 0, model, 1.0))).sum()


@pytest.mark.slow
def test_updates_know_how_far_the_optimum_is(x64):
    """What they believe to be left against where 20 000 steps end.

    Their rule is exact for a distance c / t after t steps; c / sqrt(t), slower than any seen here,
    would leave 1 / (sqrt(2) - 1) = 2.4 times as much, and the looks 10 steps apart add to that.
    """
    shares = []
    for seed in range(3):
        y, matrix = image(seed, dark=False)
        for constraint in (Unconstrained(), SumToOneAbundances()):
            options = {"counts": y, "basis": matrix, "constraint": constraint}
            options |= {"key": jax.random.key(seed), "max_steps": 20_000}
            optimum = fit(tol=-1.0, **options)
            assert not optimum.converged
            for tol in (10.0, 1.0, 0.1):
                out = fit(tol=tol, **options)
                assert out.converged
                assert RESULTS[out.result] == "The fit converged."
                assert 0 < out.remaining <= tol
                shares.append((out.nll - optimum.nll) / out.remaining)
    assert min(shares) >= 0
    assert max(shares) < 4
    assert np.median(shares) < 0.7  # rather too late than too early


def test_a_converged_fit_is_near_the_optimum_in_both_precisions(precision):
    """Within three tolerances, in float64, of where 20 000 more steps lead."""
    for seed in (1, 2):
        y, matrix = image(seed)
        key = jax.random.key(seed)
        out = fit(counts=y, basis=matrix, tol=0.1, max_steps=20_000, key=key)
        assert out.converged
        assert out.weights.dtype == precision
        reached = objective(y, matrix, out.weights, out.abundances)
        with jax.enable_x64(True):
            start = GivenStart(np.asarray(out.weights, float), np.asarray(out.abundances, float))
            on = fit(counts=y, basis=matrix, start=start, tol=-1.0, max_steps=20_000)
        best = objective(y, matrix, on.weights, on.abundances)
        assert -1e-3 < reached - best < 0.3


def test_newtons_method_stops_within_its_tolerance(x64):
    """Against where it ends when nothing but rounding stops it."""
    for seed in (1, 3):
        y, matrix = image(seed, dark=False)
        options = {"counts": y, "basis": matrix, "key": jax.random.key(seed)}
        options |= {"solver": VariableProjectionNewton(), "max_steps": 300}
        optimum = fit(tol=-1.0, **options)
        assert optimum.result == RESULTS.rounding
        for tol in (0.1, 1e-3):
            out = fit(tol=tol, **options)
            assert out.converged
            assert out.remaining <= tol
            assert out.steps < optimum.steps
            assert -1e-9 < out.nll - optimum.nll < 3 * tol


def test_a_smaller_tolerance_takes_more_steps_and_gets_lower():
    outs = [fit(tol=tol, max_steps=20_000) for tol in (100.0, 10.0, 1.0)]
    steps = [out.steps for out in outs]
    assert steps == sorted(set(steps))
    assert outs[0].nll > outs[1].nll > outs[2].nll
    assert outs[2].nll - fit(tol=-1.0, max_steps=5000).nll < 4.0
    # less than the looks that the rule needs, and a tolerance that nothing meets
    assert fit(tol=1e9, max_steps=20_000).steps == 40
    assert fit(tol=-1.0).remaining > 0


def test_the_time_limit_is_said():
    """Looks come early and become rarer; what it did is what it would have done."""
    out = fit(tol=-1.0, max_steps=1000, max_seconds=1e-9)
    assert out.steps == 10
    assert not out.converged
    assert out.result == RESULTS.max_seconds_reached
    assert "raise max_seconds" in RESULTS[out.result]
    np.testing.assert_array_equal(out.weights, fit(tol=-1.0, max_steps=10).weights)
    # nothing is late that is done
    assert fit(tol=-1.0, max_steps=10, max_seconds=1e-9).result == RESULTS.max_steps_reached
    assert fit(tol=1e9, max_steps=2000, max_seconds=1e3).converged
    assert fit(max_steps=60, max_seconds=1e9, tol=-1.0).result == RESULTS.max_steps_reached


class Prophet(AbstractSolver[None]):
    """Promises so many nats and does nothing."""

    promise: float
    check_every = 3

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        return weights, abundances, state

    def predicted_decrease(self, state):
        return jnp.asarray(self.promise, float)


@pytest.mark.parametrize(
    ("promise", "steps", "result"),
    [
        (5.0, 9, RESULTS.rounding),  # predicted, and nothing moves at three looks in a row
        (0.05, 3, RESULTS.successful),
        (-1.0, 3, RESULTS.successful),
        (np.inf, 60, RESULTS.max_steps_reached),  # it has not looked yet
    ],
)
def test_a_solver_that_tells_is_believed(precision, promise, steps, result):
    out = fit(solver=Prophet(promise))
    assert out.steps == steps
    assert bool(out.result == result)
    assert out.remaining == pytest.approx(max(promise, 0.0))
    if result == RESULTS.rounding:
        assert "64-bit" in RESULTS[out.result]
        assert not out.converged


def test_plain_updates_in_the_place_of_newton_steps_are_not_believed_early():
    """Sums over W beside a penalty: the rule of the updates asks for 40 steps, not 40 looks."""
    out = fit(
        solver=VariableProjectionNewton(),
        constraint=SumToOneWeights(),
        regulariser=LogSparsity(0.5),
        max_steps=2000,
    )
    assert out.steps >= 40
    assert out.remaining >= 0


@pytest.mark.parametrize(
    ("believed", "won", "before", "won_before", "least"),
    [
        (0.01, 0.012, 2.0, 50.0, 2.0),  # the step before believed in more
        (0.01, 0.9, 0.01, 1.0, 8.0),  # wins that hardly shrink: 0.9 * 0.9 / 0.1
        (0.01, 0.9, 0.01, 100.0, 0.9),  # it won more than it promised
        (0.01, 0.012, 0.02, 1.0, 0.02),  # as promised
        (0.01, 0.012, np.inf, np.inf, np.inf),  # there was none before
    ],
)
def test_two_steps_have_to_agree(believed, won, before, won_before, least):
    values = (jnp.asarray(x) for x in (believed, won, before, won_before))
    assert float(second_opinion(*values)) == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ((2.5, 10, 0.1, None), "number of phases is 2.5; give at least 1, as a whole number"),
        ((2.0, 10, 0.1, None), "number of phases is 2.0"),
        ((2, 10.0, 0.1, None), "max_steps is 10.0; give a whole number"),
    ],
)
def test_numbers_that_are_not_whole_are_refused(limits, sentence):
    """Checked directly: in these tests annotations would refuse them before `factorise` can."""
    with pytest.raises(InputError, match=sentence) as caught:
        check_limits(*limits)
    assert str(caught.value).endswith(".")
    check_limits(np.int64(2), 0, -1.0, 5.0)
