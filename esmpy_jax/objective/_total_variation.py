"""Total variation: smooth maps with sharp borders."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._types import Scalar
from ._grid import Map, Maps, among, laplacian, neighbours, returned, steps
from ._regularisers import (
    AbstractRegulariser,
    as_pixels,
    as_scalar,
    check_pixels,
    check_positive,
)

#: How much of the way from the weighted Laplacian to the Hessian a step takes.
_OF_HESSIAN = 0.7


class TotalVariation(AbstractRegulariser):
    """`strength * sum_p (sqrt(epsilon² + s_p) - epsilon)`, with s_p the squared steps from p on.

    `s_p` adds `(H[a, next pixel] - H[a, p])²` over the phases and over the scan axes, without
    wrap-around. Phases share the root, so that it costs less when their borders coincide. Steps
    well below `epsilon` cost like a `LaplacianSmoothness` of `strength / epsilon`, and steps well
    above it in proportion to their height: noise is smoothed and borders stay sharp (Rudin, Osher
    & Fatemi, Physica D 60 (1992) 259). Both are in the unit of H.

    The root is concave in `s`, so with `w_p = strength / sqrt(epsilon² + s_p)` at the current
    maps the quadratic `w s / 2` touches it and lies above it (lagged diffusivity; Vogel & Oman,
    SIAM J. Sci. Comput. 17 (1996) 227). It is the form of the Laplacian L of the grid with the
    weights w on the edges that leave p, which is the `curvature`. Its rows have the degree d on
    the diagonal and -d in sum beside it, so that no form of L is above that of `2 d` (Gershgorin),
    and `a = 2 d` with `b = L H - 2 d H` is separable.

    - `pixels`: of the shape of the scan, which pixels have a part in it (`None`: all); steps to
        others cost nothing.
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=as_scalar)
    pixels: Bool[Array, "*scan"] | None = eqx.field(default=None, converter=as_pixels)

    def __check_init__(self):
        check_positive(self.strength, "TotalVariation.strength", zero_allowed=True)
        check_positive(self.epsilon, "TotalVariation.epsilon")
        check_positive(self.epsilon**2, "TotalVariation.epsilon²")  # it may underflow

    def value(self, maps):
        squares = self._squares(maps)
        # the difference to epsilon, without cancellation
        return self.strength * (squares / (self._root(squares) + self.epsilon)).sum()

    def gradient_split(self, maps):
        degree, around = neighbours(maps, self._weights(maps), self.pixels)
        return degree[None] * maps, around

    def gradient(self, maps):
        return self.curvature(maps, maps)

    def surrogate(self, maps):
        weights = self._weights(maps)
        degree, _ = neighbours(maps, weights, self.pixels)
        bound = jnp.broadcast_to(2 * degree[None], maps.shape)
        return bound, laplacian(maps, weights, self.pixels) - bound * maps

    def curvature(self, maps, direction):
        return laplacian(direction, self._weights(maps), self.pixels)

    def local_curvature(self, maps):
        squares = self._squares(maps)
        weights = self.strength / self._root(squares)
        # the root bends less along the steps that are there
        less = jnp.sqrt(_OF_HESSIAN * weights / (self.epsilon**2 + squares))
        here = [[less * s for s in steps(m, self.pixels)] for m in maps]
        each = among(self.pixels, [weights] * squares.ndim)

        def product(direction):
            there = [steps(d) for d in direction]
            both = [
                (h, t)
                for hs, ts in zip(here, there, strict=True)
                for h, t in zip(hs, ts, strict=True)
            ]
            along = sum((h * t for h, t in both), jnp.zeros_like(squares))
            flows = (
                [w * t - along * h for w, h, t in zip(each, hs, ts, strict=True)]
                for hs, ts in zip(here, there, strict=True)
            )
            return jnp.stack([returned(f) for f in flows])

        return product

    def _root(self, squares):
        return jnp.sqrt(self.epsilon**2 + squares)

    def _weights(self, maps: Maps) -> Map:
        """What a squared step costs at the current maps, for the steps that leave each pixel."""
        return self.strength / self._root(self._squares(maps))

    def _squares(self, maps: Maps) -> Map:
        """The squared steps to the next pixels, added over phases and axes."""
        check_pixels(self, self.pixels, maps)
        squares = (s**2 for m in maps for s in steps(m, self.pixels))
        return sum(squares, jnp.zeros_like(maps[0]))
