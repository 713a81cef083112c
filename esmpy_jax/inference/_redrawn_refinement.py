"""Spectra drawn from the mean of a refinement, and W and u found again for each."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from .._arrays import as_floats, as_ints, on_device
from .._types import Scalar, Weights
from ..objective import exposure_or_one
from ._bounded import Curvature, bounded_step, curvature_of, promised
from ._fisher import NOTHING
from ._refinement import End
from ._tangents import Parametrised, Tangents, tangents

#: First damping after a step that failed, relative to the curvature of each unknown.
_DAMPING = 1e-3

#: Least expected counts that are divided by.
_TINY = 1e-30


class Redrawn(NamedTuple):
    """W and the moved coordinates of each draw, and nats that its search still promised."""

    weights: Float[Array, "draw column phase"]
    coordinates: Float[Array, "draw moved"]
    remaining: Float[Array, " draw"]


class _Problem(eqx.Module):
    """What all draws have in common.

    - `size`: by which unknowns (W in row-major order, then the moved u) are multiplied, so that the
        curvature of the refinement has ones on its diagonal; `told`: where it has any.
    - `rescaled`: whether amounts follow the counts of each pool.
    """

    parametrised: Parametrised
    coordinates: Float[Array, " parameter"]
    weights: Weights
    amounts: Float[Array, "phase pool"]
    size: Float[Array, " unknown"]
    told: Bool[Array, " unknown"]
    moved: tuple[int, ...] = eqx.field(static=True)
    rescaled: bool = eqx.field(static=True)

    def start(self) -> Float[Array, " unknown"]:
        """W and the moved u of the refinement."""
        own = jnp.concatenate([self.weights.ravel(), self.coordinates[np.array(self.moved)]])
        return own * self.size

    def split(self, unknowns: Float[Array, " unknown"]) -> tuple[Weights, Float[Array, " moved"]]:
        """W and the moved u in their own units."""
        values, n = unknowns / self.size, self.weights.size
        return values[:n].reshape(self.weights.shape), values[n:]

    def tangents(self, unknowns: Float[Array, " unknown"]) -> Tangents:
        """D and its derivatives by the unknowns."""
        weights, moved = self.split(unknowns)
        at = self.coordinates.at[np.array(self.moved)].set(moved)
        found = tangents(self.parametrised, at, weights, self.moved)
        n = weights.size
        of_weights = self.size[:n].reshape(weights.shape).T[:, None, :]
        return Tangents(
            found.endmembers,
            found.weights / of_weights,
            found.parameters / self.size[None, None, n:],
        )


class _Draw(eqx.Module):
    """One draw: its counts, its amounts, and the centre of the priors."""

    counts: Float[Array, "channel pool"]
    amounts: Float[Array, "phase pool"]
    centre: Float[Array, " moved"]


class _Local(eqx.Module):
    """Expected counts at a point, slope and curvature of the loss, and the step they ask for."""

    mean: Float[Array, "channel pool"]
    slope: Float[Array, " unknown"]
    curvature: Curvature
    step: Float[Array, " unknown"]  # undamped
    held: Bool[Array, " bounded"]  # by the bounds, in that step
    remaining: Scalar  # what it promises
    good: Bool[Array, ""]  # whether D is what spectra can be


class _State(eqx.Module):
    unknowns: Float[Array, " unknown"]
    local: _Local
    damping: Scalar
    number: Int[Array, ""]


def redraw_refinement(
    end: End,
    keys: Key[Array, " draw"],
    *,
    rescaled: bool,
    max_steps: int,
    tol: float,
    memory_gb: float,
    batch_size: int | None,
) -> Redrawn:
    """W and u of each draw, by damped Fisher scoring from those of the refinement.

    D and its derivatives are evaluated anew at every step; the first ones, of the refinement, serve
    all draws.
    """
    point = end.found.point
    diagonal = np.diag(end.found.near.curvature)
    problem = _Problem(
        end.parametrised,
        as_floats(point.coordinates),
        as_floats(point.weights),
        as_floats(point.abundances * np.asarray(exposure_or_one(end.counts), np.float64)),
        as_floats(np.sqrt(np.where(diagonal > 0, diagonal, 1.0))),
        on_device(diagonal > 0),
        end.moved,
        rescaled,
    )
    if batch_size is None and jax.default_backend() == "cpu":
        batch_size = 1
    elif batch_size is None:
        batch_size = max(int(memory_gb * 2**30 // _bytes(problem)), 1)
    n = len(keys)
    n_groups = -(-n // batch_size)
    width = -(-n // n_groups)
    places = np.minimum(np.arange(n_groups * width), n - 1).reshape(n_groups, width)
    limits = as_ints(np.array(max_steps)), as_floats(np.array(tol))
    found = _run(problem, problem.tangents(problem.start()), keys[places], *limits)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)


@eqx.filter_jit
def _run(problem, first, keys, max_steps, tol):
    """Groups one after another, each side by side."""

    def one(key):
        return _again(problem, first, key, max_steps, tol)

    if keys.shape[1] == 1:
        return jax.tree.map(lambda x: x[:, None], jax.lax.map(one, keys[:, 0]))
    return jax.lax.map(jax.vmap(one), keys)


def _bytes(problem: _Problem) -> int:
    """What one draw holds at once: its counts and means, D's derivatives and what makes them."""

    def remembered(problem, unknowns):
        weights, moved = problem.split(unknowns)
        at = problem.coordinates.at[np.array(problem.moved)].set(moved)
        return jax.vjp(lambda u, w: problem.parametrised.at(u).endmembers(w), at, weights)[1]

    shapes = jax.tree.leaves(eqx.filter_eval_shape(remembered, problem, problem.start()))
    made = sum(x.size * x.dtype.itemsize for x in shapes if hasattr(x, "dtype"))
    n_columns, n_phases = problem.weights.shape
    n_channels = problem.parametrised.model.energy_axis.size
    derivatives = n_channels * n_phases * (n_columns + len(problem.moved))
    images = 8 * n_channels * problem.amounts.shape[1]
    numbers = 4 * derivatives + images + 8 * len(problem.size) ** 2
    return 8 * made + numbers * problem.amounts.dtype.itemsize


