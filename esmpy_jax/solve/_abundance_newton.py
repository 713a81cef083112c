"""Newton's method for the abundances with W held."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import Abundances, Endmembers, Scalar
from ..objective import SumToOneAbundances, exposure_or_one, pixel_excess
from ._pixel_quadratics import bounded_minimum, product, projected_inverse, symmetric
from ._solver import AbstractSolver, Problem

#: Lengths of a step of coupled pixels, each a quarter of the one before, that are tried before
#: every pixel makes its own step.
_LENGTHS = 5


class LocalModel(eqx.Module):
    """The objective around the abundances of each pixel, as `g'd + d'A d / 2`."""

    gradient: Float[Array, "phase pixel"]
    matrix: Float[Array, "phase phase pixel"]
    free: Bool[Array, "phase pixel"]
    summed: bool = eqx.field(static=True)

    def minimum(self, abundances: Abundances) -> Abundances:
        """The abundances that minimise the model with all bounds and sums kept."""
        return bounded_minimum(self.matrix, self.gradient, abundances, self.free, self.summed)

    def decrease(self, change: Float[Array, "phase pixel"]) -> Float[Array, " pixel"]:
        """By how much a change lowers the model, in nats."""
        return -(change * (self.gradient + 0.5 * product(self.matrix, change))).sum(0)

    def floored(
        self,
        abundances: Abundances,
        change: Float[Array, "phase pixel"],
        to_zero: Bool[Array, "phase pixel"] | bool = False,
    ) -> Abundances:
        """`abundances + change`, sums kept; entries lose at most nine tenths, or all `to_zero`."""
        floor = jnp.where(to_zero, 0.0, 0.1 * abundances)
        new = jnp.maximum(abundances + change, floor)
        new = jnp.where(self.free, new, abundances)
        if not self.summed:
            return new
        budget, total = (jnp.where(self.free, x, 0.0).sum(0) for x in (abundances, new))
        scale = budget / jnp.where(total > 0, total, 1.0)
        return jnp.where(self.free, new * scale[None, :], new)


def local_model(
    problem: Problem, endmembers: Endmembers, abundances: Abundances
) -> tuple[LocalModel, Float[Array, "pair pixel"]]:
    """Exact gradient, and curvature of the likelihood plus that of the regulariser's surrogate.

    Also the curvature of the likelihood alone, as its pairs.
    """
    counts, regulariser = problem.counts, problem.regulariser
    exposure = exposure_or_one(counts)
    of_counts, second = counts.pixel_moments(endmembers, abundances, exposure)
    maps = abundances.reshape(-1, *counts.scan_shape)
    bound = regulariser.surrogate(maps)[0].reshape(abundances.shape)
    slope = regulariser.gradient(maps).reshape(abundances.shape)
    fixed, summed = problem.fixed_abundances, isinstance(problem.constraint, SumToOneAbundances)
    free = jnp.ones(abundances.shape, bool) if fixed is None else ~fixed.mask
    if summed:  # a pixel without counts says nothing of its shares: it keeps them
        free = free & ((second.sum(0) + bound.sum(0)) > 0)[None, :]
    model = LocalModel(
        of_counts + slope,
        symmetric(second, bound),
        free,
        summed,
    )
    return model, second


class Seen(eqx.Module):
    """The objective in its parts, of which differences are taken before sums."""

    excess: Float[Array, " pixel"]
    penalty: Scalar


class Known(eqx.Module):
    """What is seen, if that is true."""

    seen: Seen
    true: Bool[Array, ""]


def unknown(abundances: Abundances) -> Known:
    """Nothing seen yet."""
    none = Seen(jnp.zeros_like(abundances[0]), jnp.zeros((), abundances.dtype))
    return Known(none, jnp.zeros((), bool))


def look(problem: Problem, endmembers: Endmembers, abundances: Abundances) -> Seen:
    """The objective at given abundances."""
    excess = pixel_excess(problem.counts, endmembers, abundances)
    return Seen(excess, problem.penalty(abundances))


def settled_abundances(
    problem: Problem, endmembers: Endmembers, abundances: Abundances, steps: int
) -> tuple[Abundances, LocalModel, Abundances]:
    """The abundances after several steps, the local model there, and its minimum.

    One body for all, so that the model is compiled once.
    """

    def body(i, carry):
        abundances = carry[0]
        model, second = local_model(problem, endmembers, abundances)
        best = model.minimum(abundances)
        abundances = jax.lax.cond(
            i < steps,
            lambda: _moved(problem, endmembers, abundances, model, second, best)[0],
            lambda: abundances,
        )
        return abundances, model, best

    return jax.lax.fori_loop(
        0, steps + 1, body, (abundances, unknown_model(problem, abundances), abundances)
    )


def unknown_model(problem: Problem, abundances: Abundances) -> LocalModel:
    """A model that says nothing, in the place of one that is still to be made."""
    n = len(abundances)
    return LocalModel(
        jnp.zeros_like(abundances),
        jnp.zeros((n, *abundances.shape), abundances.dtype),
        jnp.zeros(abundances.shape, bool),
        isinstance(problem.constraint, SumToOneAbundances),
    )


def _moved(problem, endmembers, abundances, model, second, best, known=None):
    """A step that lowers the objective, the decrease that it predicted, and what is seen after it.

    The step d to `best` minimises the local model of each pixel. With tau the largest share by
    which it lowers the model of any count, the likelihood along d is bounded by its
    self-concordance: the whole step is safe where tau <= 1/2 and `1 / (1 + tau)` of it elsewhere,
    so that no line search is needed. (-log(1 + u) + u <= 0.78 u² for u >= -1/2, and d'A d <= -g'd
    at the minimum of the model.) Pixels that a penalty couples are better moved together: what is
    seen is `Known` only of such steps, before them, too, if given.
    """
    change = best - abundances
    tau = problem.counts.steepest_drop(endmembers, abundances, change)
    share = jnp.where(tau <= 0.5, 1.0, 1.0 / (1.0 + tau))[None, :]
    safe = jnp.where(share == 1, best, abundances + share * change)
    if not problem.regulariser.couples_curvature:
        return safe, model.decrease(change).sum(), None
    together, predicted = _conjugate_gradients(problem, abundances, model, second, best)

    def shorter(state):
        i, _, before, _, _ = state
        maps = model.floored(abundances, 0.25**i * together, best <= 0)
        maps = jnp.where(i < _LENGTHS, maps, safe)
        maps = jnp.where(i < 0, abundances, maps)
        new = look(problem, endmembers, maps)
        before = jax.tree.map(lambda x, y: jnp.where(i < 0, x, y), new, before)
        won = (before.excess - new.excess).sum() + (before.penalty - new.penalty)
        return i + 1, maps, before, new, won

    known = unknown(abundances) if known is None else known
    first = jnp.where(known.true, 0, -1)  # one body for all looks, so that it is compiled once
    start = first, abundances, known.seen, known.seen, jnp.zeros_like(known.seen.penalty)
    _, maps, _, after, _ = jax.lax.while_loop(
        lambda s: ~(s[4] > 0) & (s[0] <= _LENGTHS), shorter, start
    )
    return maps, predicted, Known(after, jnp.ones((), bool))


def _conjugate_gradients(problem, abundances, model, second, best, steps=15):
    """Minimise `g'd + d'(A + B)d / 2` over the entries that the separable step leaves positive.

    B couples the pixels. Conjugate gradients, preconditioned and projected by each pixel's own
    block with half the surrogate's curvature (Gould, Hribar & Nocedal, SIAM J. Sci. Comput. 23
    (2001) 1376), from the separable step. As there, residuals lose what the projection takes off
    them anyway: the prices of the sums, whose rounding would otherwise grow from step to step.
    """
    regulariser, shape = problem.regulariser, (-1, *problem.counts.scan_shape)
    maps = abundances.reshape(shape)
    bound = regulariser.surrogate(maps)[0].reshape(abundances.shape)
    inside = model.free & (best > 0)
    inverse = projected_inverse(symmetric(second, 0.5 * bound), inside, model.summed)
    alone = symmetric(second, jnp.zeros_like(abundances))
    # everything in the shape of the scan and phase by phase, which a CPU takes several times faster
    alone, inverse = (x.reshape(*x.shape[:2], *maps.shape[1:]) for x in (alone, inverse))
    inside, slope, best = (x.reshape(shape) for x in (inside, model.gradient, best))
    coupled = regulariser.local_curvature(maps)
    many = jnp.maximum(sum(i.astype(maps.dtype) for i in inside), 1.0)

    def within(residual):
        rows = [jnp.where(i, r, 0.0) for i, r in zip(inside, residual, strict=True)]
        if model.summed:
            price = sum(rows) / many
            rows = [jnp.where(i, r - price, 0.0) for i, r in zip(inside, rows, strict=True)]
        return jnp.stack(rows)

    def curved(d):
        rows = zip(product(alone, d), coupled(d), strict=True)
        return jnp.stack([a + b for a, b in rows])

    def dot(a, b):
        return (a * b).sum()

    def body(state):
        d, bent, r, p, rz, first, i = state
        begins = i == 0  # with the separable step, so that everything is compiled once
        q = curved(p)
        alpha = jnp.where(begins, 1.0, rz / jnp.maximum(dot(p, q), jnp.finfo(d.dtype).tiny))
        d, bent, r = d + alpha * p, bent + alpha * q, within(r - alpha * q)
        z = product(inverse, r)
        new = dot(r, z)
        p = z + jnp.where(begins, 0.0, new / rz) * p
        return d, bent, r, p, new, jnp.where(begins, new, first), i + 1

    def goes_on(state):
        *_, rz, first, i = state
        return (i == 0) | ((i <= steps) & (rz > 1e-6 * first) & (rz > 0))

    none, one = jnp.zeros_like(maps), jnp.ones((), maps.dtype)
    begin = none, none, within(-slope), best - maps, one, one, jnp.array(0)
    d, bent, *_ = jax.lax.while_loop(goes_on, body, begin)
    return d.reshape(abundances.shape), -dot(d, slope + 0.5 * bent)


class _State(eqx.Module):
    predicted: Scalar  # nats, by the model of the last step
    remaining: Scalar  # nats
    known: Known | None  # at the current abundances, where pixels are coupled


class AbundanceNewton(AbstractSolver[_State]):
    """Newton steps on H with W held: a handful where the multiplicative update needs hundreds.

    Every pixel has its own small quadratic problem with bounds and sum. A regulariser that couples
    pixels is handled by conjugate gradients over the whole map; one that does not enters by its
    separable surrogate. No step raises the objective.
    """

    holds_weights = True
    check_every = 1

    def init(self, problem, weights, abundances):
        infinite = jnp.full((), jnp.inf, abundances.dtype)
        coupled = problem.regulariser.couples_curvature
        return _State(infinite, infinite, unknown(abundances) if coupled else None)

    def step(self, problem, weights, abundances, state):
        endmembers = problem.basis.endmembers(weights)
        model, second = local_model(problem, endmembers, abundances)
        best = model.minimum(abundances)
        abundances, predicted, known = _moved(
            problem, endmembers, abundances, model, second, best, state.known
        )
        remaining = series_limit(predicted, predicted, state.predicted)
        if not problem.regulariser.is_convex:  # there are shoulders: two steps have to agree
            remaining = jnp.maximum(remaining, state.predicted)
        return weights, abundances, _State(predicted, remaining, known)

    def predicted_decrease(self, state):
        return state.remaining

    def excess(self, problem, weights, abundances, state):
        look = super().excess
        if state.known is None:
            return look(problem, weights, abundances, state)
        seen = state.known.seen
        return jax.lax.cond(
            state.known.true,
            lambda: (seen.excess, seen.penalty),
            lambda: look(problem, weights, abundances, state),
        )


def series_limit(predicted: Scalar, last: Scalar, before: Scalar, slowest: float = 0.99) -> Scalar:
    """Nats that are left: the prediction, or more if the steps so far form a slow series.

    Steps of a majorised objective converge linearly and each predicts only its own part; with the
    ratio r of the last two, at most `slowest`, the rest of a geometric series is
    `last r / (1 - r)`.
    """
    ratio = jnp.clip(last / jnp.maximum(before, jnp.finfo(last.dtype).tiny), 0.0, slowest)
    return jnp.maximum(predicted, last * ratio / (1 - ratio))


def second_opinion(believed: Scalar, won: Scalar, believed_before: Scalar, won_before: Scalar):
    """Nats that are left after a step, from what the last two steps believed and won.

    On a shoulder or near a saddle a model promises little although much is left. So both have to
    promise little, a step that wins more than it promised is believed instead, and wins that grow
    or hardly shrink are taken for a series.
    """
    limit = series_limit(believed, won, won_before, slowest=0.9)
    surprise = jnp.where(won > 1.5 * believed, won, 0.0)
    return jnp.maximum(jnp.maximum(limit, surprise), believed_before)
