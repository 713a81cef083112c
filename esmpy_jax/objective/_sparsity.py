"""Few phases in a pixel, and few around it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._types import Scalar
from ._grid import Maps
from ._regularisers import (
    AbstractRegulariser,
    as_pixels,
    as_scalar,
    check_pixels,
    check_positive,
)


class _AbstractSparsity(AbstractRegulariser):
    """`strength * sum(log(1 + M H / epsilon))` with a mean M over pixels.

    Concave, so its tangent lies above it: `a = 0`, `b = Mᵀ (strength / (M H + epsilon))`, no
    curvature. Pixels outside of `pixels` have no part in it.
    """

    strength: eqx.AbstractVar[Scalar]
    epsilon: eqx.AbstractVar[Scalar]
    pixels: eqx.AbstractVar[Bool[Array, "*scan"] | None]

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
        return self.strength * (self._kept(maps) * jnp.log1p(self.mean(maps) / self.epsilon)).sum()

    def gradient_split(self, maps):
        return self._slope(maps), jnp.zeros_like(maps)

    def surrogate(self, maps):
        return jnp.zeros_like(maps), self._slope(maps)

    def curvature(self, maps, direction):
        return jnp.zeros_like(direction)

    def _slope(self, maps):
        slope = self.strength / (self.mean(maps) + self.epsilon)
        return self.transposed(self._kept(maps) * slope)

    def _kept(self, maps: Maps) -> Maps:
        """Ones in the pixels that have a part, zeros elsewhere."""
        if self.pixels is None:
            return jnp.ones_like(maps)
        check_pixels(self, self.pixels, maps)
        return jnp.broadcast_to(self.pixels, maps.shape).astype(maps.dtype)


class LogSparsity(_AbstractSparsity):
    """`strength * sum(log(1 + H / epsilon))`: few phases in each pixel.

    Small abundances cost most, so that what noise leaves of a phase where there is none goes to
    zero. `epsilon`, in the unit of H, is what counts as small; `pixels`, of the shape of the scan,
    says which have a part in it (`None`: all).
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=as_scalar)
    pixels: Bool[Array, "*scan"] | None = eqx.field(default=None, converter=as_pixels)

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
    `epsilon` and `pixels` are those of `LogSparsity`; outside of `pixels` nothing exists.
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=as_scalar)
    pixels: Bool[Array, "*scan"] | None = eqx.field(default=None, converter=as_pixels)

    @property
    def couples_pixels(self):
        return True

    def mean(self, maps):
        kept = self._kept(maps)
        return _sums(kept * maps) / _around(kept)

    def transposed(self, maps):
        kept = self._kept(maps)
        return kept * _sums(maps / _around(kept))


def _around(kept: Maps) -> Maps:
    """Weights of the neighbours that exist; one where there are none."""
    total = _sums(kept)
    return jnp.where(total > 0, total, 1.0)


def _sums(maps: Maps) -> Maps:
    """Each pixel and its neighbours added with the weights (1, 2, 1) along each scan axis."""
    for axis in range(1, maps.ndim):
        n = maps.shape[axis]
        wide = jnp.pad(maps, [(int(i == axis),) * 2 for i in range(maps.ndim)])
        before, after = (jax.lax.slice_in_dim(wide, i, i + n, axis=axis) for i in (0, 2))
        maps = before + 2 * maps + after
    return maps
