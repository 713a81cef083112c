"""Fisher information of W and H together, H marginalised pixel by pixel.

With y = e D h the expected counts of a pixel (e its exposure), the expected information has blocks

    I_WW[(j,a),(l,b)] = sum_p sum_c e G_cj h_a G_cl h_b / (D h)_c
    C_p [(j,b), a]    = h_b sum_c e G_cj D_ca / (D h)_c
    A_p [a, b]        =     sum_c e D_ca D_cb / (D h)_c

and the covariance of W with every abundance left free is the inverse of the Schur complement
S = I_WW - sum_p C_p K_p C_pᵀ, K_p being the inverse of A_p on the free abundances (and on their
sum-to-one plane where that is asked for). Entries held at zero by the counts take no part: they
are what breaks the mixing ambiguity between phases. A prior on H counts only in what it holds at
zero, not as information, and a G that follows W is taken as it is. Only one tile of pixels is in
memory at a time.

These are errors of counting alone. They leave out every bias: abundances that are truly zero are,
with noise, positive on average, so that pure phases share a little of each other, the more the
fewer counts a pixel (or bin) has, however many there are; and a purity or smoothness prior pulls.
Such shifts can be several times the errors: in the demonstration (30 counts per pixel) magnesium of
Ca-perovskite is 3 standard errors from the truth.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._basis import Basis
from .._seldom import seldom_run
from .._types import Abundances, Endmembers, Weights
from ..objective import SumToOneAbundances, SumToOneWeights, exposure_or_one
from ..solve import Fixed, Problem

TILE = 256

#: Expected counts of a channel, as a share of the pixel's highest, that are as good as none.
NOTHING = 1e-20

#: Least information in a direction, as a share of what it is with the bounds x >= 0 counted.
BOUND_SHARE = 0.25


class Information(eqx.Module):
    """What the counts say about W, and which entries take part.

    - `schur`: (column·phase, column·phase), H marginalised, before any gauge is fixed.
    - `bounded`: the same with the bounds counted: 1 / x² added for every free entry x of W and H,
        but no more than the information on that entry alone.
    - `weights_free`: True where the counts would move the entry both up and down.
    - `weights_known`: True where the user fixed the entry. What is neither is held at zero.
    - `scale_known`: True for a phase whose scale is no matter of gauge.
    - `summed`: rows of W whose sum is held at one in every phase of known scale, or `None`.
    """

    schur: Float[np.ndarray, "entry entry"]
    bounded: Float[np.ndarray, "entry entry"]
    weights_free: Bool[np.ndarray, "column phase"]
    weights_known: Bool[np.ndarray, "column phase"]
    scale_known: Bool[np.ndarray, " phase"]
    summed: Bool[np.ndarray, " column"] | None = None


@seldom_run
def free_abundances(
    problem: Problem, weights: Weights, abundances: Abundances
) -> Bool[Array, "phase pixel"]:
    """Entries of H that a Newton step of their own would leave positive, and that are not fixed."""
    counts = problem.counts
    endmembers = problem.basis.endmembers(weights)
    exposure = exposure_or_one(counts)
    gradient = endmembers.sum(0)[:, None] * exposure - counts.pixel_pass(endmembers, abundances)
    maps = abundances.reshape(-1, *counts.scan_shape)
    plus, minus = problem.regulariser.gradient_split(maps)
    gradient = gradient + (plus - minus).reshape(abundances.shape)
    if isinstance(problem.constraint, SumToOneAbundances):
        gradient = gradient - (abundances * gradient).sum(0, keepdims=True)
    curvature = _tiled(
        lambda ratio, h: jnp.matmul((endmembers**2).T, ratio, precision="highest"),
        endmembers,
        abundances,
        exposure,
        add=False,
    )
    free = abundances * curvature > gradient
    fixed = problem.fixed_abundances
    return free if fixed is None else free & ~fixed.mask


@seldom_run
def free_weights(
    problem: Problem, weights: Weights, abundances: Abundances
) -> Bool[Array, "column phase"]:
    """Entries of W that a Newton step of their own would leave positive, and that are not fixed."""
    counts, basis = problem.counts, problem.basis
    endmembers = basis.endmembers(weights)
    exposure = exposure_or_one(counts)
    gradient = basis.column_sums * (abundances * exposure).sum(1)[None, :] - basis.back_project(
        counts.channel_pass(endmembers, abundances)
    )
    second = _tiled(
        lambda ratio, h: jnp.matmul(ratio, (h**2).T, precision="highest"),
        endmembers,
        abundances,
        exposure,
        add=True,
    )
    squared = Basis(basis.matrix**2, basis.columns)
    free = weights * squared.back_project(second) > gradient
    fixed = problem.fixed_weights
    return free if fixed is None else free & ~fixed.mask


def information(
    problem: Problem,
    weights: Weights,
    abundances: Abundances,
    scale: Float[np.ndarray | Array, " phase"] | None = None,
) -> Information:
    """Expected Fisher information of W at (W, H), H marginalised.

    With `scale` s it is that of W / s, whose abundances are H s: another gauge of the same model.
    It is computed where every phase's spectrum sums to one, so that H counts and nothing is lost
    in single precision, and scaled from there in double.
    """
    w_free = free_weights(problem, weights, abundances)
    h_free = free_abundances(problem, weights, abundances)
    n_phases = weights.shape[1]
    asked = np.ones(n_phases) if scale is None else np.asarray(scale, np.float64)
    each = np.asarray(weights, np.float64)
    unit = (np.asarray(problem.basis.column_sums, np.float64) * each).sum(0)
    unit = np.where(unit == 0, 1.0, unit)
    on_plane = isinstance(problem.constraint, SumToOneAbundances)
    own, lost, bounded = blocks(
        problem.basis.matrix,
        problem.basis.endmembers(jnp.asarray(each / unit[None, :], weights.dtype)),
        jnp.asarray(np.asarray(abundances, np.float64) * unit[:, None], weights.dtype),
        exposure_or_one(problem.counts),
        h_free,
        jnp.asarray(unit.max() / unit, weights.dtype) if on_plane else None,
    )
    noise = 256 * float(jnp.finfo(weights.dtype).eps)
    own, lost, bounded = (np.asarray(x, np.float64) for x in (own, lost, bounded))
    schur, bounded = own - lost, own - bounded
    schur = (schur + schur.T) / 2
    alone = np.diag(own)
    inside = (each / unit[None, :]).ravel()
    near = ~(inside**2 * alone > 1)
    bounds = np.where(near, alone, 1 / np.where(near, 1.0, inside) ** 2)
    bounds = np.where(np.asarray(w_free).ravel(), bounds, 0.0)
    bounded = (bounded + bounded.T) / 2 + np.diag(bounds)
    nothing = np.diag(schur) <= noise * alone
    schur[nothing, :] = 0.0
    schur[:, nothing] = 0.0
    per_entry = np.tile(asked / unit, weights.shape[0])
    to_asked = per_entry[:, None] * per_entry[None, :]
    known_w, known_h = problem.fixed_weights, problem.fixed_abundances
    return Information(
        schur * to_asked,
        bounded * to_asked,
        np.asarray(w_free),
        np.zeros(weights.shape, bool) if known_w is None else np.asarray(known_w.mask),
        _pinned(known_w, 0, n_phases) | _pinned(known_h, 1, n_phases) | on_plane,
        problem.basis.composition_rows if isinstance(problem.constraint, SumToOneWeights) else None,
    )


def _pinned(fixed: Fixed | None, axis: int, n_phases: int) -> np.ndarray:
    """Phases with an entry fixed above zero, which takes away their freedom of scale."""
    if fixed is None:
        return np.zeros(n_phases, bool)
    return np.any(np.asarray(fixed.mask) & (np.asarray(fixed.values) > 0), axis)


def weights_covariance(
    weights: Float[np.ndarray, "column phase"], information: Information
) -> Float[np.ndarray, "entry entry"]:
    """Covariance of the entries of W, in row-major order.

    Directions that the counts leave open (the mixing of phases that are nowhere pure, and the
    scale of a phase, which is a matter of gauge) are closed by the bounds x >= 0: nowhere is there
    less than a quarter of the information that the distances to them would give. An entry held at
    zero gets the variance it would have if it alone were let free, and the free ones what they
    would follow it by. One that the counts say nothing about gets the square of its phase's
    total, a known one zero. Where the information on an entry is not finite its covariances are
    NaN, and the others are as if it were known.
    """
    n_columns, n_phases = weights.shape
    schur, bounded, bad = _finite(information.schur, information.bounded)
    known = information.weights_known.ravel() | bad
    most = np.diag(bounded)
    told = (most > 0) & ~known
    free = information.weights_free.ravel() & told
    metric = np.where(told, 1 / np.sqrt(np.where(told, most, 1.0)), 0.0)
    inside = np.flatnonzero(free)
    scaled = schur * metric[:, None] * metric[None, :]
    least = BOUND_SHARE * bounded * metric[:, None] * metric[None, :]
    scaled[np.ix_(inside, inside)] = _at_least(
        scaled[np.ix_(inside, inside)], least[np.ix_(inside, inside)]
    )
    if information.summed is not None:
        for a in np.flatnonzero(information.scale_known):
            normal = np.zeros((n_columns, n_phases))
            normal[information.summed, a] = 1.0
            along = np.where(free, normal.ravel() * metric, 0.0)
            scaled = scaled + 1e8 * np.outer(along, along) / max(along @ along, 1e-300)
    out = np.zeros_like(schur)
    inner = _inverse(scaled[np.ix_(inside, inside)])
    out[np.ix_(inside, inside)] = inner
    rest = _inverse(least[np.ix_(inside, inside)])
    for i in np.flatnonzero(told & ~free):
        found = 1e-10, np.zeros(len(inside))
        for matrix, inverse in ((scaled, inner), (least, rest)):
            answer = -inverse @ matrix[inside, i]
            found = max(found, (matrix[i, i] + matrix[i, inside] @ answer, answer), key=_first)
        along = np.zeros(len(out))
        along[i], along[inside] = 1.0, found[1]
        out += np.outer(along, along) / found[0]
    out = out * metric[:, None] * metric[None, :]
    blank = np.flatnonzero(~told & ~known)
    out[blank, blank] = weights.sum(0)[blank % n_phases] ** 2
    out[bad, :] = out[:, bad] = np.nan
    return out


def _finite(*matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two matrices with zeros for entries that are not finite in either, and which these are."""
    broken = ~np.all(np.isfinite(np.stack(matrices)), axis=0)
    bad = np.diag(broken).copy()
    bad |= broken[:, ~bad].any(1)
    one, other = (np.where(bad[:, None] | bad[None, :], 0.0, m) for m in matrices)
    return one, other, bad


