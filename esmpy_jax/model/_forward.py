"""The expected counts Y = G W H."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._basis import Basis
from .._types import Abundances, Weights


def forward(
    basis: Basis | Float[Array, "*phase channel column"], weights: Weights, abundances: Abundances
) -> Float[Array, "channel pixel"]:
    """Expected counts in every channel and pixel: the sum over phases a of G_a W[:, a] H[a, :].

    `basis` is a [`Basis`][esmpy_jax.Basis] or its matrix, (channel, column) or, where it depends
    on the phase, (phase, channel, column).
    """
    if isinstance(basis, Basis):
        spectra = basis.endmembers(weights)
    else:
        subscripts = "pcj,jp->cp" if basis.ndim == 3 else "cj,jp->cp"
        spectra = jnp.einsum(subscripts, basis, weights, precision="highest")
    return jnp.matmul(spectra, abundances, precision="highest")
