"""Projected gradient descent."""

import jax
import jax.numpy as jnp

from ._line_search import Block, Entries, Steps, alternate, search
from ._solver import AbstractSolver

#: Share of the decrease that the slope promises which a step has to bring.
ARMIJO = 1e-4


class ProjectedGradient(AbstractSolver[Steps]):
    """Steps of H, then of W, down the gradient and back onto the constraint.

    With g the gradient and m a bound of the curvature, a step goes to `P(x - t g / m)`, where P
    is the nearest point with `x >= 0` and, where there is a sum, on the simplex; there m is the
    largest of the sum. t is halved and more until the objective falls by `1e-4 |g·(x - P)|`
    (Armijo's rule along the projection arc; Bertsekas, IEEE Trans. Autom. Control 21 (1976) 174),
    pixel by pixel for H. Unlike with multiplicative updates, entries reach zero and leave it.
    """

    def init(self, problem, weights, abundances):
        return Steps.start(weights, abundances)

    def step(self, problem, weights, abundances, state):
        return alternate(problem, weights, abundances, state, _improve)


def _improve(block, step):
    gradient = block.gradient()
    metric = block.curvature + block.quadratic
    shared = jnp.where(block.summed, metric, 0.0).max(0)
    metric = jnp.where(block.summed, shared[None], metric)

    def propose(step):
        return _projected(block, block.current - step[None] * gradient / metric)

    def ceiling(new, step):
        return ARMIJO * block.total(gradient * (new - block.current))

    return search(block, step, propose, ceiling)


def _projected(block: Block, entries: Entries) -> Entries:
    """`argmin sum((x - entries)²)` over the non-negative x with the sums of the block."""
    from optax.projections import projection_simplex  # all of Optax, only where it is needed

    largest = jnp.where(block.summed, entries, -jnp.inf).max(0)
    some = jnp.isfinite(largest) & (block.budget > 0)
    # the projection does not depend on what all entries have in common
    centred = entries - jnp.where(some, largest, 0.0)[None]
    on_simplex = jax.vmap(projection_simplex, (1, 0), 1)(
        jnp.where(block.summed, centred, -jnp.inf), jnp.where(some, block.budget, 1.0)
    )
    on_simplex = jnp.where(some[None], on_simplex, 0.0)
    return jnp.where(block.summed, on_simplex, jnp.maximum(entries, 0.0))
