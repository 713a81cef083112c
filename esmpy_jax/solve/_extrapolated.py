"""Majorisation with extrapolation: momentum for the plain updates."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Abundances, Scalar, Weights
from ._solver import AbstractSolver
from ._steps import Objective, lifted, next_inertia, step_abundances, step_weights


class _Momentum(eqx.Module):
    previous_weights: Weights  # one step ago
    previous_abundances: Abundances
    inertia: Scalar  # t of Nesterov's sequence; 1 is none
    objective: Objective  # at the current point


class ExtrapolatedUpdate(AbstractSolver[_Momentum]):
    """Plain updates that start from an extrapolated point; never increases the objective.

    Every factor is majorised at `x + b (x - x_previous)+` instead of at x, and the bound minimised
    as ever, H first (BMMe: Hien, Leplat & Gillis, arXiv:2401.06646 (2024)), with

        t_next = (1 + sqrt(1 + 4 t²)) / 2,    b = (t - 1) / t_next,    t = 1 at first.

    Unlike there, the bound of H is taken at the extrapolated W as well, which needs fewer steps,
    and b is not shortened in advance. Only the positive part is extrapolated: entries that grow
    are lifted, and none is pushed towards zero, from where multiplicative updates return slowly.

    The objective is looked at after each step, which costs a third pass over the counts. Where it
    would rise, the plain step is made instead and t starts anew (as O'Donoghue & Candès, Found.
    Comput. Math. 15 (2015) 715, restart).

    The new point is the minimiser of a bound in the plain updates, so that constraints, fixed
    entries and non-negativity hold as they do there; any regulariser enters by its surrogate at
    the extrapolated point.
    """

    def init(self, problem, weights, abundances):
        objective = Objective.at(problem, weights, abundances)
        none = jnp.ones((), weights.dtype)
        return _Momentum(weights, abundances, none, objective)

    def step(self, problem, weights, abundances, state):
        inertia, share = next_inertia(state.inertia)

        def stepped(w, h):
            h = step_abundances(problem, w, h)
            w = step_weights(problem, w, h)
            return w, h, Objective.at(problem, w, h)

        def go_on():
            return *ahead, inertia

        def restart():
            return *stepped(weights, abundances), jnp.ones_like(inertia)

        ahead = stepped(
            lifted(weights, state.previous_weights, share),
            lifted(abundances, state.previous_abundances, share),
        )
        falls = state.objective.decrease_to(ahead[-1]) >= 0
        new_weights, new_abundances, objective, inertia = jax.lax.cond(falls, go_on, restart)
        return new_weights, new_abundances, _Momentum(weights, abundances, inertia, objective)
