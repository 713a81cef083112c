"""Fisher information of W and H together, H marginalised pixel by pixel.

With y = e D h the expected counts of a pixel (e its exposure), the expected information has blocks

    I_WW[(j,a),(l,b)] = sum_p sum_c e G_cj h_a G_cl h_b / (D h)_c
    C_p [(j,b), a]    = h_b sum_c e G_cj D_ca / (D h)_c
    A_p [a, b]        =     sum_c e D_ca D_cb / (D h)_c

and the covariance of W with every abundance left free is the inverse of the Schur complement
S = I_WW - sum_p C_p K_p C_pᵀ, K_p being the inverse of A_p on the free abundances (and on their
sum-to-one plane where that is asked for). Entries held at zero by the counts take no part: they
are what breaks the mixing ambiguity between phases. Only one tile of pixels is in memory at a time.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._basis import Basis
from .._types import Abundances, Weights
from ..objective import SumToOneAbundances, exposure_or_one
from ..solve import Problem

TILE = 256


class Information(eqx.Module):
    """What is known about W, and which entries the counts hold at zero.

    - `schur`: (column·phase, column·phase), H marginalised, before any gauge is fixed.
    - `weights_free`, `abundances_free`: False where the entry is at its bound or fixed.
    - `plane`: vector n where the abundances of a pixel obey `sum_a n_a H_a = 1`, else `None`.
    """

    schur: Float[np.ndarray, "entry entry"]
    weights_free: Bool[np.ndarray, "column phase"]
    abundances_free: Bool[np.ndarray, "phase pixel"]
    plane: Float[np.ndarray, " phase"] | None = None


@eqx.filter_jit
def free_entries(
    problem: Problem, weights: Weights, abundances: Abundances
) -> tuple[Bool[Array, "column phase"], Bool[Array, "phase pixel"]]:
    """Entries that a Newton step of their own would leave positive, and that are not fixed."""
    counts, basis = problem.counts, problem.basis
    endmembers = basis.endmembers(weights)
    exposure = exposure_or_one(counts)
    gradient = endmembers.sum(0)[:, None] * exposure - counts.pixel_pass(endmembers, abundances)
    maps = abundances.reshape(-1, *counts.scan_shape)
    plus, minus = problem.regulariser.gradient_split(maps)
    gradient = gradient + (plus - minus).reshape(abundances.shape)
    if isinstance(problem.constraint, SumToOneAbundances):
        gradient = gradient - (abundances * gradient).sum(0, keepdims=True)
    curvature = _tiled_sum(
        lambda ratio, h, e: (endmembers**2).T @ ratio, endmembers, abundances, exposure, False
    )
    h_free = abundances * curvature > gradient
    w_gradient = basis.column_sums * (abundances * exposure).sum(1)[None, :] - basis.back_project(
        counts.channel_pass(endmembers, abundances)
    )
    second = _tiled_sum(
        lambda ratio, h, e: ratio @ (h**2).T, endmembers, abundances, exposure, True
    )
    squared = Basis(basis.matrix**2, basis.columns)
    w_free = weights * squared.back_project(second) > w_gradient
    if problem.fixed_weights is not None:
        w_free = w_free & ~problem.fixed_weights.mask
    if problem.fixed_abundances is not None:
        h_free = h_free & ~problem.fixed_abundances.mask
    return w_free, h_free


def information(
    problem: Problem,
    weights: Weights,
    abundances: Abundances,
    scale: Float[Array, " phase"] | None = None,
) -> Information:
    """Expected Fisher information of W at (W, H), H marginalised.

    With `scale` s it is that of W / s, whose abundances are H s: another gauge of the same model.
    """
    w_free, h_free = free_entries(problem, weights, abundances)
    scale = jnp.ones(weights.shape[1], weights.dtype) if scale is None else scale
    plane = None
    if isinstance(problem.constraint, SumToOneAbundances):
        plane = 1 / scale
    schur = _schur(
        problem.basis,
        weights / scale[None, :],
        abundances * scale[:, None],
        exposure_or_one(problem.counts),
        h_free,
        plane,
    )
    schur = np.asarray(schur, np.float64)
    return Information(
        (schur + schur.T) / 2,
        np.asarray(w_free),
        np.asarray(h_free),
        None if plane is None else np.asarray(plane),
    )


def weights_covariance(
    weights: Float[np.ndarray, "column phase"],
    schur: Float[np.ndarray, "entry entry"],
    free: Bool[np.ndarray, "column phase"],
) -> Float[np.ndarray, "entry entry"]:
    """Covariance of the entries of W for a fixed total of each phase.

    The scale of a phase is a matter of gauge, so a stiff term holds `sum(w²)`-wise changes of it;
    nothing that does not depend on the scale (at%, shares) feels it. An entry at its bound gets
    the variance it would have if it alone were let free, and no correlation.
    """
    n_columns, n_phases = weights.shape
    flat = weights.ravel()
    keep = free.ravel() & (np.diag(schur) > 0)
    metric = np.where(np.diag(schur) > 0, 1 / np.sqrt(np.maximum(np.diag(schur), 1e-300)), 0.0)
    scaled = schur * metric[:, None] * metric[None, :]
    for a in range(n_phases):
        direction = np.zeros((n_columns, n_phases))
        direction[:, a] = weights[:, a]
        along = direction.ravel() / np.where(metric > 0, metric, np.inf)
        along = np.where(keep, along, 0.0)
        size = np.linalg.norm(along)
        if size > 0:
            scaled = scaled + np.outer(along, along) / size**2
    inside = np.flatnonzero(keep)
    out = np.zeros_like(schur)
    inner = _inverse(scaled[np.ix_(inside, inside)])
    out[np.ix_(inside, inside)] = inner
    for i in np.flatnonzero(~keep & (metric > 0) & (flat >= 0)):
        cross = scaled[i, inside]
        out[i, i] = 1 / max(scaled[i, i] - cross @ inner @ cross, 1e-12)
    return out * metric[:, None] * metric[None, :]


def _inverse(matrix):
    """Inverse of a positive matrix; directions without information get a very large variance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.maximum(values, 1e-10)) @ vectors.T