def _again(problem: _Problem, first: Tangents, key: Key[Array, ""], max_steps, tol) -> Redrawn:
    """One draw and its fit."""
    n = problem.weights.size
    start = problem.start()
    drawn = _drawn(problem, _mean(first.endmembers, problem.amounts), key)

    def goes_on(state):
        return (state.number < max_steps) & ~(state.local.remaining < tol)

    def body(state):
        here = state.local
        damped = bounded_step(here.curvature, here.slope, state.unknowns[:n], state.damping)
        plain = state.damping == 0
        step, held = (
            jnp.where(plain, a, b) for a, b in zip((here.step, here.held), damped, strict=True)
        )
        bounded = jnp.where(held, 0.0, jnp.maximum(state.unknowns[:n] + step[:n], 0.0))
        moved = jnp.concatenate([bounded, (state.unknowns + step)[n:]])
        hope = promised(here.curvature, here.slope, moved - state.unknowns)
        there = _local(problem, drawn, moved, problem.tangents(moved))
        gained = _decrease(problem, drawn, (state.unknowns, here.mean), (moved, there.mean))
        accepted = there.good & (gained > 0.1 * hope)
        easier = jnp.where(gained > 0.7 * hope, state.damping / 10, state.damping)
        easier = jnp.where(easier < _DAMPING / 10, 0.0, easier)
        damping = jnp.where(accepted, easier, jnp.maximum(10 * state.damping, _DAMPING))
        unknowns, local = jax.tree.map(
            lambda a, b: jnp.where(accepted, a, b), (moved, there), (state.unknowns, here)
        )
        return _State(unknowns, local, damping, state.number + 1)

    begin = _State(
        start,
        _local(problem, drawn, start, first),
        jnp.zeros((), start.dtype),
        jnp.zeros((), int),
    )
    last = jax.lax.while_loop(goes_on, body, begin)
    return Redrawn(*problem.split(last.unknowns), last.local.remaining)


