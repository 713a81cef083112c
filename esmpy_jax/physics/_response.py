"""What a silicon detector and its electronics make of a photon besides the Gaussian peak."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xraylib
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from .._checks import check
from .._types import Scalar
from ..atomic import AttenuationTable
from ._acquisition import EnergyAxis
from ._frozen import Frozen
from ._layers import Layer, silicon
from ._profiles import (
    LineShapes,
    Window,
    around,
    edge_distances,
    gaussian_window,
    shares_between,
)
from ._resolution import Resolution
from ._scalars import Curve, Number, as_scalar

_SILICON, _K_SHELL = 14, xraylib.K_SHELL
_SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))

#: A tail that decays within a thirtieth of sigma is the peak itself, to all digits of float32.
_SHORTEST_DECAY = 1 / 30


class IncompleteCharge(eqx.Module):
    """Tail and shelf of a line, from photons of whose charge a part is lost.

    Charge is lost near the entrance of the crystal, so the lower the energy above each edge of
    silicon, the more photons are concerned. Of those counted the shares

    s(E) = 1 - exp(-μ ρ d_s),  t(E) = exp(-μ ρ d_s) [1 - exp(-μ ρ d_t)]

    stop in an outer layer of the effective depth d_s and in the next one of d_t. They are seen in
    the shelf, which is level from 0 to E, and in the tail, which falls off exponentially below the
    peak with the decay λ E:

    T(x) = exp((x - E) / (λ E)) / (λ E),  S(x) = 1 / E  for x <= E,

    both broadened like the peak. Peak, tail and shelf as in F. Scholze and M. Procop, X-Ray
    Spectrometry 38 (2009) 312, who derive them from the efficiency of charge collection as a
    function of depth; μ is the photoelectric attenuation of silicon.

    - `tail`, `shelf`: the layers; their `thickness` d_t and d_s, in nm, is differentiable.
    - `relative_loss`: λ, the mean share of the charge that photons of the tail lose.
    """

    tail: Layer
    shelf: Layer
    relative_loss: Scalar

    def __init__(
        self, tail_depth: Number = 100.0, shelf_depth: Number = 10.0, relative_loss: Number = 0.05
    ):
        """Depths in nm. Raises `InputError` for a negative depth or a loss outside (0, 1].

        The depths of detectors differ by a factor of ten; the defaults are somewhere in the middle
        and meant to be refined.
        """
        check(
            0 < relative_loss <= 1,
            f"The relative loss of the tail is {relative_loss:g}; give a share of the charge above "
            "0 and up to 1, such as 0.03.",
        )
        self.tail, self.shelf = silicon(tail_depth), silicon(shelf_depth)
        self.relative_loss = as_scalar(relative_loss)

    def shares(
        self, energy: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """The shares of the counted photons of an energy in keV that are in tail and shelf."""
        in_shelf = -jnp.expm1(-self.shelf.depth(energy))
        return -jnp.expm1(-self.tail.depth(energy)) * (1 - in_shelf), in_shelf


class SiliconEscape(eqx.Module):
    """Escape peaks: fluorescence of the crystal that leaves through its entrance.

    A photon of energy E above the K edge of silicon loses E_K = 1.740 keV in the share

    η(E) = f · (ω r / 2) [1 - (μ_K / μ) ln(1 + μ / μ_K)]

    of the counted ones, with the fluorescence yield ω, the share r = 1 - 1/jump of absorptions
    that leave a hole in the K shell, and the attenuation μ at E and μ_K at E_K. S. J. B. Reed and
    N. G. Ware, J. Phys. E 5 (1972) 582, for photons that enter at right angles.

    - `strength`: f, 1 by this formula; differentiable.
    """

    strength: Scalar
    silicon: Frozen[AttenuationTable] = eqx.field(static=True)

    def __init__(self, strength: Number = 1.0):
        """Raises `InputError` for a negative strength."""
        check(strength >= 0, f"The strength of the escape peaks is {strength:g}; give 0 or more.")
        self.strength = as_scalar(strength)
        self.silicon = Frozen(AttenuationTable.tabulate(["Si"]))

    @property
    def lost_energy(self) -> float:
        """Energy of silicon's Kα lines, in keV."""
        return float(xraylib.LineEnergy(_SILICON, xraylib.KA_LINE))

    def share(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """η at an energy in keV."""
        jump = xraylib.JumpFactor(_SILICON, _K_SHELL)
        most = 0.5 * xraylib.FluorYield(_SILICON, _K_SHELL) * (1 - 1 / jump)
        own = self.silicon.value(jnp.asarray(self.lost_energy, energy.dtype))[0]
        ratio = self.silicon.value(energy)[0] / own
        share = self.strength * most * (1 - jnp.log1p(ratio) / ratio)
        return jnp.where(energy > xraylib.EdgeEnergy(_SILICON, _K_SHELL), share, 0.0)


class PileUp(eqx.Module):
    """Two photons counted as one of the sum of their energies, because they came together.

    Of the photons the share p merges with another one of the whole spectrum, so that a spectrum g
    becomes

    (1 - p) g + (p / 2) g * ŷ

    with the convolution by ŷ, the whole spectrum of unit sum, in energy. It is linear in g, so that
    each column of G has its own part in the sum peaks of all.

    - `share`: p, differentiable; about twice the rate of counts times the time within which the
      electronics take two photons for one.
    - `spectrum`: ŷ, from the counts that were measured.
    """

    share: Scalar
    spectrum: Frozen[np.ndarray] = eqx.field(static=True)

    def __init__(self, share: Number, spectrum: Curve):
        """Raises `InputError` for a share outside [0, 1) and a spectrum that is none."""
        counts = np.asarray(spectrum, np.float64)
        check(
            bool(0 <= share < 1), f"The share of piled-up photons is {share:g}; give one in [0, 1)."
        )
        check(
            counts.ndim == 1 and bool(np.isfinite(counts).all() and (counts >= 0).all()),
            "The spectrum of the pile-up holds negative or non-finite values, or is no list of "
            "numbers; give the summed spectrum of the image.",
        )
        check(
            bool(counts.sum() > 0),
            "The spectrum of the pile-up holds no counts; leave pile-up out.",
        )
        self.share = as_scalar(share)
        self.spectrum = Frozen(counts / counts.sum())

    def __call__(
        self, matrix: Float[Array, "channel column"], axis: EnergyAxis
    ) -> Float[Array, "channel column"]:
        """Columns of G with their part in the sum peaks.

        Photons below the first channel are not known, so neither are sums with them. A quadratic
        term of the axis is left out of account: it moves a sum by less than itself. Raises
        `InputError` when the measured spectrum has another number of channels.
        """
        n = len(matrix)
        check(
            len(self.spectrum.value) == n,
            f"The spectrum of the pile-up has {len(self.spectrum.value)} channels and the energy "
            f"axis {n}; give the summed spectrum of the same image.",
        )
        spectrum = jnp.asarray(self.spectrum.value, matrix.dtype)
        size = 2 * n
        transformed = jnp.fft.rfft(matrix, size, axis=0) * jnp.fft.rfft(spectrum, size)[:, None]
        sums = jnp.fft.irfft(transformed, size, axis=0)
        # sums of channels i and j are at i + j + offset / gain on the axis
        place = jnp.arange(n) - axis.offset / axis.gain
        left = jnp.floor(jax.lax.stop_gradient(place))
        weight = (place - left)[:, None]
        index = left.astype(int)

        def at(i):
            inside = (i >= 0) & (i < size)
            return jnp.where(inside[:, None], sums[jnp.clip(i, 0, size - 1)], 0.0)

        merged = (1 - weight) * at(index) + weight * at(index + 1)
        return (1 - self.share) * matrix + 0.5 * self.share * jnp.maximum(merged, 0.0)


def tail_shares(
    distance: Float[Array, "edge line"],
    sigma: Float[Array, " line"],
    decay: Float[Array, " line"],
) -> Float[Array, "channel line"]:
    """What falls of an exponential tail of decay γ, broadened by σ, between consecutive edges.

    `distance` is that of each edge from the line. With u = distance the integral up to u is
    Φ(u/σ) + T(u) with T(u) = exp(u/γ + σ²/2γ²) Φ(-u/σ - σ/γ), so that the share is that of the
    Gaussian plus the difference of T. All in keV.
    """
    decay = jnp.maximum(decay, _SHORTEST_DECAY * sigma)
    z, ratio = distance / sigma[None, :], (sigma / decay)[None, :]
    logarithm = z * ratio + 0.5 * ratio**2 + log_ndtr(-(z + ratio))
    beyond = jnp.exp(logarithm)
    share = _peak(distance, sigma) + beyond[1:] - beyond[:-1]
    return jnp.maximum(share, 0.0)


def shelf_widths(
    distance: Float[Array, "edge line"], sigma: Float[Array, " line"]
) -> Float[Array, "channel line"]:
    """How much of each channel, in keV, lies under a shelf that ends at a line, broadened by σ.

    It is σ [q(z₀) - q(z₁)] with q(z) = φ(z) - z Φ(-z) and z = distance / σ of the channel's edges.
    """
    z = distance / sigma[None, :]
    q = jnp.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) - z * jnp.exp(log_ndtr(-z))
    return jnp.maximum(q[:-1] - q[1:], 0.0) * sigma[None, :]


