"""Self-absorption: what of the X-rays generated in a foil leaves it towards the detector."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._scalars import ScalarLike

# Below this depth the closed form loses digits; the series then has an error under 1e-17.
_SERIES_BELOW = 0.1
_SERIES_TERMS = 10


def absorption_factor(chi: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The share that leaves a foil in which X-rays arise evenly along the depth χ.

    A(χ) = (1 - exp(-χ)) / χ, continued by A(0) = 1; value and derivatives are accurate at every χ,
    zero included. Dimensionless.
    """
    small = jnp.abs(chi) < _SERIES_BELOW
    x = jnp.where(small, chi, 0.0)
    # sum over k of (-x)^k / (k + 1)!, by Horner's rule.
    series = jnp.ones_like(x)
    for k in range(_SERIES_TERMS, 0, -1):
        series = 1 - x / (k + 1) * series
    safe = jnp.where(small, 1.0, chi)
    return jnp.where(small, series, -jnp.expm1(-safe) / safe)


def absorption_depth(
    attenuation: Float[Array, "element *shape"],
    mass_fractions: Float[Array, " element"],
    mass_thickness: ScalarLike,
    take_off_angle: ScalarLike,
) -> Float[Array, "*shape"]:
    """The depth χ(E) = Σᵢ wᵢ μᵢ(E) · ρt / sin(take-off angle), dimensionless.

    - `attenuation`: mass attenuation coefficients μᵢ at the energies of the photons, in cm²/g.
    - `mass_fractions`: of the material itself, w, summing to one.
    - `mass_thickness`: ρt along the beam, in g/cm².
    - `take_off_angle`: in degrees, above zero.
    """
    mixture = jnp.tensordot(mass_fractions, attenuation, axes=1, precision="highest")
    return mixture * (mass_thickness / jnp.sin(jnp.deg2rad(take_off_angle)))
