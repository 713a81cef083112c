"""Poisson negative log-likelihood and deviance of counts under Y = G W H."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._basis import Basis
from .._types import Abundances, Endmembers, Scalar, Weights
from ._counts import AbstractCounts


def exposure_or_one(counts: AbstractCounts) -> Float[Array, "one pixel"]:
    """The exposure of each pixel as a row, ones where none is known."""
    if counts.exposure is None:
        return jnp.ones((1, counts.n_pixels))
    return counts.exposure[None, :]


def pixel_losses(
    counts: AbstractCounts, endmembers: Endmembers, abundances: Abundances
) -> Float[Array, " pixel"]:
    """Poisson NLL of each pixel: `sum_c (D H)[c, p] - Y[c, p] log (D H)[c, p]`."""
    return _expected(counts, endmembers, abundances) - (
        counts.log_pass(endmembers, abundances) + _log_exposure(counts)
    )


def pixel_excess(
    counts: AbstractCounts, endmembers: Endmembers, abundances: Abundances
) -> Float[Array, " pixel"]:
    """By how much the NLL of each pixel exceeds that of a perfect fit: half its deviance.

    Two models are compared by differences of this, taken before the sum over pixels: it is much
    smaller than the NLL, and so is its rounding in single precision.
    """
    return counts.excess_pass(endmembers, abundances * exposure_or_one(counts))


def poisson_nll(
    counts: AbstractCounts, basis: Basis, weights: Weights, abundances: Abundances
) -> Scalar:
    """`sum(GWH) - sum(Y log GWH)`, without the constant `sum(log Y!)`; in nats."""
    return pixel_losses(counts, basis.endmembers(weights), abundances).sum()


def poisson_deviance(
    counts: AbstractCounts, basis: Basis, weights: Weights, abundances: Abundances
) -> Scalar:
    """`2 sum(Y log(Y / GWH) - Y + GWH)`: zero for a perfect fit."""
    return 2 * pixel_excess(counts, basis.endmembers(weights), abundances).sum()


def _expected(counts, endmembers, abundances):
    """Expected counts of each pixel."""
    expected = (endmembers.sum(0)[:, None] * abundances).sum(0)
    return expected if counts.exposure is None else counts.exposure * expected


def _log_exposure(counts):
    """`sum_c Y[c, p] log exposure[p]`; a pixel without exposure has no counts either."""
    if counts.exposure is None:
        return 0.0
    return counts.pixel_totals() * jnp.log(jnp.where(counts.exposure > 0, counts.exposure, 1.0))
