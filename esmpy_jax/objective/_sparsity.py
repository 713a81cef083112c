"""Few phases in a pixel, and few around it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Scalar
from ._regularisers import AbstractRegulariser, Maps, as_scalar, check_positive


class _AbstractSparsity(AbstractRegulariser):
    """`strength * sum(log(1 + M H / epsilon))` with a mean M over pixels.

    Concave, so its tangent lies above it: `a = 0`, `b = Mᵀ (strength / (M H + epsilon))`, no
    curvature.
    """

    strength: eqx.AbstractVar[Scalar]
    epsilon: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def mean(self, maps: Maps) -> Maps:
        """M of each map."""

    @abc.abstractmethod
    def transposed(self, maps: Maps) -> Maps:
        """Mᵀ of each map."""

    def __check_init__(self):
        name = type(self).__name__
        check_positive(self.strength, f"{name}.strength", zero_allowed=True)
        check_positive(self.epsilon, f"{name}.epsilon")

    @property
    def couples_curvature(self):
        return False

    @property
    def is_convex(self):
        return False

    def value(self, maps):
        return self.strength * jnp.log1p(self.mean(maps) / self.epsilon).sum()

    def gradient_split(self, maps):
        return self._slope(maps), jnp.zeros_like(maps)

    def surrogate(self, maps):
        return jnp.zeros_like(maps), self._slope(maps)

    def curvature(self, maps, direction):
        return jnp.zeros_like(direction)

    def _slope(self, maps):
        return self.transposed(self.strength / (self.mean(maps) + self.epsilon))


class LogSparsity(_AbstractSparsity):
    """`strength * sum(log(1 + H / epsilon))`: few phases in each pixel.

    Small abundances cost most, so that what noise leaves of a phase where there is none goes to
    zero. `epsilon`, in the unit of H, is what counts as small.
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=as_scalar)

    @property
    def couples_pixels(self):
        return False

    def mean(self, maps):
        return maps

    def transposed(self, maps):
        return maps


class RegionalSparsity(_AbstractSparsity):
    """`strength * sum(log(1 + M H / epsilon))`: few phases around each pixel.

    M is the mean over a pixel and its neighbours with the weights (1, 2, 1) along each scan axis,
    of those that exist at the border. A little of a phase costs much where the neighbours have
    none, and little where they have some: noise goes to zero, and the fringe of a particle stays.
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=as_scalar)

    @property
    def couples_pixels(self):
        return True

    def mean(self, maps):
        return _sums(maps) / _sums(jnp.ones_like(maps))

    def transposed(self, maps):
        return _sums(maps / _sums(jnp.ones_like(maps)))


def _sums(maps: Maps) -> Maps:
    """Each pixel and its neighbours added with the weights (1, 2, 1) along each scan axis."""
    for axis in range(1, maps.ndim):
        n = maps.shape[axis]
        wide = jnp.pad(maps, [(int(i == axis),) * 2 for i in range(maps.ndim)])
        before, after = (jax.lax.slice_in_dim(wide, i, i + n, axis=axis) for i in (0, 2))
        maps = before + 2 * maps + after
    return maps
