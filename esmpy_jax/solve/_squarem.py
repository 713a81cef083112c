"""SQUAREM: squared extrapolation of W, with H projected out."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Abundances, Scalar, Weights
from ..objective import SumToOneAbundances, SumToOneWeights
from ._solver import AbstractSolver, Problem
from ._steps import Objective, lifted, next_inertia, step_abundances, step_weights
from ._updates import doses


class _Reach(eqx.Module):
    longest: Scalar  # step length that may be tried next
    objective: Objective  # at the current point


class SquaremUpdate(AbstractSolver[_Reach]):
    """Extrapolates W alone, from three values of it; never increases the objective.

    With H projected out, the updates are a map F of W into itself: `inner` updates of H at W, with
    the momentum of `ExtrapolatedUpdate`, then one plain update of W. SQUAREM (Varadhan & Roland,
    Scand. J. Statist. 35 (2008) 335) takes W_1 = F(W_0), W_2 = F(W_1) and

        log W = log W_0 + 2 a r + a² v,    r = log W_1 / W_0,    v = log W_2 / W_1 - r,

    with the step length a = ||r|| / ||v||, but at least 1, which gives W_2. The norms weigh each
    entry by the counts it stands for, the metric in which F is symmetric at an optimum. W is then
    brought back to its constraint, the H of W_2 is moved on with it, by 2 (a - 1) times its own
    growth, and F makes the new point. It is taken where its objective is not above that of W_2;
    else W_2 is, and where that is above W_0, too, one plain step. The longest a that is tried
    grows fourfold where it was reached and the point taken, and shrinks as much where the point
    was refused.

    A step is `3 inner + 3` passes over the counts and two looks at the objective. Logarithms keep
    zeros and fixed entries of W in place; none is brought below `least` of its value in W_2, as
    multiplicative updates return slowly from near zero. All points that are kept come out of the
    plain updates, so that constraints, fixed entries and non-negativity hold as they do there, and
    any regulariser enters by its surrogate. Where W is fixed altogether only H is updated.
    """

    inner: int = 5
    least: float = 0.5

    def __check_init__(self):
        if self.inner < 1:
            raise ValueError("SquaremUpdate.inner must be at least 1.")
        if not 0 < self.least <= 1:
            raise ValueError("SquaremUpdate.least must lie between 0 and 1.")

    def init(self, problem, weights, abundances):
        return _Reach(jnp.ones((), weights.dtype), Objective.at(problem, weights, abundances))

    def step(self, problem, weights, abundances, state):
        def twice(point, _):
            point = self._mapped(problem, *point)
            return point, point

        _, (w, h) = jax.lax.scan(twice, (weights, abundances), None, length=2)
        (w_1, w_2), (h_1, h_2) = w, h
        length, ahead = _squared(problem, weights, w_1, w_2, h_1, state.longest)
        ahead = jnp.maximum(ahead, self.least * w_2)
        h_ahead = lifted(h_2, h_1, 2 * (length - 1))
        w_3, h_3 = self._mapped(problem, *_brought_back(problem, ahead, w_2, h_ahead))

        second, third = (Objective.at(problem, *p) for p in ((w_2, h_2), (w_3, h_3)))
        good = second.decrease_to(third) >= 0
        best = jax.tree.map(
            lambda x, y: jnp.where(good, x, y), (w_3, h_3, third), (w_2, h_2, second)
        )

        def plain():
            h = step_abundances(problem, weights, abundances)
            w = step_weights(problem, weights, h)
            return w, h, Objective.at(problem, w, h)

        falls = state.objective.decrease_to(best[-1]) >= 0
        weights, abundances, objective = jax.lax.cond(falls, lambda: best, plain)
        longer = jnp.where(length >= state.longest, 4 * state.longest, state.longest)
        longest = jnp.where(good & falls, longer, jnp.maximum(state.longest / 4, 1.0))
        return weights, abundances, _Reach(longest, objective)

    def _mapped(self, problem, weights, abundances):
        """F: W after the inner updates of H, and that H."""

        def one(_, carry):
            current, previous, inertia = carry
            inertia, share = next_inertia(inertia)
            new = step_abundances(problem, weights, lifted(current, previous, share))
            return new, current, inertia

        start = (abundances, abundances, jnp.ones((), abundances.dtype))
        abundances, *_ = jax.lax.fori_loop(0, self.inner, one, start)
        return step_weights(problem, weights, abundances), abundances


def _squared(
    problem: Problem, w_0: Weights, w_1: Weights, w_2: Weights, h: Abundances, longest: Scalar
) -> tuple[Scalar, Weights]:
    """The step length, and W extrapolated by it."""
    dose = doses(problem.counts, h)
    counts = w_1 * problem.basis.column_sums * dose[None, :]
    first, second = _log_ratio(w_1, w_0), _log_ratio(w_2, w_1)
    bend = second - first
    straight, curved = ((counts * x**2).sum() for x in (first, bend))
    wanted = jnp.sqrt(straight / jnp.maximum(curved, jnp.finfo(counts.dtype).tiny))
    length = jnp.clip(wanted, 1.0, longest)
    exponent = jnp.clip(2 * length * first + length**2 * bend, -20.0, 20.0)  # stays finite
    return length, w_0 * jnp.exp(exponent)


def _brought_back(
    problem: Problem, ahead: Weights, weights: Weights, abundances: Abundances
) -> tuple[Weights, Abundances]:
    """Extrapolated W on its constraint, and H scaled so that each phase keeps its counts.

    `weights` are those that `abundances` belong to.
    """
    fixed = problem.fixed_weights
    if fixed is not None:
        ahead = fixed.apply(ahead)
    if isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        free = jnp.broadcast_to(rows, ahead.shape) if fixed is None else rows & ~fixed.mask
        new, old = (jnp.where(free, w, 0.0).sum(0) for w in (ahead, weights))
        ahead = jnp.where(free, ahead * _over(old, new)[None, :], ahead)
    if isinstance(problem.constraint, SumToOneAbundances):
        return ahead, abundances
    new, old = ((problem.basis.column_sums * w).sum(0) for w in (ahead, weights))
    abundances = abundances * _over(old, new)[:, None]
    fixed = problem.fixed_abundances
    return ahead, abundances if fixed is None else fixed.apply(abundances)


def _log_ratio(new, old):
    """`log new / old`, and 0 where either is zero."""
    small = jnp.finfo(new.dtype).tiny
    some = (new >= small) & (old >= small)
    return jnp.where(
        some, jnp.log(jnp.where(some, new, 1.0)) - jnp.log(jnp.where(some, old, 1.0)), 0.0
    )


def _over(numerator, denominator):
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 1.0)
