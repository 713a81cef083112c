"""Multiplicative updates: simple, monotone, applicable everywhere."""

from ._solver import AbstractSolver
from ._steps import step_abundances, step_weights


class MultiplicativeUpdate(AbstractSolver[None]):
    """Alternates `update_abundances` and `update_weights`, H first."""

    keeps_brightness = True

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        abundances = step_abundances(problem, weights, abundances)
        return step_weights(problem, weights, abundances), abundances, state


class AbundanceUpdate(AbstractSolver[None]):
    """Updates H only, with W held as it starts; without a concave penalty that is convex."""

    holds_weights = True

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        return weights, step_abundances(problem, weights, abundances), state
