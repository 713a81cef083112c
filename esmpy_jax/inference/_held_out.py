"""How well a fit to a part of the counts predicts the others, and what to choose by that."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Abundances, Endmembers
from ..objective import AbstractCounts, exposure_or_one, pixel_excess


@eqx.filter_jit
def held_out_losses(
    counts: AbstractCounts, endmembers: Endmembers, abundances: Abundances
) -> Float[Array, " pixel"]:
    """Nats by which each pixel's counts are less likely than under a perfect prediction.

    The number of counts of a pixel is taken as known: the score is that of the multinomial shares,
    `-sum_c Y_c log(m_c / n_c)` with `m` proportional to G W H and n the frequencies found. It
    depends neither on dose nor on thickness, and adds up over pixels. With `Y` that the fit has
    not seen (see `thin`), differences of it between fits have an expectation that is lowest for
    the fit closest to the truth (Kullback–Leibler).
    """
    each = endmembers.sum(0)
    shares = abundances * each[:, None]
    total = jnp.broadcast_to(shares.sum(0, keepdims=True), shares.shape)
    even = jnp.full_like(shares, 1 / len(shares))
    shares = jnp.where(total > 0, shares / jnp.where(total > 0, total, 1.0), even)
    exposure = jnp.broadcast_to(exposure_or_one(counts), (1, counts.n_pixels))
    per_exposure = counts.pixel_totals()[None, :] / jnp.where(exposure > 0, exposure, 1.0)
    unit = endmembers / jnp.where(each > 0, each, 1.0)[None, :]
    return pixel_excess(counts, unit, shares * per_exposure)


def difference(
    losses: Float[np.ndarray, " pixel"], best: Float[np.ndarray, " pixel"]
) -> tuple[float, float]:
    """Sum over the pixels of `losses - best`, and its standard error from their scatter."""
    each = np.asarray(losses, np.float64) - np.asarray(best, np.float64)
    return float(each.sum()), float(each.std() * np.sqrt(each.size))


def within_error(losses: list[np.ndarray]) -> int:
    """The first of the fits that is worse than the best one by at most one standard error.

    The rule of Breiman, Friedman, Olshen & Stone (*Classification and Regression Trees*, 1984,
    section 3.4.3), with the error of the difference, as all fits are judged by the same counts.
    Give the fits with the simplest one first.
    """
    best = int(np.argmin([np.sum(x, dtype=np.float64) for x in losses]))
    for i in range(best):
        worse, error = difference(losses[i], losses[best])
        if worse <= error:
            return i
    return best
