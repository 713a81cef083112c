"""What solvers share: plain steps of a `Problem`, momentum, and by how much the objective falls."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Abundances, Scalar, Weights
from ._solver import Problem
from ._updates import update_abundances, update_weights


def step_abundances(problem: Problem, weights: Weights, abundances: Abundances) -> Abundances:
    """`update_abundances` with everything the problem asks for."""
    return update_abundances(
        problem.counts,
        problem.basis,
        weights,
        abundances,
        constraint=problem.constraint,
        regulariser=problem.regulariser,
        fixed=problem.fixed_abundances,
    )


def step_weights(problem: Problem, weights: Weights, abundances: Abundances) -> Weights:
    """`update_weights` with everything the problem asks for."""
    return update_weights(
        problem.counts,
        problem.basis,
        weights,
        abundances,
        constraint=problem.constraint,
        fixed=problem.fixed_weights,
    )


def next_inertia(inertia: Scalar) -> tuple[Scalar, Scalar]:
    """Nesterov's `t_next = (1 + sqrt(1 + 4 t²)) / 2`, and `(t - 1) / t_next`; t starts at 1."""
    following = 0.5 * (1 + jnp.sqrt(1 + 4 * inertia**2))
    return following, (inertia - 1) / following


def lifted(
    entries: Float[Array, "row column"], previous: Float[Array, "row column"], share: Scalar
) -> Float[Array, "row column"]:
    """`x + share (x - x_previous)+`: entries that grow are moved on, no other is touched."""
    return entries + share * jnp.maximum(entries - previous, 0.0)


class Objective(eqx.Module):
    """The objective at one point, in parts that can be compared without loss in float32."""

    excess: Float[Array, " pixel"]
    penalty: Scalar

    @classmethod
    def at(cls, problem: Problem, weights: Weights, abundances: Abundances) -> "Objective":
        """The objective of W and H."""
        return cls(problem.excess(weights, abundances), problem.penalty(abundances))

    def decrease_to(self, other: "Objective") -> Scalar:
        """By how many nats `other` is lower; differences of pixels come before the sum."""
        return (self.excess - other.excess).sum() + (self.penalty - other.penalty)
