"""Constraints on W and H, and the multiplier that enforces a sum."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._arrays import as_floats
from .._checks import check


class AbstractConstraint(eqx.Module):
    """Which of the scale-fixing equalities holds; all entries are non-negative in any case."""


class Unconstrained(AbstractConstraint):
    """Non-negativity only."""


def _brightness(value):
    if value is None or isinstance(value, jax.Array):
        return value
    try:
        known = np.asarray(value, float)
    except (TypeError, ValueError):
        known = None
    check(
        known is not None,
        f"The brightness of SumToOneAbundances is {value!r}; give counts, one number or one for "
        "each phase.",
    )
    return as_floats(known)


class SumToOneAbundances(AbstractConstraint):
    """`sum_a H[a, p] = 1` in every pixel; W carries the counts.

    - `brightness`: counts that each phase makes where it is alone at exposure one,
        `sum_cj G[c, j] W[j, a]`: one number for all or one for each, all positive; `None` leaves
        them free. Multiplicative updates and `VariableProjectionNewton` keep it, by scaling the
        free entries of W.
    """

    brightness: Float[Array, ""] | Float[Array, " phase"] | None = eqx.field(
        default=None, converter=_brightness
    )


def brightness_of_each(constraint: AbstractConstraint) -> Float[Array, " phase"] | None:
    """The brightness of a constraint that has one for each phase."""
    bright = constraint.brightness if isinstance(constraint, SumToOneAbundances) else None
    return None if bright is None or bright.ndim == 0 else bright


class SumToOneShares(AbstractConstraint):
    """`sum_a H[a, p] = 1` with each pixel as bright as its own counts.

    The exposure of a pixel is its counts over their mean, so thickness and dose may vary over the
    image; what is left is the multinomial likelihood of the shares. Every phase then makes the mean
    count where it is alone: were it free, a phase that is nowhere alone could become brighter and
    rarer for nothing, and leave every penalty on its shares behind.
    """


class SumToOneWeights(AbstractConstraint):
    """`sum_j W[j, a] = 1` over the composition rows of every phase; H carries the counts."""


def positive_root(
    quadratic: Float[Array, "*shape"],
    linear: Float[Array, "*shape"],
    constant: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """The x >= 0 with `a x² + b x - c = 0` for a, c >= 0, without cancellation or overflow.

    It minimises `a x² / 2 + b x - c log x`. With a = 0 it is c / b, which asks for b > 0.
    """
    return _root_and_spread(quadratic, linear, constant, _twice_mean(quadratic, constant))[0]


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
    moves any more. An entry with neither count nor curvature (a = 0 and c = 0, or a c that is too
    small to divide by) costs b per unit: where the others leave a part of the budget at nu = -b,
    the cheapest such entry that is not zero already takes it. Where all free entries are of this
    kind the item has seen no counts, and `current` is kept.
    """
    small, lowest = jnp.finfo(linear.dtype).tiny, jnp.finfo(linear.dtype).min
    budget = jnp.maximum(budget, 0.0)
    target = jnp.maximum(budget, small)[None]
    alive = free & ((constant > small * 2.0**30) | (quadratic > 0))  # less is as good as nothing
    some = _over(jnp.logical_or, alive) & (budget > 0)
    twice_mean = _twice_mean(quadratic, constant)

    # What counts is b + nu, which would drown in the rounding of b: nu is measured from -b of the
    # entry that by itself comes closest to filling the budget (found again with the better zero).
    at_one = constant / target - quadratic * target  # b + nu at which the entry alone fills it

    def nearest(_, base):
        first = jnp.where(alive, at_one - (linear - base[None]), lowest).argmax(0)
        return jnp.take_along_axis(linear, first[None], 0)[0]

    base = jax.lax.fori_loop(0, 2, nearest, jnp.zeros_like(budget))
    shifted = linear - base[None]
    start = jnp.where(some, _over(jnp.maximum, jnp.where(alive, at_one - shifted, lowest)), 0.0)

    # entries without count and curvature: what the others leave at nu = -b of the cheapest
    idle = free & ~alive & (current > 0)
    cheapest = _over(jnp.minimum, jnp.where(idle, linear, -lowest))
    above = linear - cheapest[None]
    beside, _ = _root_and_spread(quadratic, above, constant, twice_mean)
    beside = jnp.where(alive & (quadratic <= 0) & (above <= 0), jnp.inf, beside)
    beside = jnp.where(alive, beside, 0.0)
    left = budget - _over(jnp.add, beside)
    rests = some & _over(jnp.logical_or, idle) & (left > 0)

    # without curvature 1 / sum is concave, and Newton's method on it is faster and still monotone
    flat = _over(jnp.logical_and, ~alive | (quadratic <= 0))
    eps = jnp.finfo(linear.dtype).eps

    def body(state):
        nu, _, _, i = state
        x, spread = _root_and_spread(quadratic, shifted + nu[None], constant, twice_mean)
        x = jnp.where(alive, jnp.minimum(x, target), 0.0)  # right of the start none is above it
        total = _over(jnp.add, x)
        falls = jnp.where(alive, x / jnp.maximum(spread, small), 0.0)  # -dx / d nu
        slope = _over(jnp.add, falls)
        step = (total - budget) / jnp.maximum(slope, small)
        step = jnp.where(flat, step * (total / target[0]), step)
        # at least to the next number, so that rounding cannot hold nu left of a pole
        new = jnp.maximum(nu + step, nu + jnp.abs(nu) * eps + small)
        moving = some & ~rests & (total > budget * (1 + 4 * eps))
        return jnp.where(moving, new, nu), x, moving.any(), i + 1

    begin = start, jnp.zeros_like(linear), jnp.array(True), jnp.array(0)
    _, x, _, _ = jax.lax.while_loop(lambda s: s[2] & (s[3] < 200), body, begin)
    cheap = jnp.where(idle & (linear == cheapest[None]), current, 0.0)
    x = jnp.where(rests[None], beside + _scaled_to(cheap, jnp.where(rests, left, 0.0)), x)
    keep = jnp.where(free, current, 0.0)
    keep = jnp.where(_over(jnp.logical_or, keep > 0)[None], keep, free.astype(keep.dtype))
    return _scaled_to(jnp.where(some[None], x, keep), budget)


