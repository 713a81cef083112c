"""Emission lines as the detector shows them: Gaussians integrated over each channel."""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erfc
from jaxtyping import Array, Float, Int

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
    """How far each edge between channels is above each line, in keV of the straightened axis.

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
    place, stretch = axis.straightened(energy)
    scale = _SIGMA_SQRT2_PER_FWHM * stretch * jnp.maximum(fwhm, _NARROWEST_FWHM)
    return shares_between(edge_distances(axis, place) / scale[None, :])


class Window(eqx.Module):
    """What lines give to the channels around each of them.

    - `first`: the channel where each window begins, which may lie outside the axis.
    - `shares`: of each line, in the channels from there on.
    """

    first: Int[Array, " line"]
    shares: Float[Array, "width line"]


class LineShapes(eqx.Module):
    """The share of each line that each channel receives, kept as windows around the lines.

    - `windows`: peaks with what is near them. `far`: gives the share in every channel, outside of
        the windows, or `None` for zero.
    - `size`: channels of the axis; what lies outside of it is lost.
    """

    windows: tuple[Window, ...]
    far: Callable[[], Float[Array, "channel line"]] | None
    size: int = eqx.field(static=True)

    def times(self, amounts: Float[Array, "line column"]) -> Float[Array, "channel column"]:
        """Counts in each channel of so much of each line, in as many mixtures as there are columns.

        Each line into its own window: no array of size channel × line is made, unless there is
        something outside the windows.
        """
        total = jnp.zeros((self.size, amounts.shape[1]), amounts.dtype)
        for window in self.windows:
            # what suits one device takes long on the other: a scatter on a CPU, steps on a GPU
            total = total + jax.lax.platform_dependent(
                window.first,
                window.shares,
                amounts,
                cpu=functools.partial(one_by_one, self.size),
                default=functools.partial(at_once, self.size),
            )
        if self.far is None:
            return total
        return total + jnp.matmul(self.far(), amounts, precision="highest")


def one_by_one(
    size: int,
    first: Int[Array, " line"],
    shares: Float[Array, "width line"],
    amounts: Float[Array, "line column"],
) -> Float[Array, "channel column"]:
    """Windows of lines on an axis of `size` channels, times amounts: line after line."""
    width, n_columns = len(shares), amounts.shape[1]
    # room to both sides for what lies outside of the axis
    room = jnp.zeros((size + 2 * width, n_columns), amounts.dtype)

    def add(total, line):
        first, shares, amount = line
        start = jnp.clip(first + width, 0, size + width)
        before = jax.lax.dynamic_slice_in_dim(total, start, width)
        now = before + shares[:, None] * amount[None, :]
        return jax.lax.dynamic_update_slice_in_dim(total, now, start, 0), None

    return jax.lax.scan(add, room, (first, shares.T, amounts))[0][width:-width]


def at_once(
    size: int,
    first: Int[Array, " line"],
    shares: Float[Array, "width line"],
    amounts: Float[Array, "line column"],
) -> Float[Array, "channel column"]:
    """The same as `one_by_one`, in one scatter."""
    channel = first[None, :] + jnp.arange(len(shares))[:, None]
    channel = jnp.where(channel < 0, size, channel)  # a negative one would count from the end
    counts = shares[:, :, None] * amounts[None, :, :]
    return jnp.zeros((size, amounts.shape[1]), amounts.dtype).at[channel].add(counts, mode="drop")


def gaussian_window(
    axis: EnergyAxis, energy: Float[Array, " line"], fwhm: Float[Array, " line"], reach: int
) -> Window:
    """`line_profiles` within `reach` channels of each line, on an axis that may be bent."""
    place, stretch = axis.straightened(energy)
    scale = _SIGMA_SQRT2_PER_FWHM * stretch * jnp.maximum(fwhm, _NARROWEST_FWHM)
    first, distance = around(axis, place, reach)
    return Window(first, shares_between(distance / scale[None, :]))


def around(
    axis: EnergyAxis, energy: Float[Array, " line"], reach: int
) -> tuple[Int[Array, " line"], Float[Array, "edge line"]]:
    """The first of the `2 reach + 1` channels around each line, and how far above it edges are.

    Distances are in keV.
    """
    nearest = jax.lax.stop_gradient(jnp.round((energy - axis.offset) / axis.gain))
    shift = (energy - axis.offset) - axis.gain * nearest
    steps = jnp.arange(-reach, reach + 2) - 0.5
    return nearest.astype(int) - reach, axis.gain * steps[:, None] - shift[None, :]


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
