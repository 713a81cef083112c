"""Emission lines as the detector shows them: Gaussians integrated over each channel."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc
from jaxtyping import Array, Float

from ._acquisition import EnergyAxis

# A detector cannot be sharper than this (keV); it keeps a vanishing width from dividing by zero.
_NARROWEST_FWHM = 1e-6
_SIGMA_SQRT2_PER_FWHM = 1 / math.sqrt(4 * math.log(2))


def shares_between(edges: Float[Array, "edge line"]) -> Float[Array, "channel line"]:
    """What falls between consecutive edges, given as (energy - line) / (σ √2).

    It is (erf(b) - erf(a)) / 2, taken as a difference of erfc on whichever side of the line the
    channel lies: erf loses all digits of a difference in the tails.
    """
    left = edges < 0
    tail = erfc(jnp.where(left, -edges, edges)) / 2
    low, high = tail[:-1], tail[1:]
    share = jnp.where(left[1:], high - low, jnp.where(left[:-1], 1 - low - high, low - high))
    return jnp.maximum(share, 0)


def edge_distances(axis: EnergyAxis, energy: Float[Array, " line"]) -> Float[Array, "edge line"]:
    """How far each edge between channels is above each line, in keV.

    Counted from the channel nearest to the line, so that float32 resolves it at any energy.
    """
    nearest = jax.lax.stop_gradient(jnp.round((energy - axis.offset) / axis.gain))
    shift = (energy - axis.offset) - axis.gain * nearest
    steps = jnp.arange(axis.size + 1)[:, None] - 0.5 - nearest[None, :]
    return axis.gain * steps - shift[None, :]


def line_profiles(
    axis: EnergyAxis, energy: Float[Array, " line"], fwhm: Float[Array, " line"]
) -> Float[Array, "channel line"]:
    """The share of each line that each channel of the axis receives.

    With σ = fwhm / sqrt(8 ln 2) it is (1/2)[erf((e₁ - E) / (σ√2)) - erf((e₀ - E) / (σ√2))]
    between the channel's edges e₀ and e₁; never negative, and zero where it underflows. Energies
    and widths are in keV.
    """
    scale = _SIGMA_SQRT2_PER_FWHM * jnp.maximum(fwhm, _NARROWEST_FWHM)
    return shares_between(edge_distances(axis, energy) / scale[None, :])


def line_spectra(
    line_energy: Float[Array, " line"],
    line_amplitude: Float[Array, " line"],
    fwhm: Float[Array, " line"],
    edges: Float[Array, " channel_plus_1"],
) -> Float[Array, "channel line"]:
    """Each line's expected counts in each channel, on any increasing channel edges (keV).

    The shares of [`line_profiles`][esmpy_jax.physics.line_profiles] times the amplitudes. In
    float32 the width of a channel is only as good as the difference of its rounded edges; on a
    uniform axis prefer `line_profiles`.
    """
    scale = _SIGMA_SQRT2_PER_FWHM * jnp.maximum(fwhm, _NARROWEST_FWHM)
    distance = edges[:, None] - line_energy[None, :]
    return shares_between(distance / scale[None, :]) * line_amplitude[None, :]
