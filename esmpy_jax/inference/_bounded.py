"""Steps of Newton's method with bounds, small enough and alike enough to be mapped by `vmap`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Least eigenvalue of a curvature with ones on its diagonal, in units of the rounding.
_LEAST = 16

#: When the sweeps over the bounds end: largest change, in standard errors, and their number.
_STILL, _MOST_SWEEPS = 1e-4, 500


class Curvature(NamedTuple):
    """Eigenvalues, none of them as good as zero, and eigenvectors of a curvature."""

    values: Float[Array, " unknown"]
    vectors: Float[Array, "unknown unknown"]


def curvature_of(matrix: Float[Array, "unknown unknown"]) -> Curvature:
    """The `Curvature` of a symmetric matrix with about ones on its diagonal."""
    values, vectors = jnp.linalg.eigh(matrix)
    return Curvature(jnp.maximum(values, _LEAST * jnp.finfo(matrix.dtype).eps), vectors)


def bounded_step(
    curvature: Curvature,
    slope: Float[Array, " unknown"],
    room: Float[Array, " bounded"],
    damping: Float[Array, ""],
) -> tuple[Float[Array, " unknown"], Bool[Array, " bounded"]]:
    """The d with the lowest `slope · d + d (K + damping) d / 2` that has `d >= -room`.

    The first unknowns are bounded. The forces of the bounds are found one at a time, in turn, until
    none of them changes (C. Hildreth, Naval Res. Logist. Q. 4 (1957) 79): few bounds hold, and
    those that do hardly speak to each other, however correlated the unknowns are. Returns the step
    and which bounds hold.
    """
    scaled = curvature.vectors / (curvature.values + damping)[None, :]
    inverse = jnp.matmul(scaled, curvature.vectors.T, precision="highest")
    free = -jnp.matmul(inverse, slope, precision="highest")
    n = len(room)
    alone = jnp.diagonal(inverse)

    def one(i, state):
        step, force = state
        change = jnp.maximum(-force[i], -(step[i] + room[i]) / alone[i])
        return step + change * inverse[i], force.at[i].add(change)

    def sweep(state):
        step, force, _, number = state
        new, force = jax.lax.fori_loop(0, n, one, (step, force))
        return new, force, (jnp.abs(new - step) / jnp.sqrt(alone)).max(), number + 1

    def goes_on(state):
        return (state[2] > _STILL) & (state[3] < _MOST_SWEEPS)

    start = free, jnp.zeros_like(room), jnp.full((), jnp.inf, free.dtype), jnp.zeros((), int)
    _, force, _, _ = jax.lax.while_loop(goes_on, sweep, start)
    step = free + jnp.matmul(inverse[:, :n], force, precision="highest")
    return step, force > 0


def promised(
    curvature: Curvature, slope: Float[Array, " unknown"], step: Float[Array, " unknown"]
) -> Float[Array, ""]:
    """By how much a step lowers the quadratic without damping."""
    along = jnp.matmul(curvature.vectors.T, step, precision="highest")
    return -(jnp.dot(slope, step, precision="highest") + 0.5 * (curvature.values * along**2).sum())