def _twice_mean(quadratic, constant):
    """`2 sqrt(a c)`, with derivatives that stay finite at zero."""
    both = (quadratic > 0) & (constant > 0)
    roots = [jnp.sqrt(jnp.where(both, x, 1.0)) for x in (quadratic, constant)]
    return jnp.where(both, 2 * roots[0] * roots[1], 0.0)


def _root_and_spread(quadratic, linear, constant, twice_mean):
    """The positive root and `sqrt(b² + 4 a c)`, of which -x / spread is the root's slope in b."""
    small = jnp.finfo(linear.dtype).tiny
    spread = jnp.hypot(linear, twice_mean)
    above = constant / jnp.maximum(0.5 * (linear + spread), small)
    below = (spread - linear) / jnp.maximum(2 * quadratic, small)
    return jnp.where((linear > 0) | (quadratic <= 0), above, below), spread


def _scaled_to(entries, total):
    """Entries scaled along axis 0 to sum to `total`; zeros stay zeros."""
    sums = _over(jnp.add, entries)
    return entries * (total / jnp.where(sums > 0, sums, 1.0))[None]


#: Entries up to which they are joined one after the other.
_FEW = 16


def _over(join, entries):
    """`entries` joined along axis 0.

    Few long rows, such as the phases of all pixels, one after the other: a CPU then makes this a
    part of the loop around, instead of one of its own.
    """
    if len(entries) > _FEW:
        return join.reduce(entries, axis=0)
    return functools.reduce(join, list(entries))
