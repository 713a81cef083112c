"""The energy resolution of a semiconductor detector."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check
from .._types import Scalar
from ._scalars import Number, as_scalar

# Energy to create one electron-hole pair in silicon, keV.
PAIR_ENERGY = 3.64e-3
# Energy of Mn Kα at which resolutions are stated, keV.
MN_K_ALPHA = 5.895
_EIGHT_LN2 = 8 * math.log(2)


class Resolution(eqx.Module):
    """Width of a line: FWHM(E)² = noise² + 8 ln 2 · F · ε · E, with ε = 3.64 eV in silicon.

    - `noise_fwhm`: full width at half maximum of the electronic noise, in keV.
    - `fano`: the Fano factor F, dimensionless.
    """

    noise_fwhm: Scalar = eqx.field(converter=as_scalar)
    fano: Scalar = eqx.field(converter=as_scalar)

    @classmethod
    def from_mn_ka(cls, fwhm_ev: Number = 130.0, fano: Number = 0.12) -> "Resolution":
        """From the resolution stated at Mn Kα (5.895 keV), in eV.

        Raises `InputError` when the Fano term alone is wider than that.
        """
        statistical = 1e3 * math.sqrt(_EIGHT_LN2 * max(fano, 0.0) * PAIR_ENERGY * MN_K_ALPHA)
        check(fano > 0, f"The Fano factor is {fano}; give a positive number such as 0.12.")
        check(
            fwhm_ev > statistical,
            f"A resolution of {fwhm_ev:g} eV at Mn Kα is finer than the {statistical:.1f} eV of "
            f"charge statistics with a Fano factor of {fano:g}; give a larger resolution (in eV).",
        )
        return cls(1e-3 * math.sqrt(fwhm_ev**2 - statistical**2), fano)

    def fwhm(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Full width at half maximum, in keV, at an energy in keV; zero where the square is."""
        square = self.noise_fwhm**2 + _EIGHT_LN2 * PAIR_ENERGY * self.fano * energy
        positive = square > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