def _above_zero(edges: Float[Array, "edge *line"]) -> Float[Array, "channel *line"]:
    """The part of each channel that lies above zero energy."""
    return jnp.clip(edges[1:] / (edges[1:] - edges[:-1]), 0.0, 1.0)


def _far_tail(axis, energy, sigma, decay):
    """The tail of each line where its peak is over: `tail_shares` with Φ = 1."""
    decay = jnp.maximum(decay, _SHORTEST_DECAY * sigma)
    ratio = sigma / decay
    logarithm = edge_distances(axis, energy) / decay[None, :] + 0.5 * (ratio**2)[None, :]
    beyond = jnp.exp(jnp.minimum(logarithm, 0.0))
    return beyond[1:] - beyond[:-1]


class Response(eqx.Module):
    """How the energy of counted photons is distributed over the channels beyond the Gaussian.

    Each part may be `None`, which leaves it out. With a response, even an empty one, the continuum
    is broadened like the lines.

    - `incomplete_charge`: tail and shelf of each line. `escape`: its escape peak.
    - `pile_up`: sum peaks.
    """

    incomplete_charge: IncompleteCharge | None = None
    escape: SiliconEscape | None = None
    pile_up: PileUp | None = None

    def lines(
        self,
        axis: EnergyAxis,
        energy: Float[Array, " line"],
        resolution: Resolution,
        reach: int | None = None,
    ) -> LineShapes:
        """The share of each line, of all its counted photons, that each channel receives.

        Without pile-up, which is one of whole columns.

        - `reach`: channels to either side of a line outside of which its peak is zero, the tail
            exponential and the shelf level; by default all of the axis.
        """
        reach = axis.size if reach is None else reach
        near, far = self._deposited(axis, energy, resolution, reach)
        if self.escape is None:
            return LineShapes((near,), far, axis.size)
        share = self.escape.share(energy)
        # below the edge nothing escapes, and what is left may be no energy at all
        left = jnp.where(share > 0, energy - self.escape.lost_energy, energy)
        rest = gaussian_window(axis, left, resolution.fwhm(left), reach)
        windows = (
            Window(near.first, (1 - share)[None, :] * near.shares),
            Window(rest.first, share[None, :] * rest.shares),
        )
        whole = None if far is None else lambda: (1 - share)[None, :] * far()
        return LineShapes(windows, whole, axis.size)

    def _deposited(self, axis, energy, resolution, reach):
        """Peak, tail and shelf of photons whose whole energy stays in the crystal."""
        place, stretch = axis.straightened(energy)
        sigma, part = stretch * _sigma(resolution, energy), self.incomplete_charge
        first, distance = around(axis, place, reach)
        if part is None:
            return Window(first, _peak(distance, sigma)), None
        in_tail, in_shelf = part.shares(energy)
        decay = stretch * part.relative_loss * energy
        # level in energy, from zero to the line
        height = in_shelf / jnp.maximum(energy, _sigma(resolution, energy))
        steps = jnp.arange(2 * reach + 2, dtype=energy.dtype)[:, None] - 0.5
        near = (
            (1 - in_tail - in_shelf)[None, :] * _peak(distance, sigma)
            + in_tail[None, :] * tail_shares(distance, sigma, decay)
            + (height / stretch)[None, :]
            * shelf_widths(distance, sigma)
            * _above_zero(axis.at(first[None, :] + steps))
        )

        def far():
            level = axis.widths[:, None] * height[None, :] * _above_zero(axis.edges)[:, None]
            both = in_tail[None, :] * _far_tail(axis, place, sigma, decay) + level
            return jnp.where(jnp.arange(axis.size)[:, None] < first[None, :], both, 0.0)

        return Window(first, near), far

    def continuum(
        self,
        axis: EnergyAxis,
        resolution: Resolution,
        spectrum: Callable[[Float[Array, " x"]], Float[Array, "x shape"]],
        reach: int,
    ) -> Float[Array, "channel shape"]:
        """Counts per keV of a smooth spectrum in each channel.

        - `spectrum`: counted photons per keV at energies in keV.
        - `reach`: channels to either side into which a photon is broadened; the tail is cut off
            there. The work is that of (2 reach + 1) × channel, not of channel × channel.

        The edge of the shelf is taken as sharp. Photons from more than `reach` channels above the
        axis have no part in it.
        """
        cells = jnp.arange(-reach, axis.size + reach)
        energy = axis.at(cells.astype(axis.gain.dtype))
        stretch = axis.straightened(energy)[1]
        above = (energy > 0)[:, None]
        full = jnp.where(above, spectrum(energy), 0.0)
        escaped = None
        if self.escape is not None:
            whole = energy + self.escape.lost_energy
            share = self.escape.share(energy)[:, None]
            escaped = jnp.where(above, spectrum(whole), 0.0) * self.escape.share(whole)[:, None]
            full = (1 - share) * full
        sigma = stretch * _sigma(resolution, jnp.maximum(energy, 0.0))
        full = full / stretch[:, None]  # per keV of the uniform axis, on which cells are equal
        steps = jnp.arange(-reach, reach + 2) - 0.5
        distance = jnp.broadcast_to(axis.gain * steps[:, None], (steps.size, sigma.size))
        peak, part = _peak(distance, sigma), self.incomplete_charge
        of_full, shelf = peak, 0.0
        if part is not None:
            in_tail, in_shelf = part.shares(energy)
            decay = stretch * part.relative_loss * jnp.maximum(energy, 0.0)
            tail = tail_shares(distance, sigma, decay)
            in_peak = 1 - in_tail - in_shelf
            of_full = in_peak[None, :] * peak + in_tail[None, :] * tail
            density = in_shelf[:, None] * full / jnp.maximum(energy, axis.gain)[:, None]
            later = jnp.cumsum(density[::-1], axis=0)[::-1] - 0.5 * density
            shelf = axis.gain * jnp.where(above, later, 0.0)[reach : reach + axis.size]
        out = _gathered(of_full, full, reach, axis.size)
        if escaped is not None:
            out = out + _gathered(peak, escaped / stretch[:, None], reach, axis.size)
        # back to keV of energy; the shelf is level in energy as it is
        return out * stretch[reach : reach + axis.size][:, None] + shelf


def _gathered(shares, amplitude, reach, size):
    """What each channel gets from the cells around it; `shares` (2 reach + 1, cell) by distance.

    Channel c gets `shares[d, i] amplitude[i]` from cell i = c + 2 reach - d, one distance after the
    other.
    """

    def add(total, distance):
        row, first = distance
        near = jax.lax.dynamic_slice_in_dim(row, first, size)
        return total + near[:, None] * jax.lax.dynamic_slice_in_dim(amplitude, first, size), None

    none = jnp.zeros((size, amplitude.shape[1]), amplitude.dtype)
    return jax.lax.scan(add, none, (shares, jnp.arange(2 * reach, -1, -1)))[0]


def _peak(distance, sigma):
    return shares_between(distance / (np.sqrt(2) * sigma[None, :]))


def _sigma(resolution: Resolution, energy: Float[Array, " line"]) -> Float[Array, " line"]:
    return jnp.maximum(_SIGMA_PER_FWHM * resolution.fwhm(energy), 1e-6)
