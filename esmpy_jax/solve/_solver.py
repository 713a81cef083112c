"""What a solver is, what it solves, and the loop that runs it."""

import abc
import time
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._arrays import as_floats, as_ints
from .._basis import Basis
from .._checks import check
from .._seldom import seldom_run
from .._types import Abundances, Scalar, Weights
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    pixel_excess,
    pixel_losses,
)
from ._updates import Fixed

State = TypeVar("State")


class RESULTS(eqx.Enumeration):
    """How a fit ended, as a sentence."""

    successful = "The fit converged."
    max_steps_reached = (
        "The largest number of steps was reached before the fit converged; raise max_steps, or "
        "tol if the accuracy reached is enough."
    )
    max_epochs_reached = (
        "The largest number of passes over the batches was made before the fit converged; raise "
        "max_epochs, or tol if the accuracy reached is enough."
    )
    max_seconds_reached = (
        "The time limit was reached before the fit converged; raise max_seconds, or tol if the "
        "accuracy reached is enough."
    )
    rounding = (
        "The objective no longer falls in this precision although more is to be won; use 64-bit "
        "numbers if that much matters."
    )
    basis_moving = "The fit converged for the last G, but G still follows W; raise basis_rounds."
    nonfinite = (
        "The fit met values that are not finite; check G and the start values for zeros, NaN and "
        "infinities."
    )


class Problem(eqx.Module):
    """What a solver needs to know about the objective; arrays only."""

    counts: AbstractCounts
    basis: Basis
    constraint: AbstractConstraint
    regulariser: AbstractRegulariser
    fixed_weights: Fixed | None = None
    fixed_abundances: Fixed | None = None

    def losses(self, weights: Weights, abundances: Abundances) -> Float[Array, " pixel"]:
        """Poisson NLL of each pixel."""
        return pixel_losses(self.counts, self.basis.endmembers(weights), abundances)

    def excess(self, weights: Weights, abundances: Abundances) -> Float[Array, " pixel"]:
        """NLL of each pixel above that of a perfect fit, to be compared with another."""
        return pixel_excess(self.counts, self.basis.endmembers(weights), abundances)

    def penalty(self, abundances: Abundances) -> Scalar:
        """What the regulariser adds, in nats."""
        return self.regulariser.value(abundances.reshape(-1, *self.counts.scan_shape))

    def objective(self, weights: Weights, abundances: Abundances) -> Scalar:
        """Poisson NLL plus penalty, in nats."""
        return self.losses(weights, abundances).sum() + self.penalty(abundances)


class AbstractSolver(eqx.Module, Generic[State]):
    """An algorithm that improves (W, H) step by step without ever increasing the objective.

    - `holds_weights`: whether W stays as it starts. The steps then get the counts `for_pixels`.
    - `keeps_brightness`: whether it can keep the `brightness` of `SumToOneAbundances`.
    - `check_every`: steps between two looks at the objective.
    """

    holds_weights: ClassVar[bool] = False
    keeps_brightness: ClassVar[bool] = False
    check_every: ClassVar[int] = 10

    @abc.abstractmethod
    def init(self, problem: Problem, weights: Weights, abundances: Abundances) -> State:
        """Everything the algorithm carries from step to step."""

    def resume(self, problem: Problem, weights: Weights, abundances: Abundances) -> State:
        """As `init`, where W and H come from a fit of nearly the same problem."""
        return self.init(problem, weights, abundances)

    @abc.abstractmethod
    def step(
        self, problem: Problem, weights: Weights, abundances: Abundances, state: State
    ) -> tuple[Weights, Abundances, State]:
        """One step."""

    def excess(
        self, problem: Problem, weights: Weights, abundances: Abundances, state: State
    ) -> tuple[Float[Array, " pixel"], Scalar]:
        """`Problem.excess` and the penalty at W and H, which the state of a solver may know."""
        return problem.excess(weights, abundances), problem.penalty(abundances)

    def predicted_decrease(self, state: State) -> Scalar:
        """Nats that the last step believed to be left above the optimum; NaN if it cannot tell."""
        return jnp.full((), jnp.nan)


class Factorisation(eqx.Module):
    """What `factorise` returns.

    - `weights`, `abundances`: W and H in the gauge of the solver.
    - `problem`: what was solved; its `basis` is the last one, where G follows W.
    - `result`: a `RESULTS`; `RESULTS[result]` is the sentence.
    - `nll_steps`, `nll_trace`: objective in nats (NLL and penalties) after so many steps.
    - `steps`, `seconds`: steps made and wall time, compilation included.
    - `remaining`: nats that the fit believes to be above the optimum; see `solve`.
    - `penalty`: what the regulariser adds to the last objective, in nats.
    """

    weights: Weights
    abundances: Abundances
    problem: Problem
    result: RESULTS
    nll_steps: np.ndarray
    nll_trace: np.ndarray
    steps: int
    seconds: float
    remaining: float
    penalty: float

    @property
    def basis(self) -> Basis:
        """The G that W and H belong to."""
        return self.problem.basis

    @property
    def converged(self) -> bool:
        """Whether the result is `RESULTS.successful`."""
        return bool(self.result == RESULTS.successful)

    @property
    def nll(self) -> float:
        """The last value of the objective, in nats."""
        return float(self.nll_trace[-1])


