"""Regularisers of the abundance maps.

Each has its value, the split of its gradient into non-negative parts (`positive - negative`), and
a separable quadratic surrogate `sum(a h² / 2 + b h)` that touches it at the current point and lies
above it everywhere, which is what keeps the multiplicative updates monotone.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from .._checks import check
from .._types import Scalar

Maps = Float[Array, "phase *scan"]


def _scalar(value):
    """An array, so that another strength does not compile another program."""
    return jnp.asarray(value, float)


def _positive(value, name, *, zero_allowed=False):
    if isinstance(value, Tracer):
        return
    check(
        bool((value > 0) | (zero_allowed & (value == 0))) and bool(jnp.isfinite(value)),
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


class NoRegulariser(AbstractRegulariser):
    """No penalty: maximum likelihood."""

    def value(self, maps):
        return jnp.zeros((), maps.dtype)

    def gradient_split(self, maps):
        return jnp.zeros_like(maps), jnp.zeros_like(maps)

    def surrogate(self, maps):
        return jnp.zeros_like(maps), jnp.zeros_like(maps)


class LogSparsity(AbstractRegulariser):
    """`strength * sum(log(1 + H / epsilon))`: few phases in each pixel.

    Concave, so its tangent lies above it: `a = 0`, `b = strength / (H + epsilon)`.
    """

    strength: Scalar = eqx.field(converter=_scalar)
    epsilon: Scalar = eqx.field(default=0.05, converter=_scalar)

    def __check_init__(self):
        _positive(self.strength, "LogSparsity.strength", zero_allowed=True)
        _positive(self.epsilon, "LogSparsity.epsilon")

    def value(self, maps):
        return self.strength * jnp.log1p(maps / self.epsilon).sum()

    def gradient_split(self, maps):
        return self.strength / (maps + self.epsilon), jnp.zeros_like(maps)

    def surrogate(self, maps):
        return jnp.zeros_like(maps), self.strength / (maps + self.epsilon)


class LaplacianSmoothness(AbstractRegulariser):
    """`strength / 2 * sum over neighbours of (h_i - h_j)²` = `strength / 2 tr(H L Hᵀ)`.

    L is the graph Laplacian of the scan grid without wrap-around. Its largest eigenvalue is below
    `sigma = 4 × (number of scan axes)`, so the quadratic with `a = strength sigma` and
    `b = strength (L h - sigma h)` lies above it.
    """

    strength: Scalar = eqx.field(converter=_scalar)

    def __check_init__(self):
        _positive(self.strength, "LaplacianSmoothness.strength", zero_allowed=True)

    def value(self, maps):
        axes = range(1, maps.ndim)
        return 0.5 * self.strength * sum((jnp.diff(maps, axis=i) ** 2).sum() for i in axes)

    def gradient_split(self, maps):
        degree, neighbours = _neighbours(maps)
        return self.strength * degree * maps, self.strength * neighbours

    def surrogate(self, maps):
        degree, neighbours = _neighbours(maps)
        sigma = 4.0 * (maps.ndim - 1)
        linear = self.strength * ((degree - sigma) * maps - neighbours)
        return jnp.full_like(maps, self.strength * sigma), linear


class SumOf(AbstractRegulariser):
    """Several penalties added."""

    terms: tuple[AbstractRegulariser, ...]

    def value(self, maps):
        return sum((t.value(maps) for t in self.terms), jnp.zeros((), maps.dtype))

    def gradient_split(self, maps):
        return _added([t.gradient_split(maps) for t in self.terms], maps)

    def surrogate(self, maps):
        return _added([t.surrogate(maps) for t in self.terms], maps)


def _added(pairs, maps):
    zero = jnp.zeros_like(maps)
    return sum((p[0] for p in pairs), zero), sum((p[1] for p in pairs), zero)


def _neighbours(maps):
    """Number of neighbours of each pixel and the sum of their values."""
    degree, total = jnp.zeros_like(maps), jnp.zeros_like(maps)
    for axis in range(1, maps.ndim):
        ahead = [(0, 0)] * maps.ndim
        behind = list(ahead)
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        first = jax.lax.slice_in_dim(maps, 1, None, axis=axis)
        last = jax.lax.slice_in_dim(maps, 0, maps.shape[axis] - 1, axis=axis)
        total = total + jnp.pad(first, ahead) + jnp.pad(last, behind)
        ones = jnp.ones_like(first)
        degree = degree + jnp.pad(ones, ahead) + jnp.pad(ones, behind)
    return degree, total
