"""At%, wt% and amounts with standard errors, per phase and per pixel."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._basis import Basis
from ._fisher import cut, free_inverse, joined, pixel_blocks


def phase_composition(
    weights: Float[np.ndarray, "column phase"],
    covariance: Float[np.ndarray, "entry entry"],
    rows: np.ndarray,
    per_atom: Float[np.ndarray, " element"],
) -> tuple[Float[np.ndarray, "element phase"], Float[np.ndarray, "element phase"]]:
    """Fractions of each phase and their standard errors.

    `c_j = w_j m_j / sum_l w_l m_l` over the composition `rows`, with `per_atom` m = 1 for atomic
    and the atomic weights for weight fractions; the errors by linear propagation of `covariance`
    (entries of W in row-major order), at most 1, which stands for "not known". A phase without any
    element gives zeros.
    """
    n_phases = weights.shape[1]
    entries = weights[rows] * per_atom[:, None]
    totals = entries.sum(0)
    fractions = entries / np.where(totals > 0, totals, 1.0)
    errors = np.zeros_like(fractions)
    for a in range(n_phases):
        if totals[a] <= 0:
            continue
        jacobian = (np.eye(len(rows)) - fractions[:, [a]]) * per_atom[None, :] / totals[a]
        index = np.asarray(rows) * n_phases + a
        block = covariance[np.ix_(index, index)]
        errors[:, a] = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", jacobian, block, jacobian), 0))
    return fractions, np.minimum(errors, 1.0)


def pixel_composition(
    basis: Basis,
    weights: Float[np.ndarray, "column phase"],
    abundances: Float[np.ndarray, "phase pixel"],
    exposure: Float[np.ndarray, " pixel"],
    covariance: Float[np.ndarray, "entry entry"],
    free: Bool[np.ndarray, "phase pixel"],
    known: Bool[np.ndarray, "phase pixel"],
    rows: np.ndarray,
    per_atom: Float[np.ndarray, " element"],
    plane: Float[np.ndarray, " phase"] | None = None,
) -> tuple[Float[np.ndarray, "element pixel"], Float[np.ndarray, "element pixel"]]:
    """Fractions of each pixel, the mix of its phases, and their standard errors.

    With x_j = sum_a w_ja h_a m_j, the errors carry both the noise of the pixel's own abundances
    (K_p) and that of W, which every pixel shares: dx = (h_a e_j - W K Cᵀ) dW + W dh. An abundance
    held at zero (neither `free` nor `known`) adds what letting it free alone would. Errors are at
    most 1, which stands for "not known". A pixel without abundance gets the mean of the phases'
    fractions, with their spread as error; one without any atom zeros that are not known.
    """
    rows = np.asarray(rows)
    select = np.zeros((len(rows), len(weights)))
    select[np.arange(len(rows)), rows] = per_atom
    content = weights[rows] * per_atom[:, None]
    totals = content.sum(0)
    each = content / np.where(totals > 0, totals, 1.0)
    blank = abundances.sum(0) <= 0
    # An even mix of atoms, seen with no count of its own.
    even = np.where(totals > 0, 1 / np.where(totals > 0, totals, 1.0), 0.0)
    fraction, variance = _pixels(
        basis,
        jnp.asarray(weights, float),
        jnp.asarray(np.where(blank, even[:, None], abundances), float),
        jnp.asarray(np.where(blank, 0.0, exposure)[None, :], float),
        jnp.asarray(free & ~blank),
        jnp.asarray(known | blank),
        jnp.asarray(covariance, float),
        jnp.asarray(select, float),
        jnp.ones((len(rows), weights.shape[1])),
        None if plane is None else jnp.asarray(plane, float),
    )
    fraction, variance = np.array(fraction), np.array(variance)
    variance[:, fraction.sum(0) <= 0] = 1.0
    if (totals > 0).any():
        variance[:, blank] += each[:, totals > 0].var(1, keepdims=True)
    return fraction, np.sqrt(np.clip(variance, 0.0, 1.0))


def pixel_amounts(
    basis: Basis,
    weights: Float[np.ndarray, "column phase"],
    abundances: Float[np.ndarray, "phase pixel"],
    exposure: Float[np.ndarray, " pixel"],
    covariance: Float[np.ndarray, "entry entry"],
    free: Bool[np.ndarray, "phase pixel"],
    known: Bool[np.ndarray, "phase pixel"],
    per_column: Float[np.ndarray, "amount column"],
    per_phase: Float[np.ndarray, "amount phase"],
    plane: Float[np.ndarray, " phase"] | None = None,
) -> tuple[Float[np.ndarray, "amount pixel"], Float[np.ndarray, "amount pixel"]]:
    """Amounts `x_ip = sum_ja m_ij w_ja h_ap f_ia` of each pixel, and their standard errors.

    m is `per_column` (an atomic weight, say), f `per_phase`. The errors hold the noise of the
    pixel's own abundances and that of W, as those of `pixel_composition` do. The amount in a pixel
    without abundance is zero, with an error that is not known (NaN).
    """
    amount, variance = _pixels(
        basis,
        jnp.asarray(weights, float),
        jnp.asarray(abundances, float),
        jnp.asarray(exposure[None, :], float),
        jnp.asarray(free),
        jnp.asarray(known),
        jnp.asarray(covariance, float),
        jnp.asarray(per_column, float),
        jnp.asarray(per_phase, float),
        None if plane is None else jnp.asarray(plane, float),
        relative=False,
    )
    error = np.sqrt(np.maximum(np.array(variance, np.float64), 0.0))
    error[:, abundances.sum(0) <= 0] = np.nan
    return np.array(amount, np.float64), error


@eqx.filter_jit
def _pixels(
    basis,
    weights,
    abundances,
    exposure,
    free,
    known,
    covariance,
    select,
    factor,
    plane,
    *,
    relative=True,
):
    """Amounts (row of `select`, pixel), or where `relative` their fractions, and the variances."""
    n_elements, n_phases = len(select), weights.shape[1]
    content = jnp.matmul(select, weights, precision="highest") * factor

    def tile(args):
        h, e, f, k = args
        cross, inner = pixel_blocks(basis.matrix, basis.endmembers(weights), h, e)
        inverse = free_inverse(inner, f.T, plane)
        amount = jnp.matmul(content, h, precision="highest")
        total = amount.sum(0)
        safe = jnp.where(total > 0, total, 1.0)
        fraction = amount / safe[None, :] if relative else amount

        def change(jacobian):
            """Change of the result by that of the amounts (pixel, element, ...)."""
            if not relative:
                return jacobian
            moved = fraction.T[:, :, None] * jacobian.sum(1, keepdims=True)
            return (jacobian - moved) / safe[:, None, None]

        direct = jnp.einsum("ij,ia,ap->pija", select, factor, h, precision="highest")
        through = jnp.einsum("ia,pab,pkb->pik", content, inverse, cross, precision="highest")
        to_w = change(direct.reshape(through.shape) - through)
        to_h = change(jnp.broadcast_to(content[None], (h.shape[1], *content.shape)))
        shared = jnp.einsum("pik,kl,pil->ip", to_w, covariance, to_w, precision="highest")
        own = jnp.einsum("pia,pab,pib->ip", to_h, inverse, to_h, precision="highest")
        for b in range(n_phases):
            alone = free_inverse(inner, (f | (jnp.arange(n_phases) == b)[:, None]).T, plane)
            moved = jnp.einsum("pia,pa->ip", to_h, alone[:, :, b], precision="highest")
            size = alone[:, b, b]
            held = ~f[b] & ~k[b] & (size > 0)
            own = own + jnp.where(held, 1 / jnp.where(held, size, 1.0), 0.0)[None, :] * moved**2
        return fraction, shared + own

    tiles = (cut(abundances, 0), cut(exposure, 0), cut(free, False), cut(known, True))
    fraction, variance = jax.lax.map(tile, tiles)
    n_pixels = abundances.shape[1]
    return (
        joined(fraction, n_pixels).reshape(n_elements, n_pixels),
        joined(variance, n_pixels).reshape(n_elements, n_pixels),
    )
