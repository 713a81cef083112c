"""At% and wt% with standard errors, per phase and per pixel."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._basis import Basis
from ._fisher import TILE, pixel_blocks


def phase_composition(
    weights: Float[np.ndarray, "column phase"],
    covariance: Float[np.ndarray, "entry entry"],
    rows: np.ndarray,
    per_atom: Float[np.ndarray, " element"],
) -> tuple[Float[np.ndarray, "element phase"], Float[np.ndarray, "element phase"]]:
    """Fractions of each phase and their standard errors.

    `c_j = w_j m_j / sum_l w_l m_l` over the composition `rows`, with `per_atom` m = 1 for atomic
    and the atomic weights for weight fractions; the errors by linear propagation of `covariance`
    (entries of W in row-major order). A phase without any element gives zeros.
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
    return fractions, errors


def pixel_composition(
    basis: Basis,
    weights: Float[np.ndarray, "column phase"],
    abundances: Float[np.ndarray, "phase pixel"],
    exposure: Float[np.ndarray, " pixel"],
    covariance: Float[np.ndarray, "entry entry"],
    free: Bool[np.ndarray, "phase pixel"],
    rows: np.ndarray,
    per_atom: Float[np.ndarray, " element"],
    plane: Float[np.ndarray, " phase"] | None = None,
) -> tuple[Float[np.ndarray, "element pixel"], Float[np.ndarray, "element pixel"]]:
    """Fractions of each pixel, the mix of its phases, and their standard errors.

    With x_j = sum_a w_ja h_a m_j, the errors carry both the noise of the pixel's own abundances
    (K_p) and that of W, which every pixel shares: dx = (h_a e_j - W K Cᵀ) dW + W dh.
    Pixels without counts get the fractions of zero content: NaN nowhere, zero everywhere.
    """
    w, cov = jnp.asarray(weights, float), jnp.asarray(covariance, float)
    mass = jnp.asarray(per_atom, float)
    normal = None if plane is None else jnp.asarray(plane, float)
    n_columns, n_phases = weights.shape
    content = w[jnp.asarray(rows)] * mass[:, None]
    select = (
        jnp.zeros((len(rows), n_columns)).at[jnp.arange(len(rows)), jnp.asarray(rows)].set(mass)
    )

    @jax.jit
    def tile(h, e, f):
        cross, inverse = pixel_blocks(basis, w, h, e, f, normal)
        amount = content @ h
        total = amount.sum(0)
        safe = jnp.where(total > 0, total, 1.0)
        fraction = amount / safe[None, :]
        direct = jnp.einsum("ij,ap->pija", select, h).reshape(-1, len(rows), n_columns * n_phases)
        through = jnp.einsum("ia,pab,pkb->pik", content, inverse, cross)
        jac_w = direct - through
        jac_h = jnp.broadcast_to(content[None], (h.shape[1], *content.shape))
        to_w = (jac_w - fraction.T[:, :, None] * jac_w.sum(1, keepdims=True)) / safe[:, None, None]
        to_h = (jac_h - fraction.T[:, :, None] * jac_h.sum(1, keepdims=True)) / safe[:, None, None]
        shared = jnp.einsum("pik,kl,pil->ip", to_w, cov, to_w)
        own = jnp.einsum("pia,pab,pib->ip", to_h, inverse, to_h)
        return fraction, jnp.sqrt(jnp.maximum(shared + own, 0.0))

    n_pixels = abundances.shape[1]
    missing = -n_pixels % TILE
    h = jnp.pad(jnp.asarray(abundances, float), ((0, 0), (0, missing)))
    e = jnp.pad(jnp.asarray(exposure, float)[None, :], ((0, 0), (0, missing)))
    f = jnp.pad(jnp.asarray(free), ((0, 0), (0, missing)))
    parts = [
        tile(h[:, i : i + TILE], e[:, i : i + TILE], f[:, i : i + TILE])
        for i in range(0, n_pixels + missing, TILE)
    ]
    fraction, error = (np.concatenate([np.asarray(p[i]) for p in parts], 1) for i in (0, 1))
    return fraction[:, :n_pixels], error[:, :n_pixels]
