"""The quadratic model of the objective as a function of W, with H eliminated."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basis import Basis
from .._types import Abundances, Endmembers, Scalar, Weights
from ..objective import SumToOneAbundances, exposure_or_one, pairs
from ._solver import Problem
from ._updates import Fixed, doses

#: Pixels whose share of the Schur complement is computed at once.
_CHUNK = 2048

#: Scaled curvature below which a direction is taken for one that leads down from a saddle; rounding
#: in single precision makes some 1e-6.
_SADDLE = 3e-5


class WeightSums(eqx.Module):
    """Gradient, Hessian and dose in W with H eliminated: sums over pixels, of parts or of all."""

    gradient: Float[Array, " entry"]
    hessian: Float[Array, "entry entry"]
    dose: Float[Array, " phase"]


class Reduced(eqx.Module):
    """`g'd + d'S d / 2` in the entries of W, scaled by the metric of the multiplicative update.

    In that metric the curvature of the likelihood without H is at most about one, which makes the
    damping and the smallest curvature that is believed numbers without a unit.
    """

    gradient: Float[Array, " entry"]
    away: Float[Array, " entry"]  # the gradient, but not below what leads away from a saddle
    values: Float[Array, " entry"]  # eigenvalues of the scaled S
    vectors: Float[Array, "entry entry"]
    metric: Float[Array, " entry"]  # dW = metric * d
    lower: Float[Array, " entry"]  # d >= lower
    free: Bool[Array, " entry"]
    n_columns: int = eqx.field(static=True)
    # how H follows: C in parts, of each pixel; None where only sums over pixels are at hand
    cross: Float[Array, "column phase_or_1 phase pixel"] | None = None
    linear: Float[Array, "column phase_or_1 pixel"] | None = None
    abundances: Abundances | None = None
    # directions that a step may not have, one for each phase; None where W is free
    normals: Float[Array, "phase entry"] | None = None

    def step(
        self, damping: Scalar, gradient: Float[Array, " entry"]
    ) -> tuple[Weights, Scalar, Scalar]:
        """The step of W for a damping, the decrease of the damped model, and that of the slope.

        - `gradient`: that of the model, or the one that leads `away` from saddles.
        """
        n_entries = len(self.gradient)
        values = jnp.maximum(jnp.abs(self.values), _least(self.values.dtype)) + damping
        matrix = (self.vectors * values[None, :]) @ self.vectors.T
        both = self.free[:, None] & self.free[None, :]
        matrix = jnp.where(both, matrix, jnp.eye(n_entries, dtype=matrix.dtype))
        scaled = box_minimum(matrix, gradient, self.lower, self.free, self.normals)
        decrease = -(scaled @ (gradient + 0.5 * matrix @ scaled))
        move = (self.metric * scaled).reshape(self.n_columns, -1)
        return move, decrease, -(scaled @ self.gradient)

    def coupling(self, move: Weights) -> Float[Array, "phase pixel"]:
        """C'dW: the change of the gradient of H that a step of W makes."""
        h = self.abundances
        assert h is not None
        assert self.cross is not None
        assert self.linear is not None
        if self.cross.shape[1] == 1:
            mixed = jnp.einsum("jap,jp->ap", self.cross[:, 0], _dot(move, h))
            return mixed + _dot(move.T, self.linear[:, 0])
        mixed = jnp.einsum("jbap,jb,bp->ap", self.cross, move, h, precision="highest")
        return mixed + jnp.einsum("jap,ja->ap", self.linear, move, precision="highest")


def _least(dtype) -> float:
    """The smallest curvature that is told from rounding."""
    return 1e-9 if dtype == jnp.float64 else 1e-6


def reduce_to_weights(
    problem: Problem,
    endmembers: Endmembers,
    weights: Weights,
    abundances: Abundances,
    change: Float[Array, "phase pixel"],
    inverse: Float[Array, "phase phase pixel"],
    scale_free: Bool[Array, " phase"],
) -> Reduced:
    """Eliminate H, which would move by `change` if W stayed and reacts to W by -K C'dW.

    - `inverse`: K of each pixel.
    - `scale_free`: phases whose scale nothing fixes; a term is added that does.
    """
    sums, cross, linear = weight_sums(problem, endmembers, weights, abundances, change, inverse)
    bright = is_bright(problem)
    model = weight_model(problem.basis, problem.fixed_weights, weights, sums, scale_free, bright)
    follow = cross, linear, abundances
    return eqx.tree_at(
        lambda r: (r.cross, r.linear, r.abundances), model, follow, is_leaf=lambda x: x is None
    )


def no_reduction(problem: Problem, weights: Weights, abundances: Abundances) -> Reduced:
    """A model that says nothing, in the place of one that is not made."""
    none = jnp.zeros(weights.size, weights.dtype)
    n_columns, n_phases = weights.shape
    parts = n_columns, n_phases if problem.basis.depends_on_phase else 1
    return Reduced(
        none,
        none,
        none,
        jnp.zeros((weights.size, weights.size), weights.dtype),
        none,
        none,
        jnp.zeros(weights.size, bool),
        n_columns,
        jnp.zeros((*parts, *abundances.shape), abundances.dtype),
        jnp.zeros((*parts, abundances.shape[1]), abundances.dtype),
        jnp.zeros_like(abundances),
        jnp.zeros((n_phases, weights.size), weights.dtype) if is_bright(problem) else None,
    )


