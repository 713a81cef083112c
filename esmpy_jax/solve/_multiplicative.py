"""Multiplicative updates: simple, monotone, applicable everywhere."""

from ._solver import AbstractSolver
from ._updates import update_abundances, update_weights


class MultiplicativeUpdate(AbstractSolver[None]):
    """Alternates `update_abundances` and `update_weights`, H first."""

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        abundances = update_abundances(
            problem.counts,
            problem.basis,
            weights,
            abundances,
            constraint=problem.constraint,
            regulariser=problem.regulariser,
            fixed=problem.fixed_abundances,
        )
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
    """Updates H only: W is known, and the problem is convex."""

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        abundances = update_abundances(
            problem.counts,
            problem.basis,
            weights,
            abundances,
            constraint=problem.constraint,
            regulariser=problem.regulariser,
            fixed=problem.fixed_abundances,
        )
        return weights, abundances, state