def _drawn(problem: _Problem, mean: Float[Array, "channel pool"], key: Key[Array, ""]) -> _Draw:
    """Counts from the mean of the refinement, and a centre of the priors around its u."""
    of_counts, of_priors = jax.random.split(key)
    counts = jax.random.poisson(of_counts, mean).astype(mean.dtype)
    amounts = problem.amounts
    if problem.rescaled:
        amounts = amounts * (counts.sum(0) / jnp.maximum(mean.sum(0), _TINY))[None, :]
    u = problem.coordinates[np.array(problem.moved)]
    return _Draw(counts, amounts, u + jax.random.normal(of_priors, u.shape, u.dtype))


def _mean(endmembers, amounts):
    return jnp.matmul(endmembers, amounts, precision="highest")


def _local(
    problem: _Problem, drawn: _Draw, unknowns: Float[Array, " unknown"], found: Tangents
) -> _Local:
    """What the loss looks like around a point."""
    n, amounts = problem.weights.size, drawn.amounts
    mean = _mean(found.endmembers, amounts)
    left = 1 - drawn.counts / jnp.maximum(mean, _TINY)
    by_spectra = jnp.matmul(left, amounts.T, precision="highest")
    of_weights = jnp.einsum("acj,ca->ja", found.weights, by_spectra, precision="highest")
    of_moved = jnp.einsum("ack,ca->k", found.parameters, by_spectra, precision="highest")
    prior = 1 / problem.size[n:]
    off = prior * (problem.split(unknowns)[1] - drawn.centre)
    slope = jnp.concatenate([of_weights.ravel(), of_moved + off])
    seen = mean > NOTHING * mean.max(0)[None, :]
    inverse = jnp.where(seen, 1 / jnp.where(seen, mean, 1.0), 0.0)
    second = jnp.einsum("cp,ap,bp->cab", inverse, amounts, amounts, precision="highest")
    each = jnp.concatenate([found.weights, found.parameters], axis=2)
    whole = jnp.einsum("acj,bcl,cab->jalb", each, each, second, precision="highest")
    n_columns = problem.weights.shape[0]
    own = whole[:n_columns, :, :n_columns].reshape(n, n)
    mixed = whole[:n_columns, :, n_columns:].sum(3).reshape(n, -1)
    among = whole[n_columns:, :, n_columns:].sum((1, 3)) + jnp.diag(prior**2)
    matrix = jnp.concatenate(
        [jnp.concatenate([own, mixed], 1), jnp.concatenate([mixed.T, among], 1)], 0
    )
    both = problem.told[:, None] & problem.told[None, :]
    matrix = jnp.where(both, matrix, jnp.eye(len(slope), dtype=slope.dtype))
    slope = jnp.where(problem.told, slope, 0.0)
    good = jnp.isfinite(matrix).all() & jnp.isfinite(slope).all() & (found.endmembers >= 0).all()
    curvature = curvature_of(jnp.where(good, matrix, jnp.eye(len(slope), dtype=slope.dtype)))
    step, held = bounded_step(curvature, slope, unknowns[:n], jnp.zeros((), slope.dtype))
    remaining = jnp.where(good, promised(curvature, slope, step), jnp.inf)
    return _Local(mean, slope, curvature, step, held, remaining, good)


def _decrease(problem: _Problem, drawn: _Draw, old, new) -> Scalar:
    """By how much the loss falls from one (unknowns, mean) to another.

    Term by term, so that nothing is lost in single precision.
    """
    (from_unknowns, from_mean), (to_unknowns, to_mean) = old, new
    change = to_mean - from_mean
    safe = jnp.maximum(from_mean, _TINY)
    share = change / safe
    grown = (1 - drawn.counts / safe) * change
    bent = jnp.where(drawn.counts > 0, drawn.counts * (share - jnp.log1p(share)), 0.0)
    before, after = (problem.split(x)[1] - drawn.centre for x in (from_unknowns, to_unknowns))
    return 0.5 * ((before - after) * (before + after)).sum() - (grown + bent).sum()
