"""Minimisation of quadratic bounds whose curvature is found on the way."""

import jax.numpy as jnp

from ..objective import positive_root, sum_constrained_root
from ._line_search import Steps, alternate, search
from ._solver import AbstractSolver


class QuadraticSurrogate(AbstractSolver[Steps]):
    """Minimises a quadratic that lies above the objective, for H, then for W.

    With g the gradient and m a diagonal bound of the curvature at the current entries x', it is

        objective(x') + g·(x - x') + (x - x')·(sigma m + a)(x - x') / 2,

    where a is the curvature of the regulariser's separable surrogate. Its minimum under the
    constraint is exact: with a multiplier nu for the sum, `x = max(x' - (g + nu) / (sigma m + a),
    0)`. sigma grows until the objective at that point does lie below the quadratic, pixel by pixel
    for H, and falls again afterwards, so it follows the local curvature (majorisation with
    backtracking; Beck & Teboulle, SIAM J. Imaging Sci. 2 (2009) 183).
    """

    def init(self, problem, weights, abundances):
        return Steps.start(weights, abundances)

    def step(self, problem, weights, abundances, state):
        return alternate(problem, weights, abundances, state, _improve)


def _improve(block, step):
    gradient, none = block.gradient(), jnp.zeros_like(block.current)

    def curvature(step):
        return block.curvature / step[None] + block.quadratic  # sigma is one over the step

    def propose(step):
        quadratic = curvature(step)
        linear = gradient - quadratic * block.current
        on_simplex = sum_constrained_root(
            quadratic, linear, none, block.budget, block.summed, block.current
        )
        return jnp.where(block.summed, on_simplex, positive_root(quadratic, linear, none))

    def ceiling(new, step):
        move = new - block.current
        return block.total(move * (gradient + 0.5 * curvature(step) * move))

    return search(block, step, propose, ceiling)
