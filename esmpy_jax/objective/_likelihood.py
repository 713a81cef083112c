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
    """Poisson NLL of each pixel: `sum_c (D H)[c, p] - Y[c, p] log (D H)[c, p]`.

    Kept per pixel so that two models can be compared by differences before sums, which is what
    keeps float32 honest.
    """
    expected = (endmembers.sum(0)[:, None] * abundances).sum(0)
    logs = counts.log_pass(endmembers, abundances)
    if counts.exposure is None:
        return expected - logs
    totals = counts.pixel_totals()
    exposure = jnp.maximum(counts.exposure, jnp.finfo(expected.dtype).tiny)
    return counts.exposure * expected - logs - totals * jnp.log(exposure)


def poisson_nll(
    counts: AbstractCounts, basis: Basis, weights: Weights, abundances: Abundances
) -> Scalar:
    """`sum(GWH) - sum(Y log GWH)`, without the constant `sum(log Y!)`; in nats."""
    return pixel_losses(counts, basis.endmembers(weights), abundances).sum()


def poisson_deviance(
    counts: AbstractCounts, basis: Basis, weights: Weights, abundances: Abundances
) -> Scalar:
    """`2 sum(Y log(Y / GWH) - Y + GWH)`: zero for a perfect fit."""
    losses = pixel_losses(counts, basis.endmembers(weights), abundances)
    return 2 * (losses + counts.saturated_log()).sum()