def pixel_blocks(
    basis: Basis,
    weights: Weights,
    abundances: Float[Array, "phase tile"],
    exposure: Float[Array, "one tile"],
    free: Bool[Array, "phase tile"],
    plane: Float[Array, " phase"] | None,
) -> tuple[Float[Array, "tile entry phase"], Float[Array, "tile phase phase"]]:
    """(C_p, K_p) of a tile of pixels."""
    endmembers = basis.endmembers(weights)
    n_phases = endmembers.shape[1]
    ratio = _ratio(endmembers, abundances, exposure)
    pairs = endmembers[:, :, None] * endmembers[:, None, :]
    inner = jnp.einsum("cab,cp->pab", pairs, ratio, precision="highest")
    if basis.depends_on_phase:
        products = jnp.einsum("bcj,ca->cjba", basis.matrix, endmembers)
        cross = jnp.einsum("cjba,cp->pjba", products, ratio, precision="highest")
    else:
        products = basis.matrix[:, :, None] * endmembers[:, None, :]
        cross = jnp.einsum("cja,cp->pja", products, ratio, precision="highest")[:, :, None, :]
    cross = cross * abundances.T[:, None, :, None]
    cross = cross.reshape(len(cross), -1, n_phases)
    return cross, _free_inverse(inner, free.T, plane)


@eqx.filter_jit
def _schur(basis, weights, abundances, exposure, free, plane):
    endmembers = basis.endmembers(weights)
    n_columns, n_phases = weights.shape
    size = n_columns * n_phases

    def add(total, tile):
        h, e, f = tile
        ratio = _ratio(endmembers, h, e)
        second = jnp.einsum("cp,ap,bp->cab", ratio, h, h, precision="highest")
        cross, inverse = pixel_blocks(basis, weights, h, e, f, plane)
        left = jnp.einsum("pia,pab->pib", cross, inverse, precision="highest")
        lost = jnp.einsum("pib,pjb->ij", left, cross, precision="highest")
        return (total[0] + second, total[1] + lost), None

    start = (
        jnp.zeros((endmembers.shape[0], n_phases, n_phases), endmembers.dtype),
        jnp.zeros((size, size), endmembers.dtype),
    )
    tiles = tuple(_tiles(x, v) for x, v in ((abundances, 0), (exposure, 0), (free, False)))
    (second, lost), _ = jax.lax.scan(add, start, tiles)
    if basis.depends_on_phase:
        own = jnp.einsum(
            "acj,bcl,cab->jalb", basis.matrix, basis.matrix, second, precision="highest"
        )
    else:
        own = jnp.einsum("cj,cl,cab->jalb", basis.matrix, basis.matrix, second, precision="highest")
    return own.reshape(size, size) - lost


def _free_inverse(matrix, free, plane):
    """Inverse on the free entries, zero elsewhere; on the plane `n · x = 0` if there is one."""
    mask = free.astype(matrix.dtype)
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None]
    trace = jnp.einsum("paa->p", matrix)[:, None, None]
    ridge = jnp.where(trace > 0, trace, 1.0) * (16 * jnp.finfo(matrix.dtype).eps)
    both = mask[:, :, None] * mask[:, None, :]
    inner = matrix * both + eye * (ridge + (1 - mask)[:, :, None])
    inverse = jnp.linalg.inv(inner) * both
    if plane is not None:
        along = jnp.einsum("pab,b->pa", inverse, plane)
        total = jnp.einsum("pa,a->p", along, plane)[:, None, None]
        inverse = inverse - along[:, :, None] * along[:, None, :] / jnp.where(total > 0, total, 1.0)
    return inverse


def _ratio(endmembers, abundances, exposure):
    model = jnp.matmul(endmembers, abundances, precision="highest")
    return jnp.where(model > 0, exposure / jnp.where(model > 0, model, 1.0), 0.0)


def _tiles(rows, fill):
    """(row, pixel) cut along pixels: (tile, row, TILE), padded with `fill`."""
    missing = -rows.shape[1] % TILE
    padded = jnp.pad(rows, ((0, 0), (0, missing)), constant_values=fill)
    return jnp.moveaxis(padded.reshape(len(rows), -1, TILE), 1, 0)


def _tiled_sum(function, endmembers, abundances, exposure, add):
    """`function(ratio, h, e)` tile by tile: summed over tiles, or joined along pixels."""

    def one(tile):
        h, e = tile
        return function(_ratio(endmembers, h, e), h, e)

    tiles = (_tiles(abundances, 0), _tiles(exposure, 0))
    if add:
        shape = jax.eval_shape(one, (tiles[0][0], tiles[1][0]))
        zeros = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.scan(lambda total, t: (total + one(t), None), zeros, tiles)[0]
    out = jnp.moveaxis(jax.lax.map(one, tiles), 0, 1)
    return out.reshape(len(out), -1)[:, : abundances.shape[1]]
