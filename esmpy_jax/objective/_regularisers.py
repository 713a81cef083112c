"""Regularisers of the abundance maps.

Each has its value and the split of its gradient into non-negative parts (`positive - negative`).
Two quadratics touch it at the current point and lie above it everywhere: the separable surrogate
`sum(a h² / 2 + b h)`, which keeps the multiplicative updates monotone, and a tighter one, whose
curvature may couple pixels and is known by its product with a direction.
"""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._arrays import as_floats
from .._checks import check
from .._types import Scalar
from ._grid import Maps, laplacian, neighbours, steps


def as_scalar(value):
    """An array, so that another strength does not compile another program."""
    return as_floats(value)


def as_pixels(value):
    """A mask of pixels, or `None` for all of them."""
    if value is None or isinstance(value, Tracer):
        return value
    array = np.asarray(value)
    check(array.dtype == bool, f"A mask of pixels has the type {array.dtype}; give True and False.")
    return jnp.asarray(array)


def check_positive(value, name, *, zero_allowed=False):
    if isinstance(value, Tracer):
        return
    number = float(value)
    check(
        math.isfinite(number) and (number > 0 or (zero_allowed and number == 0)),
        f"{name} is {value}; give a finite positive number.",
    )


class AbstractRegulariser(eqx.Module):
    """A penalty on abundance maps of shape (phase, *scan)."""

    @abc.abstractmethod
    def value(self, maps: Maps) -> Scalar:
        """The penalty, in nats."""

    @abc.abstractmethod
    def gradient_split(self, maps: Maps) -> tuple[Maps, Maps]:
        """Non-negative arrays (positive, negative) with gradient = positive - negative."""

    @abc.abstractmethod
    def surrogate(self, maps: Maps) -> tuple[Maps, Maps]:
        """`(a, b)` with `value(h) <= value(maps) + sum(a (h² - maps²) / 2 + b (h - maps))`."""

    @abc.abstractmethod
    def curvature(self, maps: Maps, direction: Maps) -> Maps:
        """B d, where `value(maps + d) <= value(maps) + gradient(maps)·d + d·(B d) / 2`.

        B depends on `maps`, is symmetric and positive semi-definite and may couple pixels; the
        bound holds for every direction d with `maps + d >= 0`.
        """

    def local_curvature(self, maps: Maps) -> Callable[[Maps], Maps]:
        """B, applied to directions: as `curvature`, but nearer to the Hessian, and no bound."""
        return lambda direction: self.curvature(maps, direction)

    @property
    def couples_pixels(self) -> bool:
        """Whether the penalty of one pixel depends on another."""
        return True

    @property
    def couples_curvature(self) -> bool:
        """Whether `curvature` depends on several pixels, so that they are better moved together."""
        return self.couples_pixels

    @property
    def is_convex(self) -> bool:
        """Whether the penalty has a single valley."""
        return True

    def gradient(self, maps: Maps) -> Maps:
        """The gradient of the penalty, `positive - negative`."""
        positive, negative = self.gradient_split(maps)
        return positive - negative


class NoRegulariser(AbstractRegulariser):
    """No penalty: maximum likelihood."""

    @property
    def couples_pixels(self):
        return False

    def value(self, maps):
        return jnp.zeros((), maps.dtype)

    def gradient_split(self, maps):
        return jnp.zeros_like(maps), jnp.zeros_like(maps)

    def surrogate(self, maps):
        return jnp.zeros_like(maps), jnp.zeros_like(maps)

    def curvature(self, maps, direction):
        return jnp.zeros_like(direction)


class LaplacianSmoothness(AbstractRegulariser):
    """`strength / 2 * sum over neighbours of (h_i - h_j)²` = `strength / 2 tr(H L Hᵀ)`.

    L is the graph Laplacian of the scan grid without wrap-around. Its largest eigenvalue is below
    `sigma = 4 × (number of scan axes)`, so the quadratic with `a = strength sigma` and
    `b = strength (L h - sigma h)` lies above it.

    - `pixels`: of the shape of the scan, which pixels have a part in it (`None`: all); steps to
        others cost nothing.
    """

    strength: Scalar = eqx.field(converter=as_scalar)
    pixels: Bool[Array, "*scan"] | None = eqx.field(default=None, converter=as_pixels)

    def __check_init__(self):
        check_positive(self.strength, "LaplacianSmoothness.strength", zero_allowed=True)

    def value(self, maps):
        check_pixels(self, self.pixels, maps)
        squares = (s**2 for m in maps for s in steps(m, self.pixels))
        return 0.5 * self.strength * sum(squares, jnp.zeros_like(maps[0])).sum()

    def gradient_split(self, maps):
        check_pixels(self, self.pixels, maps)
        degree, around = neighbours(maps, jnp.ones_like(maps[0]), self.pixels)
        return self.strength * degree[None] * maps, self.strength * around

    def gradient(self, maps):
        return self.curvature(maps, maps)

    def surrogate(self, maps):
        bound = jnp.full_like(maps, self.strength * 4.0 * (maps.ndim - 1))
        bound = bound if self.pixels is None else jnp.where(self.pixels, bound, 0.0)
        return bound, self.gradient(maps) - bound * maps

    def curvature(self, maps, direction):
        check_pixels(self, self.pixels, maps)
        return self.strength * laplacian(direction, jnp.ones_like(maps[0]), self.pixels)


class SumOf(AbstractRegulariser):
    """Several penalties added."""

    terms: tuple[AbstractRegulariser, ...]

    @property
    def couples_pixels(self):
        return any(t.couples_pixels for t in self.terms)

    @property
    def couples_curvature(self):
        return any(t.couples_curvature for t in self.terms)

    @property
    def is_convex(self):
        return all(t.is_convex for t in self.terms)

    def value(self, maps):
        return sum((t.value(maps) for t in self.terms), jnp.zeros((), maps.dtype))

    def gradient_split(self, maps):
        return _added([t.gradient_split(maps) for t in self.terms], maps)

    def gradient(self, maps):
        return sum((t.gradient(maps) for t in self.terms), jnp.zeros_like(maps))

    def surrogate(self, maps):
        return _added([t.surrogate(maps) for t in self.terms], maps)

    def curvature(self, maps, direction):
        terms = (t.curvature(maps, direction) for t in self.terms)
        return sum(terms, jnp.zeros_like(direction))

    def local_curvature(self, maps):
        terms = [t.local_curvature(maps) for t in self.terms]
        return lambda direction: sum((f(direction) for f in terms), jnp.zeros_like(direction))


def _added(pairs, maps):
    zero = jnp.zeros_like(maps)
    return sum((p[0] for p in pairs), zero), sum((p[1] for p in pairs), zero)


def check_pixels(regulariser: AbstractRegulariser, pixels: Array | None, maps: Maps) -> None:
    """Raise `InputError` for a mask that has not the shape of the scan."""
    check(
        pixels is None or pixels.shape == maps.shape[1:],
        f"{type(regulariser).__name__}.pixels has shape {None if pixels is None else pixels.shape};"
        f" the maps have {maps.shape[1:]}.",
    )
