"""One factor with the other held, and the line search that the first-order solvers share.

Pixels do not share entries of H, so each has its own step there; W has one. A regulariser that
ties pixels together is replaced by its separable surrogate, and a step that does not raise the
bound of its own pixel cannot raise the objective.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import Abundances, Weights
from ..objective import SumToOneAbundances, SumToOneWeights, exposure_or_one
from ._solver import Problem

#: What a step that was taken at once is multiplied by for the next time, and one that was not.
GROW, SHRINK = 1.5, 0.3

#: Steps tried before an entry stays where it is; the next time goes on from the last one tried.
TRIALS = 5

#: Bounds of the steps, as multiples of what the local curvature suggests.
SHORTEST, LONGEST = 1e-4, 1e4

Entries = Float[Array, "entry item"]
Search = Float[Array, " search"]


class Steps(eqx.Module):
    """Where the line searches of H (pixel by pixel) and of W begin."""

    abundances: Float[Array, " pixel"]
    weights: Float[Array, " 1"]

    @classmethod
    def start(cls, weights: Weights, abundances: Abundances) -> "Steps":
        return cls(jnp.ones_like(abundances[0]), jnp.ones_like(weights[0, :1]))


class Block(eqx.Module):
    """One factor x, of shape (entry, item), in the objective; the other factor is held.

    The objective is bounded above by the NLL plus `sum(quadratic x² / 2 + linear x)`, the
    surrogate of the regulariser. `search` is one index for each item, or 1 where all share a step.

    - `rising`, `falling`: the gradient of the NLL is `rising - falling`, both non-negative.
    - `curvature`: a diagonal matrix above the Hessian of the NLL at `current`.
    - `free`: entries that may move. `summed`: those of them that sum to `budget` in their item.
    - `losses`: the NLL of each pixel for other entries.
    - `separate`: whether each item has its own step.
    """

    current: Entries
    rising: Entries
    falling: Entries
    curvature: Entries
    quadratic: Entries
    linear: Entries
    free: Bool[Array, "entry item"]
    summed: Bool[Array, "entry item"]
    budget: Float[Array, " item"]
    losses: Callable
    separate: bool = eqx.field(static=True)

    def gradient(self) -> Entries:
        """The gradient of the bound where entries are free, without its mean over a sum.

        What all entries of a sum have in common moves nothing, and would drown the rest.
        """
        penalty = self.quadratic * self.current + self.linear
        gradient = jnp.where(self.free, self.rising - self.falling + penalty, 0.0)
        shares = jnp.where(self.summed, self.current, 0.0)
        total = shares.sum(0)
        mean = (shares * gradient).sum(0) / jnp.where(total > 0, total, 1.0)
        return jnp.where(self.summed, gradient - mean[None], gradient)

    def total(self, terms: Entries) -> Search:
        """Terms added up over everything that shares a step."""
        return terms.sum(0) if self.separate else terms.sum()[None]

    def kept(self, new: Entries) -> Entries:
        """`new` where entries are free."""
        return jnp.where(self.free, new, self.current)

    def rise(self) -> Callable[[Entries], Search]:
        """A function: by how much other entries raise the bound."""
        before = self.losses(self.current)

        def rise(new):
            # differences before sums: float32 stays honest
            change = self.losses(new) - before
            mean = 0.5 * (new + self.current)
            penalty = (new - self.current) * (self.quadratic * mean + self.linear)
            return (change if self.separate else change.sum()[None]) + self.total(penalty)

        return rise


def abundance_block(problem: Problem, weights: Weights, abundances: Abundances) -> Block:
    """H with W held."""
    counts = problem.counts
    endmembers = problem.basis.endmembers(weights)
    maps = abundances.reshape(-1, *counts.scan_shape)
    quadratic, linear = problem.regulariser.surrogate(maps)
    fixed, shape = problem.fixed_abundances, abundances.shape
    return _block(
        abundances,
        endmembers.sum(0)[:, None] * exposure_or_one(counts),
        lambda h: counts.pixel_pass(endmembers, h),
        quadratic.reshape(shape),
        linear.reshape(shape),
        fixed,
        jnp.full(shape, isinstance(problem.constraint, SumToOneAbundances)),
        lambda h: problem.excess(weights, h),
        separate=True,
    )


def weight_block(problem: Problem, weights: Weights, abundances: Abundances) -> Block:
    """W with H held."""
    counts, basis = problem.counts, problem.basis
    dose = (abundances * exposure_or_one(counts)).sum(1)
    rows = jnp.asarray(basis.composition_rows)[:, None]
    summed = rows & isinstance(problem.constraint, SumToOneWeights)
    return _block(
        weights,
        jnp.broadcast_to(basis.column_sums * dose[None, :], weights.shape),
        lambda w: basis.back_project(counts.channel_pass(basis.endmembers(w), abundances)),
        jnp.zeros_like(weights),
        jnp.zeros_like(weights),
        problem.fixed_weights,
        jnp.broadcast_to(summed, weights.shape),
        lambda w: problem.excess(w, abundances),
        separate=False,
    )


def _block(current, rising, falling, quadratic, linear, fixed, summed, losses, *, separate):
    known = jnp.zeros(current.shape, bool) if fixed is None else fixed.mask
    spent = jnp.where(summed & known, current, 0.0).sum(0)
    down, curvature = _falling_and_curvature(current, rising, falling, ~known)
    return Block(
        current,
        rising,
        down,
        curvature,
        quadratic,
        linear,
        ~known,
        summed & ~known,
        jnp.maximum(1 - spent, 0.0),
        losses,
        separate,
    )


def _falling_and_curvature(current, rising, falling, free):
    """`falling(current)` and a diagonal matrix above the Hessian Q of the NLL.

    Q has no negative entries, so `diag((Q v) / v)` is above it for every positive v (the bound of
    Gershgorin after scaling by v). The best v is near the current entries; a tenth of an even
    share of the counts is added, so that an entry at zero can leave it. Entries that meet few
    counts have little curvature and would jump: they get a tenth of what they would have in a fit.
    """
    dtype = current.dtype
    small, large = jnp.finfo(dtype).tiny ** 0.5, jnp.finfo(dtype).max ** 0.5
    even = (rising * current).sum(0, keepdims=True) / len(current)
    even = jnp.where(rising > 0, even / jnp.where(rising > 0, rising, 1.0), 0.0)
    reach = jnp.maximum(current + 0.1 * even, small)
    down, change = jax.jvp(falling, (current,), (jnp.where(free, reach, 0.0),))
    curvature = jnp.maximum(-change, 0.1 * rising) / reach
    curvature = jnp.nan_to_num(curvature, nan=large, posinf=large)
    return down, jnp.clip(curvature, small, large)


def search(
    block: Block,
    step: Search,
    propose: Callable[[Search], Entries],
    ceiling: Callable[[Entries, Search], Search],
) -> tuple[Entries, Search]:
    """The first entries `propose(step)` that raise the bound by `ceiling(new, step)` at most.

    Steps shrink until that holds, at most `TRIALS` times, after which the current entries stay.
    Nothing above zero is let through. Also returns where the next search begins.
    """
    rise = block.rise()

    def trial(state):
        best, step, pending, i = state
        new = block.kept(propose(step))
        good = rise(new) <= jnp.minimum(ceiling(new, step), 0.0)
        best = jnp.where((pending & good)[None], new, best)
        pending = pending & ~good
        return best, jnp.where(pending, step * SHRINK, step), pending, i + 1

    def go_on(state):
        return state[2].any() & (state[3] < TRIALS)

    pending = jnp.ones(step.shape, bool)
    best, last, _, _ = jax.lax.while_loop(
        go_on, trial, (block.current, step, pending, jnp.array(0))
    )
    following = jnp.where(last == step, step * GROW, last)
    return best, jnp.clip(following, SHORTEST, LONGEST)


def alternate(
    problem: Problem,
    weights: Weights,
    abundances: Abundances,
    steps: Steps,
    improve: Callable[[Block, Search], tuple[Entries, Search]],
) -> tuple[Weights, Abundances, Steps]:
    """`improve` H, then W."""
    abundances, of_h = improve(abundance_block(problem, weights, abundances), steps.abundances)
    weights, of_w = improve(weight_block(problem, weights, abundances), steps.weights)
    return weights, abundances, Steps(of_h, of_w)