def is_bright(problem: Problem) -> bool:
    """Whether every phase has to be as bright as the constraint says."""
    constraint = problem.constraint
    return isinstance(constraint, SumToOneAbundances) and constraint.brightness is not None


def weight_sums(
    problem: Problem,
    endmembers: Endmembers,
    weights: Weights,
    abundances: Abundances,
    change: Float[Array, "phase pixel"],
    inverse: Float[Array, "phase phase pixel"],
) -> tuple[
    WeightSums,
    Float[Array, "column phase_or_1 phase pixel"],
    Float[Array, "column phase_or_1 pixel"],
]:
    """The sums over pixels that `reduce_to_weights` needs, and C of each pixel in its parts."""
    counts, basis = problem.counts, problem.basis
    exposure = exposure_or_one(counts)
    n_columns, n_phases = weights.shape
    first, second = counts.channel_moments(endmembers, abundances, exposure)
    slope = basis.back_project(first)

    matrix = basis.matrix if basis.depends_on_phase else basis.matrix[None]
    flat = jnp.moveaxis(matrix, 0, -1).reshape(basis.n_channels, -1)  # (channel, column × b)
    linear, cross = counts.cross_pass(endmembers, abundances, flat, exposure)
    shape = (n_columns, len(matrix))
    cross = cross.reshape(*shape, n_phases, -1)
    linear = linear.reshape(*shape, -1)

    hessian = _own_block(matrix, second, n_phases)
    lost, from_pixels = _schur(cross, linear, abundances, change, inverse)
    gradient = slope.ravel() + from_pixels
    return WeightSums(gradient, hessian - lost, doses(counts, abundances)), cross, linear


def weight_model(
    basis: Basis,
    fixed_weights: Fixed | None,
    weights: Weights,
    of_pixels: WeightSums,
    scale_free: Bool[Array, " phase"],
    bright: bool = False,
) -> Reduced:
    """The model around `weights` from the sums over all pixels.

    - `bright`: the brightness of each phase, `sum_cj G[c, j] W[j, a]`, stays as it is. Of gradient
        and curvature only the part along such steps is kept.
    """
    n_columns, n_phases = weights.shape
    sums = jnp.broadcast_to(basis.column_sums, weights.shape)
    gradient, dose = of_pixels.gradient, of_pixels.dose
    gauge = jnp.where(scale_free, dose, 0.0)
    gauge = jnp.einsum("ja,lb,ab,a->jalb", sums, sums, jnp.eye(n_phases, dtype=sums.dtype), gauge)
    hessian = of_pixels.hessian + gauge.reshape(of_pixels.hessian.shape)
    hessian = 0.5 * (hessian + hessian.T)

    floor = 1e-3 * (sums * weights).sum(0, keepdims=True) / n_columns
    stiffness = sums**2 * dose[None, :]
    metric = (sums * weights + floor) / jnp.maximum(stiffness, jnp.finfo(sums.dtype).tiny)
    known = stiffness <= 0
    if fixed_weights is not None:
        known = known | fixed_weights.mask
    if bright:
        # what it costs to be brighter, as the entries that are there say
        there = jnp.where(known | (weights <= 0), 0.0, metric * sums)
        cost = (there * gradient.reshape(sums.shape)).sum(0)
        cost = cost / jnp.maximum((there * sums).sum(0), jnp.finfo(sums.dtype).tiny)
        gradient = gradient - (sums * cost[None, :]).ravel()
    free = ~known.ravel() & ~((weights.ravel() <= 0) & (gradient > 0))
    root = jnp.where(free, jnp.sqrt(metric.ravel()), 0.0)
    scaled, slope = hessian * root[:, None] * root[None, :], gradient * root
    normals = None
    if bright:
        normals = _normals(sums, root)
        scaled, slope = _along_level(scaled, normals), slope - normals.T @ (normals @ slope)
    scaled = scaled + jnp.diag(jnp.where(free, 0.0, 1.0))
    values, vectors = jnp.linalg.eigh(scaled)
    lower = -weights.ravel() / jnp.where(free, root, 1.0)
    away = jnp.where(free, _away(slope, values, vectors), 0.0)
    return Reduced(slope, away, values, vectors, root, lower, free, n_columns, normals=normals)


def _normals(sums, root):
    """Unit vectors of the scaled entries, one for each phase, along which its brightness grows."""
    n_phases = sums.shape[1]
    each = jnp.eye(n_phases, dtype=root.dtype)[:, None, :] * (sums * root.reshape(sums.shape))[None]
    each = each.reshape(n_phases, -1)
    size = jnp.linalg.norm(each, axis=1, keepdims=True)
    return each / jnp.where(size > 0, size, 1.0)


