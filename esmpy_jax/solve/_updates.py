"""The multiplicative updates of W and H on the Poisson likelihood, as pure functions.

Both come from majorisation (Lee & Seung, NIPS 13 (2001) 556; Févotte & Idier, Neural Computation
23 (2011) 2421): with the current point marked by a prime, the NLL is bounded above by

    sum(d x) - sum(x' n log x) + constant,

where d is the gradient of sum(GWH) and n that of sum(Y log GWH). Adding the regulariser's
surrogate, `a x² / 2 + b x`, and a multiplier nu for an equality constraint leaves a separable
problem whose minimiser is the positive root of `a x² + (d + b + nu) x - x' n = 0`. No update ever
increases the objective.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basis import Basis
from .._types import Abundances, Weights
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    exposure_or_one,
    positive_root,
    sum_constrained_root,
)


class Fixed(eqx.Module):
    """Entries of W or H that are known: `values` where `mask` holds, free elsewhere."""

    mask: Bool[Array, "row column"]
    values: Float[Array, "row column"]

    def apply(self, entries: Float[Array, "row column"]) -> Float[Array, "row column"]:
        """`entries` with the known ones put in."""
        return jnp.where(self.mask, self.values, entries)


def update_abundances(
    counts: AbstractCounts,
    basis: Basis,
    weights: Weights,
    abundances: Abundances,
    *,
    constraint: AbstractConstraint = Unconstrained(),
    regulariser: AbstractRegulariser = NoRegulariser(),
    fixed: Fixed | None = None,
) -> Abundances:
    """One multiplicative update of H with W held; never increases the objective.

    Without constraint and regulariser it is `H * (Dᵀ (Y / DH)) / (Dᵀ 1)` with D = G W.
    """
    endmembers = basis.endmembers(weights)
    denominator = endmembers.sum(0)[:, None] * exposure_or_one(counts)
    numerator = abundances * counts.pixel_pass(endmembers, abundances)
    quadratic = jnp.zeros_like(abundances)
    if not isinstance(regulariser, NoRegulariser):
        maps = abundances.reshape(-1, *counts.scan_shape)
        curvature, slope = regulariser.surrogate(maps)
        quadratic = curvature.reshape(abundances.shape)
        denominator = denominator + slope.reshape(abundances.shape)
    return _minimise(
        quadratic,
        denominator,
        numerator,
        abundances,
        fixed,
        summed=jnp.ones(len(abundances), bool)
        if isinstance(constraint, SumToOneAbundances)
        else None,
    )


def update_weights(
    counts: AbstractCounts,
    basis: Basis,
    weights: Weights,
    abundances: Abundances,
    *,
    constraint: AbstractConstraint = Unconstrained(),
    fixed: Fixed | None = None,
) -> Weights:
    """One multiplicative update of W with H held; never increases the objective.

    Without constraint it is `W * (Gᵀ (Y / GWH) Hᵀ) / (Gᵀ 1 Hᵀ)`. With `SumToOneWeights` the
    composition rows of every phase sum to one and the other rows are free.
    """
    endmembers = basis.endmembers(weights)
    numerator = weights * basis.back_project(counts.channel_pass(endmembers, abundances))
    dose = doses(counts, abundances)
    return minimise_weights(basis, numerator, dose, weights, constraint=constraint, fixed=fixed)


def doses(counts: AbstractCounts, abundances: Abundances) -> Float[Array, " phase"]:
    """The abundances summed over the pixels, each times its exposure."""
    return (abundances * exposure_or_one(counts)).sum(1)


def minimise_weights(
    basis: Basis,
    numerator: Weights,
    dose: Float[Array, " phase"],
    weights: Weights,
    *,
    constraint: AbstractConstraint = Unconstrained(),
    fixed: Fixed | None = None,
) -> Weights:
    """The minimiser over W of `sum(GWH) - sum(numerator log W)`, from the current `weights`.

    `numerator` holds the counts that the majorisation gives to every entry, (column, phase), and
    `dose` is that of `doses`; both may be sums over parts of an image.
    """
    denominator = jnp.broadcast_to(basis.column_sums * dose[None, :], weights.shape)
    new = _minimise(
        jnp.zeros_like(weights),
        denominator,
        numerator,
        weights,
        fixed,
        summed=jnp.asarray(basis.composition_rows)
        if isinstance(constraint, SumToOneWeights)
        else None,
    )
    return equally_bright(basis, new, constraint, fixed)


def equally_bright(
    basis: Basis, weights: Weights, constraint: AbstractConstraint, fixed: Fixed | None
) -> Weights:
    """W with the free entries of each phase scaled to the brightness that the constraint asks for.

    After an update without that constraint it is the update with it, as the multiplier of
    `sum_cj G[c, j] W[j, a]` divides all entries of a phase by one number.
    """
    if not isinstance(constraint, SumToOneAbundances) or constraint.brightness is None:
        return weights
    counts = basis.column_sums * weights
    free = jnp.ones(weights.shape, bool) if fixed is None else ~fixed.mask
    own = jnp.where(free, counts, 0.0).sum(0)
    missing = constraint.brightness - jnp.where(free, 0.0, counts).sum(0)
    scale = jnp.where((own > 0) & (missing > 0), missing / jnp.where(own > 0, own, 1.0), 1.0)
    return jnp.where(free, weights * scale[None, :], weights)


def _minimise(quadratic, linear, constant, current, fixed, summed):
    """Positive roots, those of the `summed` rows (if any) on the simplex, `fixed` ones kept."""
    new = positive_root(quadratic, linear, constant)
    if summed is not None:
        rows = jnp.broadcast_to(summed[:, None], current.shape)
        known = jnp.zeros_like(rows) if fixed is None else fixed.mask
        spent = 0.0 if fixed is None else jnp.where(rows & known, fixed.values, 0.0).sum(0)
        on_simplex = sum_constrained_root(
            quadratic,
            linear,
            constant,
            budget=jnp.ones(current.shape[1], current.dtype) - spent,
            free=rows & ~known,
            current=current,
        )
        new = jnp.where(rows, on_simplex, new)
    return new if fixed is None else fixed.apply(new)
