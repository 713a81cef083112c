"""Differences on the grid of the scan, whose edges join each pixel with the next along each axis.

Edges stand at the first of their two pixels, so that those of one axis form an array of the shape
of the scan, zero where there is no next pixel or where one of the two is not among `pixels`
(`None`: all are). Maps are taken one by one: on a CPU sums over a first axis of arrays are several
times slower.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Map = Float[Array, "*scan"]
Maps = Float[Array, "phase *scan"]
Pixels = Bool[Array, "*scan"] | None


def steps(map_: Map, pixels: Pixels = None) -> list[Map]:
    """The step to the next pixel along each axis of the scan."""
    return among(pixels, [_ended(jnp.diff(map_, axis=i), i) for i in range(map_.ndim)])


def returned(flows: list[Map]) -> Map:
    """The transpose of `steps`: what arrives at each pixel less what leaves it."""
    return sum((_at_next(f, i) - f for i, f in enumerate(flows)), jnp.zeros_like(flows[0]))


def laplacian(maps: Maps, weights: Map, pixels: Pixels = None) -> Maps:
    """`sum over the edges of a pixel of weight * (h - h of the neighbour)`.

    - `weights`: of the edges that leave each pixel.
    """
    each = among(pixels, [weights] * weights.ndim)
    flows = ([w * s for w, s in zip(each, steps(m), strict=True)] for m in maps)
    return jnp.stack([returned(f) for f in flows])


def neighbours(maps: Maps, weights: Map, pixels: Pixels = None) -> tuple[Map, Maps]:
    """The weights of each pixel's edges added up, and the so weighted sum of its neighbours."""
    edges = among(pixels, [_inner(weights, i) for i in range(weights.ndim)])
    degree = sum((e + _at_next(e, i) for i, e in enumerate(edges)), jnp.zeros_like(weights))

    def around(m):
        parts = (e * _of_next(m, i) + _at_next(e * m, i) for i, e in enumerate(edges))
        return sum(parts, jnp.zeros_like(m))

    return degree, jnp.stack([around(m) for m in maps])


def among(pixels: Pixels, edges: list[Map]) -> list[Map]:
    """What edges hold along each axis, with zero for those that leave `pixels`."""
    if pixels is None:
        return edges
    return [jnp.where(pixels & _of_next(pixels, i), e, 0.0) for i, e in enumerate(edges)]


def _inner(map_, axis):
    """Zero at the last pixels along an axis."""
    return _ended(jax.lax.slice_in_dim(map_, 0, map_.shape[axis] - 1, axis=axis), axis)


def _of_next(map_, axis):
    """The value of the next pixel at each pixel."""
    return _ended(jax.lax.slice_in_dim(map_, 1, None, axis=axis), axis)


def _at_next(map_, axis):
    """The value of each pixel at the next one."""
    shorter = jax.lax.slice_in_dim(map_, 0, map_.shape[axis] - 1, axis=axis)
    return jnp.pad(shorter, [(int(i == axis), 0) for i in range(map_.ndim)])


def _ended(shorter, axis):
    """With a last pixel of zero along an axis."""
    return jnp.pad(shorter, [(0, int(i == axis)) for i in range(shorter.ndim)])