def _at_least(matrix: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The matrix with its eigenvalues relative to `least` (positive) raised to one."""
    sizes, axes = np.linalg.eigh(least)
    sizes = np.sqrt(np.maximum(sizes, 1e-10 * sizes.max(initial=1e-300)))
    whitened = (axes / sizes).T @ matrix @ (axes / sizes)
    values, vectors = np.linalg.eigh(whitened)
    root = (axes * sizes) @ vectors
    return matrix + (root * np.maximum(1 - values, 0)) @ root.T


def _first(pair: tuple[float, np.ndarray]) -> float:
    return pair[0]


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive matrix; directions without information get a very large variance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.maximum(values, 1e-10)) @ vectors.T


def pixel_blocks(
    matrix: Float[Array, "*phase channel column"],
    endmembers: Endmembers,
    abundances: Float[Array, "phase tile"],
    exposure: Float[Array, "one tile"],
) -> tuple[Float[Array, "tile entry phase"], Float[Array, "tile phase phase"]]:
    """(C_p, A_p) of a tile of pixels; `matrix` holds the changes of D by each column of W."""
    n_phases = endmembers.shape[1]
    ratio = _ratio(endmembers, abundances, exposure)
    pairs = endmembers[:, :, None] * endmembers[:, None, :]
    inner = jnp.einsum("cab,cp->pab", pairs, ratio, precision="highest")
    if matrix.ndim == 3:
        products = jnp.einsum("bcj,ca->cjba", matrix, endmembers, precision="highest")
        cross = jnp.einsum("cjba,cp->pjba", products, ratio, precision="highest")
    else:
        products = matrix[:, :, None] * endmembers[:, None, :]
        cross = jnp.einsum("cja,cp->pja", products, ratio, precision="highest")[:, :, None, :]
    cross = cross * abundances.T[:, None, :, None]
    return cross.reshape(len(cross), -1, n_phases), inner


@eqx.filter_jit
def blocks(
    matrix: Float[Array, "*phase channel column"],
    endmembers: Endmembers,
    abundances: Abundances,
    exposure: Float[Array, "one pixel"],
    free: Bool[Array, "phase pixel"],
    plane: Float[Array, " phase"] | None,
) -> tuple[Float[Array, "entry entry"], Float[Array, "entry entry"], Float[Array, "entry entry"]]:
    """I_WW, what of it is lost to the unknown H, and what is lost with H kept in its bounds.

    `matrix` holds the changes of D by each column of W, which is G where G does not follow W.
    """
    n_phases = endmembers.shape[1]
    size = matrix.shape[-1] * n_phases

    def add(total, tile):
        h, e, f = tile
        ratio = _ratio(endmembers, h, e)
        second = jnp.einsum("cp,ap,bp->cab", ratio, h, h, precision="highest")
        cross, inner = pixel_blocks(matrix, endmembers, h, e)
        most = jnp.einsum("paa->pa", inner)
        bounds = jnp.where(h.T**2 * most > 1, 1 / jnp.where(h > 0, h, 1.0).T ** 2, most)
        bounds = jnp.where(f.T, bounds, 0.0)[:, :, None] * jnp.eye(n_phases, dtype=h.dtype)[None]
        losses = (
            jnp.einsum(
                "pia,pab,pjb->ij",
                cross,
                free_inverse(each, f.T, plane),
                cross,
                precision="highest",
            )
            for each in (inner, inner + bounds)
        )
        return (total[0] + second, *(t + x for t, x in zip(total[1:], losses, strict=True))), None

    start = (
        jnp.zeros((endmembers.shape[0], n_phases, n_phases), endmembers.dtype),
        jnp.zeros((size, size), endmembers.dtype),
        jnp.zeros((size, size), endmembers.dtype),
    )
    tiles = tuple(cut(x, v) for x, v in ((abundances, 0), (exposure, 0), (free, False)))
    (second, lost, bounded), _ = jax.lax.scan(add, start, tiles)
    equation = "acj,bcl,cab->jalb" if matrix.ndim == 3 else "cj,cl,cab->jalb"
    own = jnp.einsum(equation, matrix, matrix, second, precision="highest")
    return own.reshape(size, size), lost, bounded


def free_inverse(
    matrix: Float[Array, "tile phase phase"],
    free: Bool[Array, "tile phase"],
    plane: Float[Array, " phase"] | None,
) -> Float[Array, "tile phase phase"]:
    """Inverse on the free entries, zero elsewhere; on the plane `n · x = 0` if there is one."""
    diagonal = jnp.einsum("paa->pa", matrix)
    used = free & (diagonal > 0)
    metric = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, diagonal, 1.0)), 0.0)
    both = metric[:, :, None] * metric[:, None, :]
    ridge = 16 * jnp.finfo(matrix.dtype).eps
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None]
    extra = jnp.where(used, ridge, 1.0).astype(matrix.dtype)
    inverse = jnp.linalg.inv(matrix * both + eye * extra[:, :, None]) * both
    if plane is not None:
        along = jnp.einsum("pab,b->pa", inverse, plane, precision="highest")
        total = jnp.einsum("pa,a->p", along, plane, precision="highest")[:, None, None]
        inverse = inverse - along[:, :, None] * along[:, None, :] / jnp.where(total > 0, total, 1.0)
    return inverse


def _ratio(endmembers, abundances, exposure):
    """`e / (D h)`; zero where nothing, or next to nothing, is expected, which tells no error."""
    model = jnp.matmul(endmembers, abundances, precision="highest")
    seen = model > NOTHING * model.max(0, keepdims=True)
    return jnp.where(seen, exposure / jnp.where(seen, model, 1.0), 0.0)


def cut(rows: Array, fill: int | bool) -> Array:
    """(row, pixel) cut along pixels: (tile, row, TILE), padded with `fill`."""
    padded = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % TILE)), constant_values=fill)
    return jnp.moveaxis(padded.reshape(len(rows), -1, TILE), 1, 0)


def joined(tiles: Array, n_pixels: int) -> Array:
    """The reverse of `cut`."""
    rows = jnp.moveaxis(tiles, 0, 1)
    return rows.reshape(len(rows), -1)[:, :n_pixels]


def _tiled(function, endmembers, abundances, exposure, add):
    """`function(ratio, h)` tile by tile: summed over tiles, or joined along pixels."""

    def one(tile):
        h, e = tile
        return function(_ratio(endmembers, h, e), h)

    tiles = (cut(abundances, 0), cut(exposure, 0))
    if add:
        shape = jax.eval_shape(one, (tiles[0][0], tiles[1][0]))
        zeros = jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.scan(lambda total, t: (total + one(t), None), zeros, tiles)[0]
    return joined(jax.lax.map(one, tiles), abundances.shape[1])
