"""Constraints on W and H, and the multiplier that enforces a sum."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class AbstractConstraint(eqx.Module):
    """Which of the scale-fixing equalities holds; all entries are non-negative in any case."""


class Unconstrained(AbstractConstraint):
    """Non-negativity only."""


class SumToOneAbundances(AbstractConstraint):
    """`sum_a H[a, p] = 1` in every pixel; W carries the counts."""


class SumToOneWeights(AbstractConstraint):
    """`sum_j W[j, a] = 1` over the composition rows of every phase; H carries the counts."""


def positive_root(
    quadratic: Float[Array, "*shape"],
    linear: Float[Array, "*shape"],
    constant: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """The x >= 0 with `a x² + b x - c = 0` for a, c >= 0, without cancellation.

    It minimises `a x² / 2 + b x - c log x`. With a = 0 it is c / b.
    """
    discriminant = linear**2 + 4 * quadratic * constant
    root = jnp.sqrt(jnp.where(discriminant > 0, discriminant, 1.0))
    root = jnp.where(discriminant > 0, root, 0.0)
    small = jnp.finfo(root.dtype).tiny
    above = 2 * constant / jnp.maximum(linear + root, small)
    below = (root - linear) / jnp.maximum(2 * quadratic, small)
    return jnp.where((linear > 0) | (quadratic <= 0), above, below)


def sum_constrained_root(
    quadratic: Float[Array, "entry *item"],
    linear: Float[Array, "entry *item"],
    constant: Float[Array, "entry *item"],
    budget: Float[Array, "*item"],
    free: Bool[Array, "entry *item"],
    current: Float[Array, "entry *item"],
) -> Float[Array, "entry *item"]:
    """The minimiser of `sum(a x² / 2 + b x - c log x)` subject to `sum(x) = budget`.

    x(nu) is the positive root with b + nu in place of b, and nu solves `sum x(nu) = budget` over
    the free entries (axis 0), item by item. The sum is convex and decreasing in nu and the start
    lies left of the root, so Newton's method climbs to it monotonically; it stops when no item
    moves any more. Where no free entry has a count or a curvature, nothing depends on the split
    and `current` is kept.
    """
    weight = free.astype(linear.dtype)
    alive = free & ((constant > 0) | (quadratic > 0))
    budget = jnp.maximum(budget, 0.0)
    target = jnp.maximum(budget, jnp.finfo(linear.dtype).tiny)[None]
    # at nu = at_one entry k alone fills the budget
    at_one = constant / target - quadratic * target - linear
    lowest = jnp.finfo(linear.dtype).min
    start = jnp.where(alive, at_one, lowest).max(0)
    some = alive.any(0) & (budget > 0)
    start = jnp.where(some, start, 0.0)

    def roots(nu):
        x = positive_root(quadratic, linear + nu[None], constant)
        return jnp.where(alive, x, 0.0)

    def slopes(nu, x):
        # dx/dnu = -x / (2 a x + b + nu); for the root the denominator is sqrt(discriminant)
        return x / jnp.maximum(2 * quadratic * x + linear + nu[None], jnp.finfo(x.dtype).tiny)

    def body(state):
        nu, _, i = state
        x = roots(nu)
        excess = x.sum(0) - budget
        new = nu + jnp.maximum(excess, 0.0) / jnp.maximum(
            slopes(nu, x).sum(0), jnp.finfo(x.dtype).tiny
        )
        moving = some & (excess > 4 * jnp.finfo(x.dtype).eps * budget) & (new > nu)
        return jnp.where(moving, new, nu), moving.any(), i + 1

    nu, _, _ = jax.lax.while_loop(
        lambda s: s[1] & (s[2] < 200), body, (start, jnp.array(True), jnp.array(0))
    )
    x = roots(nu)
    total = x.sum(0)
    x = x * (budget / jnp.where(total > 0, total, 1.0))[None]
    keep = weight * current
    keep = keep * (budget / jnp.maximum(keep.sum(0), jnp.finfo(keep.dtype).tiny))[None]
    return jnp.where(some[None], x, keep)
