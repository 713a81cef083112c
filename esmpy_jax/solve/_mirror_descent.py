"""Mirror descent with the entropy as its distance."""

import jax.numpy as jnp

from ._line_search import Steps, alternate, search
from ._solver import AbstractSolver

#: The largest logarithm of the factor by which an entry changes in one step.
FARTHEST = 10.0


class BlockMirrorDescent(AbstractSolver[Steps]):
    """Multiplies H, then W, by the exponential of the gradient.

    The distance of x from the current entries x' is `D = sum(m (x log(x / x') - x + x'))`, and

        x = argmin g·x + D / t,  so  x = x' exp(-t g / m),

    scaled to its sum where there is one: the exponentiated gradient. At x' the Hessian of the NLL
    is below `diag(r / x)` with r the falling part of the gradient (Cauchy-Schwarz), and m is the
    larger of r and the rising part, with the regulariser's; the largest of a sum. t shrinks until
    `objective(x) <= objective(x') + g·(x - x') + D / t`, pixel by pixel for H (smoothness relative
    to D; Bauschke, Bolte & Teboulle, Math. Oper. Res. 42 (2017) 330, Lu, Freund & Nesterov, SIAM
    J. Optim. 28 (2018) 333). An entry that is zero stays zero.
    """

    def init(self, problem, weights, abundances):
        return Steps.start(weights, abundances)

    def step(self, problem, weights, abundances, state):
        return alternate(problem, weights, abundances, state, _improve)


def _improve(block, step):
    small = jnp.finfo(block.current.dtype).tiny
    gradient, current = block.gradient(), block.current
    curved = block.quadratic * current
    penalty = curved + block.linear
    metric = curved + jnp.maximum(
        block.rising + jnp.maximum(penalty, 0.0), block.falling + jnp.maximum(-penalty, 0.0)
    )
    there = block.summed & (current > 0)
    shared = jnp.where(there, metric, 0.0).max(0)
    metric = jnp.maximum(jnp.where(block.summed, shared[None], metric), small)

    def propose(step):
        exponent = jnp.clip(-step[None] * gradient / metric, -FARTHEST, FARTHEST)
        highest = jnp.where(there, exponent, -FARTHEST).max(0)
        new = current * jnp.exp(jnp.where(there, exponent - highest[None], exponent))
        total = jnp.where(there, new, 0.0).sum(0)
        scale = block.budget / jnp.where(total > 0, total, 1.0)
        return jnp.where(there, new * scale[None], new)

    def ceiling(new, step):
        move = new - current
        ratio = move / jnp.maximum(current, small)
        apart = new * jnp.log1p(jnp.maximum(ratio, -1 + jnp.finfo(ratio.dtype).eps)) - move
        return block.total(gradient * move) + block.total(metric * apart) / step

    return search(block, step, propose, ceiling)
