"""The continuum: shapes of the bremsstrahlung before absorption and detection."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._scalars import ScalarLike

# X-ray tables end here (keV); shapes that grow as 1/E are held at their value from here down.
_LOWEST_ENERGY = 0.1


class AbstractBremsstrahlung(eqx.Module):
    """Non-negative shapes whose weighted sum describes the generated continuum."""

    @property
    @abc.abstractmethod
    def labels(self) -> tuple[str, ...]:
        """One short name for each shape."""

    @abc.abstractmethod
    def __call__(
        self, energy: Float[Array, " channel"], beam_energy: ScalarLike
    ) -> Float[Array, "channel column"]:
        """Photons per keV (on an arbitrary scale) at `energy`, both energies in keV."""


class LifshinBremsstrahlung(AbstractBremsstrahlung):
    """Two shapes that span the continuum of a thin foil, after Lifshin.

    With photon energy E and beam energy E₀,

    - b₀ = (E₀ - E) / (E₀ E) · (1 - (E₀ - E) / E₀) = (E₀ - E) / E₀²,
    - b₁ = (E₀ - E)² / (E₀² E),

    per keV, and zero above E₀. Kramers' law (E₀ - E) / (E₀ E) is b₀ + b₁. Below 0.1 keV both are
    held at their value there. Lifshin's quadratic form of the continuum: Proc. 9th Annual
    Conference of the Microbeam Analysis Society (1974), paper 53.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        return ("brems 0", "brems 1")

    def __call__(
        self, energy: Float[Array, " channel"], beam_energy: ScalarLike
    ) -> Float[Array, "channel column"]:
        photon = jnp.maximum(energy, _LOWEST_ENERGY)
        left = jnp.maximum(beam_energy - photon, 0.0) / beam_energy
        return jnp.stack([left / beam_energy, left**2 / photon], axis=-1)