#: The trace has room for multiples of so many values, so that other steps compile nothing new.
_TRACE_ROOM = 8192

#: Looks at the objective, and steps, before their series is believed.
_FEWEST_CHECKS, _FEWEST_STEPS = 4, 40

#: Looks without a decrease that are taken for rounding: a step of Newton's method that no damping
#: makes good, the multiplicative update after it, and another such step.
_MOST_IDLE = 3


def trace_room(solver: AbstractSolver, max_steps: int) -> int:
    """Values that the trace has room for."""
    n_checks = -(-max_steps // solver.check_every)
    return -(-(n_checks + 1) // _TRACE_ROOM) * _TRACE_ROOM


class _LoopState(eqx.Module):
    weights: Weights
    abundances: Abundances
    solver_state: Any
    excess: Float[Array, " pixel"]  # of each pixel's NLL over a perfect fit, at the last check
    perfect: Scalar  # NLL of a perfect fit
    penalty: Scalar
    trace: Float[Array, " check"]
    won: Float[Array, " check"]  # decrease since the start, in nats
    remaining: Scalar
    idle: Int[Array, ""]  # looks in a row at which the objective had not fallen
    step: Int[Array, ""]
    check: Int[Array, ""]
    result: RESULTS
    done: Array


@seldom_run
def start_state(problem, solver, weights, abundances, room, resume=False):
    """Before the first look at the objective, which is made by `advance` like all others."""
    begin = solver.resume if resume else solver.init
    dtype = abundances.dtype
    empty = jnp.full(room, jnp.nan, dtype)
    return _LoopState(
        weights,
        abundances,
        begin(problem, weights, abundances),
        jnp.zeros(abundances.shape[1], dtype),
        jnp.zeros((), dtype),
        jnp.zeros((), dtype),
        empty,
        empty,
        jnp.full((), jnp.inf, dtype),
        jnp.zeros((), int),
        jnp.zeros((), int),
        jnp.full((), -1, int),
        RESULTS.max_steps_reached,
        jnp.array(False),
    )


@eqx.filter_jit
def advance(problem, solver, state, until, tol, batch=None):
    """Step until `until`, looking at the objective every `check_every` steps and at the end.

    - `batch`: name of the axis over which this is mapped by `vmap`, if it is. The loop then goes
        on until all fits are done. Those that are done keep everything but the count of steps and
        the state of the solver, which stays the same kind of value for all: a choice that the
        solver makes in all fits alike would otherwise cost both branches in each of them.
    """

    def one(_, carry):
        return solver.step(problem, *carry)

    def body(state):
        begun = state.check >= 0
        n_steps = jnp.where(begun, jnp.minimum(solver.check_every, until - state.step), 0)
        w, h, inner = jax.lax.fori_loop(
            0, n_steps, one, (state.weights, state.abundances, state.solver_state)
        )
        excess, penalty = solver.excess(problem, w, h, inner)
        perfect = jax.lax.cond(
            begun,
            lambda: state.perfect,
            lambda: problem.counts.saturated_pass().sum(),
        )
        # differences before sums: float32 stays honest
        decrease = (state.excess - excess).sum() + (state.penalty - penalty)
        check = state.check + 1
        won = state.won.at[check].set(jnp.where(begun, state.won[state.check] + decrease, 0.0))
        predicted = solver.predicted_decrease(inner).astype(won.dtype)
        told = ~jnp.isnan(predicted)
        step = state.step + n_steps
        enough = (check >= _FEWEST_CHECKS) & (step >= _FEWEST_STEPS)
        recent = jnp.where(enough, won[check] - won[check // 2], jnp.inf)
        remaining = jnp.maximum(jnp.where(told, predicted, recent), 0.0)
        value = perfect + excess.sum() + penalty
        finite = jnp.isfinite(value) & jnp.isfinite(w).all()
        converged = begun & (remaining <= tol)
        idle = jnp.where((decrease > 0) | ~begun, 0, state.idle + 1)
        stuck = told & jnp.isfinite(predicted) & (idle >= _MOST_IDLE)
        result = RESULTS.where(stuck, RESULTS.rounding, RESULTS.max_steps_reached)
        result = RESULTS.where(converged, RESULTS.successful, result)
        new = _LoopState(
            w,
            h,
            inner,
            excess,
            perfect,
            penalty,
            state.trace.at[check].set(value),
            won,
            remaining,
            idle,
            step,
            check,
            RESULTS.where(finite, result, RESULTS.nonfinite),
            converged | stuck | ~finite,
        )
        return new if batch is None else _kept(state, new)

    def go_on(state):
        going = ~state.done
        if batch is not None:
            going = jax.lax.pmax(going.astype(jnp.int32), batch) > 0
        return going & ((state.step < until) | (state.check < 0))

    return jax.lax.while_loop(go_on, body, state)


def _kept(old, new):
    """The old state where the fit was done."""
    kept = jax.tree.map(lambda x, y: jnp.where(old.done, x, y), old, new)
    common = lambda s: (s.solver_state, s.step)  # noqa: E731
    return eqx.tree_at(common, kept, common(new), is_leaf=lambda x: x is None)


def as_factorisation(problem, solver, state, result, seconds) -> Factorisation:
    """What the loop has made, as the user gets it."""
    checks = int(state.check) + 1
    steps = np.minimum(np.arange(checks) * solver.check_every, int(state.step))
    return Factorisation(
        state.weights,
        state.abundances,
        problem,
        result,
        steps,
        np.asarray(state.trace)[:checks],
        int(steps[-1]),
        seconds,
        float(state.remaining),
        float(state.penalty),
    )


def check_limits(n_phases: Any, max_steps: Any, tol: Any, max_seconds: Any) -> None:
    """Raise `InputError` for numbers that say neither what to look for nor when to stop."""
    check(
        isinstance(n_phases, Integral) and not isinstance(n_phases, bool) and int(n_phases) >= 1,
        f"The number of phases is {n_phases}; give at least 1, as a whole number.",
    )
    check(
        isinstance(max_steps, Integral) and not isinstance(max_steps, bool) and int(max_steps) >= 0,
        f"max_steps is {max_steps}; give a whole number that is not negative.",
    )
    check(_is_number(tol), f"tol is {tol!r}; give a number of nats such as 0.1.")
    check(not np.isnan(float(tol)), "tol is NaN; give a number of nats such as 0.1.")
    check(
        max_seconds is None or (_is_number(max_seconds) and bool(max_seconds >= 0)),
        f"max_seconds is {max_seconds}; give a number of seconds, or None for no limit.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, np.ndarray | jax.Array) and not value.ndim)


def solve(
    problem: Problem,
    solver: AbstractSolver,
    weights: Weights,
    abundances: Abundances,
    *,
    max_steps: int,
    tol: float = 0.1,
    max_seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    resume: bool = False,
) -> Factorisation:
    """Run `solver` on one problem from given W and H in a `lax.while_loop`.

    The fit has converged when it believes the objective to be at most `tol` nats above the
    optimum that it is heading for. Half a nat is one standard error of one parameter, so a
    tolerance means the same for every image. A solver with a quadratic model tells what its last
    step expected to win. For the others it is what the second half of all steps so far has won:
    right for an objective that falls to its optimum like one over the number of steps, and
    too much for any faster fall; so they stop late rather than early.

    `max_seconds` is looked at between compiled stretches of steps, which begin short and become
    longer while they take less than a twentieth of it. So is `progress(step, max_steps,
    objective)`, which is called on the host at most fifty times and never from inside them.
    Neither changes the steps that are made. With `resume` the factors come from a fit of nearly
    the same problem, and no warm-up is needed.
    """
    began = time.perf_counter()
    whole, every = problem, solver.check_every
    if solver.holds_weights:
        problem = eqx.tree_at(lambda p: p.counts, problem, problem.counts.for_pixels())
    room = trace_room(solver, max_steps)
    state = start_state(problem, solver, weights, abundances, room, resume)
    fiftieth = -(-max_steps // (50 * every)) * every
    stretch = max_steps if progress is None else fiftieth
    stretch = stretch if max_seconds is None else every
    until, told, late = 0, 0, False
    while int(state.check) < 0 or (until < max_steps and not bool(state.done) and not late):
        until = min(until + stretch, max_steps)
        before = time.perf_counter()
        state = advance(problem, solver, state, as_ints(until), as_floats(tol))
        now = int(state.step)  # waits for the stretch
        if progress is not None and (now >= told + fiftieth or until == max_steps or state.done):
            progress(now, max_steps, float(state.trace[state.check]))
            told = now
        if max_seconds is not None:
            late = time.perf_counter() - began > max_seconds
            short = time.perf_counter() - before < max_seconds / 20
            stretch = (
                min(2 * stretch, max_steps if progress is None else fiftieth) if short else stretch
            )
    stopped = late and not bool(state.done) and until < max_steps
    return as_factorisation(
        whole,
        solver,
        state,
        RESULTS.max_seconds_reached if stopped else state.result,
        time.perf_counter() - began,
    )
