"""Smooth corrections of what is known only roughly: the continuum, and a detector's efficiency."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check
from ._bremsstrahlung import AbstractBremsstrahlung
from ._efficiency import AbstractEfficiency
from ._scalars import Curve, Number, ScalarLike


class SmoothCorrection(eqx.Module):
    """A positive factor that varies slowly with energy.

    f(E) = exp(Σ_k c_k T_k(x)), k from 1, with the Chebyshev polynomials T_k of
    x = 2 ln(E / low) / ln(high / low) - 1, which runs from -1 to 1 between `low` and `high` keV and
    keeps its end values outside. Without T_0 it says nothing of an overall factor, which weights
    and abundances take.

    - `coefficients`: c, differentiable; zeros for no correction.
    """

    coefficients: Float[Array, " order"]
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __init__(self, coefficients: Curve, low: Number, high: Number):
        """Raises `InputError` unless `0 < low < high`."""
        check(
            bool(0 < low < high and math.isfinite(high)),
            f"A correction cannot run from {low:g} to {high:g} keV; give two positive energies.",
        )
        self.coefficients = jnp.asarray(coefficients, float)
        self.low, self.high = float(low), float(high)

    def extended(self, order: int) -> "SmoothCorrection":
        """The same factor with room for terms up to an order."""
        more = max(order - len(self.coefficients), 0)
        return SmoothCorrection(jnp.pad(self.coefficients, (0, more)), self.low, self.high)

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """f at energies in keV."""
        inside = jnp.clip(energy, self.low, self.high)
        x = 2 * jnp.log(inside / self.low) / math.log(self.high / self.low) - 1
        before, now, logarithm = jnp.ones_like(x), x, jnp.zeros_like(x)
        for k in range(len(self.coefficients)):
            logarithm = logarithm + self.coefficients[k] * now
            before, now = now, 2 * x * now - before
        return jnp.exp(logarithm)


class CorrectedBremsstrahlung(AbstractBremsstrahlung):
    """The shapes of a continuum, all multiplied by one smooth factor."""

    shapes: AbstractBremsstrahlung
    correction: SmoothCorrection

    @property
    def labels(self) -> tuple[str, ...]:
        return self.shapes.labels

    def __call__(
        self, energy: Float[Array, " channel"], beam_energy: ScalarLike
    ) -> Float[Array, "channel column"]:
        return self.shapes(energy, beam_energy) * self.correction(energy)[:, None]


class CorrectedEfficiency(AbstractEfficiency):
    """An efficiency times a smooth factor."""

    efficiency: AbstractEfficiency
    correction: SmoothCorrection

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.efficiency(energy) * self.correction(energy)

    def check_covers(self, low: Number, high: Number) -> None:
        self.efficiency.check_covers(low, high)

    @property
    def description(self) -> str:
        return f"{self.efficiency.description}, with a smooth correction"
