"""Multiplicative updates: simple, monotone, applicable everywhere."""

from ._solver import AbstractSolver
from ._updates import update_abundances, update_weights


class MultiplicativeUpdate(AbstractSolver[None]):
    """Alternates `update_abundances` and `update_weights`, H first."""

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        abundances = _updated_abundances(problem, weights, abundances)
        weights = update_weights(
            problem.counts,
            problem.basis,
            weights,
            abundances,
            constraint=problem.constraint,
            fixed=problem.fixed_weights,
        )
        return weights, abundances, state


class AbundanceUpdate(AbstractSolver[None]):
    """Updates H only, with W held as it starts; without a concave penalty that is convex."""

    holds_weights = True

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        return weights, _updated_abundances(problem, weights, abundances), state


def _updated_abundances(problem, weights, abundances):
    return update_abundances(
        problem.counts,
        problem.basis,
        weights,
        abundances,
        constraint=problem.constraint,
        regulariser=problem.regulariser,
        fixed=problem.fixed_abundances,
    )
