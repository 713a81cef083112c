"""Total variation: smooth maps with sharp borders."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import Scalar
from ._regularisers import (
    AbstractRegulariser,
    Maps,
    among,
    as_pixels,
    as_scalar,
    check_pixels,
    check_positive,
    weighted_laplacian,
    weighted_neighbours,
)


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
        squares = self._squared_steps(maps)
        # the difference to epsilon, without cancellation
        return self.strength * (squares / (self._root(squares) + self.epsilon)).sum()

    def gradient_split(self, maps):
        degree, neighbours = weighted_neighbours(maps, self._weights(maps), self.pixels)
        return degree * maps, neighbours

    def surrogate(self, maps):
        degree, neighbours = weighted_neighbours(maps, self._weights(maps), self.pixels)
        return jnp.broadcast_to(2 * degree, maps.shape), -(degree * maps + neighbours)

    def curvature(self, maps, direction):
        return weighted_laplacian(direction, self._weights(maps), self.pixels)

    def _root(self, squares):
        return jnp.sqrt(self.epsilon**2 + squares)

    def _weights(self, maps):
        """What a squared step costs at the current maps, for the steps that leave each pixel."""
        return self.strength / self._root(self._squared_steps(maps))

    def _squared_steps(self, maps: Maps) -> Float[Array, "1 *scan"]:
        """The squared differences to the next pixels, added over phases and axes."""
        check_pixels(self, self.pixels, maps)
        total = jnp.zeros_like(maps[:1])
        for axis in range(1, maps.ndim):
            steps = (jnp.diff(maps, axis=axis) ** 2).sum(0, keepdims=True)
            missing = [(0, int(i == axis)) for i in range(maps.ndim)]
            total = total + jnp.pad(among(self.pixels, steps, axis), missing)
        return total
