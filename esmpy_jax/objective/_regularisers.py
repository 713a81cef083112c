"""Regularisers of the abundance maps.

Each has its value and the split of its gradient into non-negative parts (`positive - negative`).
Two quadratics touch it at the current point and lie above it everywhere: the separable surrogate
`sum(a h² / 2 + b h)`, which keeps the multiplicative updates monotone, and a tighter one, whose
curvature may couple pixels and is known by its product with a direction.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from .._arrays import as_floats
from .._checks import check
from .._types import Scalar

Maps = Float[Array, "phase *scan"]


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
    """

    strength: Scalar = eqx.field(converter=as_scalar)

    def __check_init__(self):
        check_positive(self.strength, "LaplacianSmoothness.strength", zero_allowed=True)

    def value(self, maps):
        axes = range(1, maps.ndim)
        return 0.5 * self.strength * sum((jnp.diff(maps, axis=i) ** 2).sum() for i in axes)

    def gradient_split(self, maps):
        degree, neighbours = weighted_neighbours(maps, jnp.ones_like(maps[:1]))
        return self.strength * degree * maps, self.strength * neighbours

    def surrogate(self, maps):
        degree, neighbours = weighted_neighbours(maps, jnp.ones_like(maps[:1]))
        sigma = 4.0 * (maps.ndim - 1)
        linear = self.strength * ((degree - sigma) * maps - neighbours)
        return jnp.full_like(maps, self.strength * sigma), linear

    def curvature(self, maps, direction):
        return self.strength * weighted_laplacian(direction, jnp.ones_like(maps[:1]))


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

    def surrogate(self, maps):
        return _added([t.surrogate(maps) for t in self.terms], maps)

    def curvature(self, maps, direction):
        terms = (t.curvature(maps, direction) for t in self.terms)
        return sum(terms, jnp.zeros_like(direction))


def _added(pairs, maps):
    zero = jnp.zeros_like(maps)
    return sum((p[0] for p in pairs), zero), sum((p[1] for p in pairs), zero)


def weighted_neighbours(
    maps: Maps, weights: Float[Array, "1 *scan"], pixels: Bool[Array, "*scan"] | None = None
) -> tuple[Float[Array, "1 *scan"], Maps]:
    """The weights of each pixel's edges added up, and the so weighted sum of its neighbours.

    Every edge of the scan grid joins a pixel with the next one along an axis and has the weight of
    the first of the two, or none where one of them is not among `pixels`.
    """
    degree, total = jnp.zeros_like(weights), jnp.zeros_like(maps)
    for axis in range(1, maps.ndim):
        edges = among(pixels, _first(weights, axis), axis)
        degree = degree + _after(edges, axis) + _before(edges, axis)
        total = total + _after(edges * _second(maps, axis), axis)
        total = total + _before(edges * _first(maps, axis), axis)
    return degree, total


def weighted_laplacian(
    maps: Maps, weights: Float[Array, "1 *scan"], pixels: Bool[Array, "*scan"] | None = None
) -> Maps:
    """`degree * maps - neighbours` of `weighted_neighbours`, from differences."""
    total = jnp.zeros_like(maps)
    for axis in range(1, maps.ndim):
        flow = among(pixels, _first(weights, axis), axis) * jnp.diff(maps, axis=axis)
        total = total + _before(flow, axis) - _after(flow, axis)
    return total


def among(pixels: Bool[Array, "*scan"] | None, edges: Array, axis: int) -> Array:
    """Values of the edges along an axis, zero for those that leave `pixels`."""
    if pixels is None:
        return edges
    kept = _first(pixels[None], axis) & _second(pixels[None], axis)
    return jnp.where(jnp.broadcast_to(kept, edges.shape), edges, 0.0)


def check_pixels(regulariser: AbstractRegulariser, pixels: Array | None, maps: Maps) -> None:
    """Raise `InputError` for a mask that has not the shape of the scan."""
    check(
        pixels is None or pixels.shape == maps.shape[1:],
        f"{type(regulariser).__name__}.pixels has shape {None if pixels is None else pixels.shape};"
        f" the maps have {maps.shape[1:]}.",
    )


def _first(maps, axis):
    """The first pixel of every edge along an axis."""
    return jax.lax.slice_in_dim(maps, 0, maps.shape[axis] - 1, axis=axis)


def _second(maps, axis):
    """The second pixel of every edge along an axis."""
    return jax.lax.slice_in_dim(maps, 1, None, axis=axis)


def _after(edges, axis):
    """Values of edges put at their first pixel: from each pixel the edge that follows it."""
    return jnp.pad(edges, [(0, int(i == axis)) for i in range(edges.ndim)])


def _before(edges, axis):
    """Values of edges put at their second pixel: from each pixel the edge that precedes it."""
    return jnp.pad(edges, [(int(i == axis), 0) for i in range(edges.ndim)])
