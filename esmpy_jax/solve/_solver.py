"""What a solver is, what it solves, and the loop that runs it."""

import abc
import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._basis import Basis
from .._types import Abundances, Scalar, Weights
from ..objective import AbstractConstraint, AbstractCounts, AbstractRegulariser, pixel_losses
from ._updates import Fixed

State = TypeVar("State")


class RESULTS(eqx.Enumeration):
    """How a fit ended, as a sentence."""

    successful = "The fit converged."
    max_steps_reached = (
        "The largest number of steps was reached before the fit converged; raise max_steps, or "
        "rtol and xtol if the accuracy reached is enough."
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

    def penalty(self, abundances: Abundances) -> Scalar:
        """What the regulariser adds, in nats."""
        return self.regulariser.value(abundances.reshape(-1, *self.counts.scan_shape))

    def objective(self, weights: Weights, abundances: Abundances) -> Scalar:
        """Poisson NLL plus penalty, in nats."""
        return self.losses(weights, abundances).sum() + self.penalty(abundances)


class AbstractSolver(eqx.Module, Generic[State]):
    """An algorithm that improves (W, H) step by step without ever increasing the objective.

    - `holds_weights`: whether W stays as it starts.
    """

    holds_weights: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, problem: Problem, weights: Weights, abundances: Abundances) -> State:
        """Everything the algorithm carries from step to step."""

    @abc.abstractmethod
    def step(
        self, problem: Problem, weights: Weights, abundances: Abundances, state: State
    ) -> tuple[Weights, Abundances, State]:
        """One step."""


class Factorisation(eqx.Module):
    """What `factorise` returns.

    - `weights`, `abundances`: W and H in the gauge of the solver.
    - `problem`: what was solved; its `basis` is the last one, where G follows W.
    - `result`: a `RESULTS`; `RESULTS[result]` is the sentence.
    - `nll_steps`, `nll_trace`: objective in nats (NLL and penalties) after so many steps.
    - `steps`, `seconds`: steps made and wall time, compilation included.
    """

    weights: Weights
    abundances: Abundances
    problem: Problem
    result: RESULTS
    nll_steps: np.ndarray
    nll_trace: np.ndarray
    steps: int
    seconds: float

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
_TRACE_ROOM = 256


class _LoopState(eqx.Module):
    weights: Weights
    abundances: Abundances
    solver_state: Any
    losses: Float[Array, " pixel"]  # per pixel, at the last check
    penalty: Scalar
    shape: Weights  # W at the last check, each phase scaled to unit counts
    trace: Float[Array, " check"]
    step: Int[Array, ""]
    check: Int[Array, ""]
    result: RESULTS
    done: Array


def _unit_counts(problem, weights):
    """W with each entry as the share of its phase's counts: free of the gauge."""
    shares = weights * problem.basis.column_sums
    return shares / jnp.maximum(shares.sum(0, keepdims=True), jnp.finfo(shares.dtype).tiny)


@eqx.filter_jit
def _start(problem, solver, weights, abundances, room):
    losses = problem.losses(weights, abundances)
    penalty = problem.penalty(abundances)
    trace = jnp.full(room, jnp.nan, losses.dtype).at[0].set(losses.sum() + penalty)
    return _LoopState(
        weights,
        abundances,
        solver.init(problem, weights, abundances),
        losses,
        penalty,
        _unit_counts(problem, weights),
        trace,
        jnp.array(0),
        jnp.array(0),
        RESULTS.max_steps_reached,
        jnp.array(False),
    )


@eqx.filter_jit
def _advance(problem, solver, state, until, rtol, xtol, check_every):
    """Step until `until`, looking at the objective every `check_every` steps and at the end."""

    def one(_, carry):
        return solver.step(problem, *carry)

    def body(state):
        n_steps = jnp.minimum(check_every, until - state.step)
        w, h, inner = jax.lax.fori_loop(
            0, n_steps, one, (state.weights, state.abundances, state.solver_state)
        )
        losses, penalty = problem.losses(w, h), problem.penalty(h)
        # differences before sums: float32 stays honest
        decrease = (state.losses - losses).sum() + (state.penalty - penalty)
        shape = _unit_counts(problem, w)
        value = losses.sum() + penalty
        scale = jnp.abs(value)
        small = decrease <= rtol * scale * n_steps
        still = jnp.abs(shape - state.shape).max() <= xtol * n_steps
        finite = jnp.isfinite(value) & jnp.isfinite(shape).all()
        result = RESULTS.where(
            ~finite,
            RESULTS.nonfinite,
            RESULTS.where(small & still, RESULTS.successful, RESULTS.max_steps_reached),
        )
        return _LoopState(
            w,
            h,
            inner,
            losses,
            penalty,
            shape,
            state.trace.at[state.check + 1].set(value),
            state.step + n_steps,
            state.check + 1,
            result,
            (small & still) | ~finite,
        )

    def go_on(state):
        return ~state.done & (state.step < until)

    return jax.lax.while_loop(go_on, body, state)


def solve(
    problem: Problem,
    solver: AbstractSolver,
    weights: Weights,
    abundances: Abundances,
    *,
    max_steps: int,
    rtol: float,
    xtol: float,
    check_every: int = 10,
    progress: Callable[[int, int, float], None] | None = None,
) -> Factorisation:
    """Run `solver` on one problem from given W and H in a `lax.while_loop`.

    The fit has converged when one step lowers the objective by at most `rtol` of its magnitude
    *and* moves no entry of W, as the share of its phase's counts, by more than `xtol`; both are
    looked at every `check_every` steps. `progress(step, max_steps, objective)` is called on the
    host at most fifty times, between compiled stretches, and never from inside them; it does not
    change the result.
    """
    began = time.perf_counter()
    n_checks = -(-max_steps // check_every)
    room = -(-(n_checks + 1) // _TRACE_ROOM) * _TRACE_ROOM
    state = _start(problem, solver, weights, abundances, room)
    stretch = max_steps if progress is None else -(-max_steps // (50 * check_every)) * check_every
    until = 0
    while until < max_steps and not bool(state.done):
        until = min(until + stretch, max_steps)
        state = _advance(
            problem, solver, state, jnp.array(until), jnp.array(rtol), jnp.array(xtol), check_every
        )
        if progress is not None:
            progress(int(state.step), max_steps, float(state.trace[state.check]))
    checks = int(state.check) + 1
    return Factorisation(
        state.weights,
        state.abundances,
        problem,
        state.result,
        np.minimum(np.arange(checks) * check_every, int(state.step)),
        np.asarray(state.trace)[:checks],
        int(state.step),
        time.perf_counter() - began,
    )