def _along_level(hessian, normals):
    """`P S P + N'N` with P the projection on what is orthogonal to the normals."""
    rest = hessian - _dot(_dot(hessian, normals.T), normals)
    rest = rest - _dot(normals.T, _dot(normals, rest))
    return 0.5 * (rest + rest.T) + _dot(normals.T, normals)


def _away(gradient, values, vectors):
    """At a saddle nothing leads down but curvature: there the gradient is made worth half a nat."""
    along = vectors.T @ gradient
    least = jnp.where(values < -_SADDLE, jnp.sqrt(jnp.abs(values)), 0.0)
    missing = jnp.maximum(least - jnp.abs(along), 0.0)
    return gradient + vectors @ jnp.where(along < 0, -missing, missing)


def box_minimum(
    matrix: Float[Array, "entry entry"],
    gradient: Float[Array, " entry"],
    lower: Float[Array, " entry"],
    free: Bool[Array, " entry"],
    normals: Float[Array, "phase entry"] | None = None,
    sweeps: int = 12,
) -> Float[Array, " entry"]:
    """`argmin g'd + d'S d / 2` with d >= lower <= 0, d = 0 where not free, and N d = 0.

    Primal–dual active sets (Hintermüller, Ito & Kunisch, SIAM J. Optim. 13 (2002) 865). They may
    cycle; what is left of a violation is cut off, and the caller tests the step.
    """
    diagonal = jnp.eye(len(gradient), dtype=matrix.dtype)

    def sweep(_, state):
        bound, _ = state
        inside = free & ~bound
        both = inside[:, None] & inside[None, :]
        base = jnp.where(free & bound, lower, 0.0)
        right = jnp.where(inside, -(gradient + matrix @ base), base)
        factor = jnp.linalg.cholesky(jnp.where(both, matrix, diagonal))
        d = jax.scipy.linalg.cho_solve((factor, True), right)
        price = gradient + matrix @ d
        if normals is not None:
            own = jnp.where(inside[None, :], normals, 0.0)
            reacts = jax.scipy.linalg.cho_solve((factor, True), own.T)
            schur = own @ reacts
            schur = schur + jnp.diag(jnp.where(jnp.diagonal(schur) > 0, 0.0, 1.0))
            small = jnp.linalg.cholesky(schur), True
            multiplier = jax.scipy.linalg.cho_solve(small, normals @ d)
            d = d - reacts @ multiplier
            price = gradient + matrix @ d + multiplier @ normals
        return jnp.where(bound, price > 0, d < lower) & free, d

    start = free & (lower >= 0) & (gradient > 0)
    _, d = jax.lax.fori_loop(0, sweeps, sweep, (start, jnp.zeros_like(gradient)))
    return jnp.where(free, jnp.maximum(d, lower), 0.0)


def _own_block(matrix, second, n_phases):
    """The Hessian in W with H held: `sum_c G_j G_l B_ab` as (entry, entry)."""
    n_columns = matrix.shape[-1]
    place = {pair: i for i, pair in enumerate(pairs(n_phases))}
    index = [[place[min(a, b), max(a, b)] for b in range(n_phases)] for a in range(n_phases)]
    both = second.T[jnp.array(index)]  # (a, b, channel)
    left = jnp.broadcast_to(matrix, (n_phases, *matrix.shape[1:]))
    weighted = left[:, None] * both[:, :, :, None]
    block = jnp.einsum("abcj,bcl->jalb", weighted, left, precision="highest")
    return block.reshape(n_columns * n_phases, -1)


def _schur(cross, linear, abundances, change, inverse):
    """`sum_p C K C'` and `sum_p C dH`, some pixels at a time; C is never stored for all."""
    n_columns, _, n_phases, n_pixels = cross.shape
    chunk = min(_CHUNK, n_pixels)
    missing = -n_pixels % chunk
    eye = jnp.eye(n_phases, dtype=cross.dtype)[:, None, :, None]  # (a, 1, b, 1)

    def cut(x):
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        return jnp.moveaxis(padded.reshape(*x.shape[:-1], -1, chunk), -2, 0)

    def add(sums, part):
        u, v, h, d, k = part
        c = [u[:, :, a] * h[None] + eye[a] * v for a in range(n_phases)]
        c = [x.reshape(n_columns * n_phases, chunk) for x in c]
        t = [sum(x * k[a, b][None] for a, x in enumerate(c)) for b in range(n_phases)]
        left, right = (jnp.concatenate(x, 1) for x in (c, t))
        new = _dot(left, right.T), _dot(left, d.ravel())
        return tuple(s + n for s, n in zip(sums, new, strict=True)), None

    n = n_columns * n_phases
    zeros = jnp.zeros((n, n), cross.dtype), jnp.zeros(n, cross.dtype)
    parts = tuple(cut(x) for x in (cross, linear, abundances, change, inverse))
    return jax.lax.scan(add, zeros, parts)[0]


def _dot(left, right):
    return jnp.matmul(left, right, precision="highest")
