"""How a spectrum image was taken: its energy axis, its geometry and its times."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check
from .._seldom import seldom_run
from .._types import Scalar
from ._scalars import Number, ScalarLike, as_scalar


class EnergyAxis(eqx.Module):
    """Energies of the channels: i is centred at `offset + gain i + quadratic i²`.

    - `offset`: the centre of channel 0, in keV.
    - `gain`: the width of a channel, in keV; with a quadratic term that of channel 0.
    - `size`: the number of channels.
    - `quadratic`: in keV per channel², by default 0. It stands for a small error of linearity.

    `offset`, `gain` and `quadratic` are differentiable leaves. Raises `InputError` unless every
    channel has a positive width and there is at least one.
    """

    offset: Scalar
    gain: Scalar
    quadratic: Scalar
    size: int = eqx.field(static=True)

    def __init__(
        self, offset: ScalarLike, gain: ScalarLike, size: int, quadratic: ScalarLike = 0.0
    ):
        check(size >= 1, f"The energy axis has {size} channels; it needs at least one.")
        if not any(isinstance(x, jax.core.Tracer) for x in (gain, quadratic)):
            check(
                math.isfinite(float(gain)) and float(gain) > 0,
                f"The energy axis has {float(gain):g} keV per channel; give a positive width.",
            )
            last = float(gain) + 2 * float(quadratic) * size
            check(
                math.isfinite(last) and last > 0,
                f"With a quadratic term of {float(quadratic):g} keV per channel² the last channel "
                f"is {last:g} keV wide; give a smaller term.",
            )
        if not isinstance(offset, jax.core.Tracer):
            check(
                math.isfinite(float(offset)),
                f"The energy axis starts at {float(offset)} keV; give a finite energy.",
            )
        self.offset = as_scalar(offset)
        self.gain = as_scalar(gain)
        self.quadratic = as_scalar(quadratic)
        self.size = int(size)

    def at(self, channel: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The energy in keV at a channel number, halves being the edges between channels."""
        return _energies(self.offset, self.gain, self.quadratic, channel)

    @property
    def parts(self) -> "tuple[EnergyAxis, ...]":
        """The axis itself, as that of the only detector."""
        return (self,)

    @property
    def centres(self) -> Float[Array, " channel"]:
        """The energy at the middle of each channel, in keV."""
        return self.at(jnp.arange(self.size, dtype=float))

    @property
    def edges(self) -> Float[Array, " channel_plus_1"]:
        """The energies between which each channel counts, in keV."""
        return self.at(jnp.arange(self.size + 1) - 0.5)

    @property
    def widths(self) -> Float[Array, " channel"]:
        """The width of each channel, in keV."""
        return self.gain + 2 * self.quadratic * jnp.arange(self.size)

    def straightened(
        self, energy: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """Where an energy lies without the quadratic term, and how lengths change there.

        Channel i, `E = offset + gain i + quadratic i²`, is at `E - quadratic i²` of a uniform axis,
        whose lengths are `gain / (gain + 2 quadratic i)` times those in energy.
        """
        rise = jnp.maximum(self.gain**2 + 4 * self.quadratic * (energy - self.offset), 0.0)
        root = jnp.sqrt(jnp.maximum(rise, 1e-6 * self.gain**2))
        channel = 2 * (energy - self.offset) / (self.gain + root)
        return energy - self.quadratic * channel**2, self.gain / root

    def crop(self, low: Number, high: Number) -> "tuple[EnergyAxis, slice]":
        """The axis of the channels whose centre lies in [low, high] keV, and their slice.

        Raises `InputError` when no channel does.
        """
        offset, gain, bend = float(self.offset), float(self.gain), float(self.quadratic)
        channel = np.arange(self.size)
        centre = offset + gain * channel + bend * channel**2
        # A millionth of a channel of slack: a centre written as 1.2 is not lost to rounding.
        slack = 1e-6 * self.size * gain
        inside = np.flatnonzero((centre >= low - slack) & (centre <= high + slack))
        check(
            len(inside) > 0,
            f"No channel lies between {low:g} and {high:g} keV; the energy axis runs from "
            f"{offset:.4g} to {centre[-1]:.4g} keV; choose a part of that.",
        )
        start, stop = int(inside[0]), int(inside[-1]) + 1
        axis = EnergyAxis(centre[start], gain + 2 * bend * start, stop - start, bend)
        return axis, slice(start, stop)


@seldom_run
def _energies(offset: Scalar, gain: Scalar, quadratic: Scalar, channel: Array) -> Array:
    return offset + gain * channel + quadratic * channel**2


def take_off_angle(
    tilt_alpha: ScalarLike,
    azimuth: ScalarLike,
    elevation: ScalarLike,
    tilt_beta: ScalarLike = 0.0,
) -> Scalar:
    """The angle between the sample's surface and the direction of the detector, in degrees.

    It is asin(n · d), with the surface normal after both tilts (beta on the inner axis)
    n = (sin α cos β, sin β, cos α cos β) and the detector's direction
    d = (cos ε cos φ, cos ε sin φ, sin ε). All arguments are in degrees; the azimuth φ is counted
    from the direction towards which a positive `tilt_alpha` turns the surface, and a positive
    `tilt_beta` turns it towards φ = 90°. With β = 0 this is the formula of Schaffer et al.,
    Ultramicroscopy 107 (2007) 587.
    """
    alpha, phi, epsilon, beta = (
        jnp.deg2rad(as_scalar(a)) for a in (tilt_alpha, azimuth, elevation, tilt_beta)
    )
    cosine = jnp.cos(beta) * (
        jnp.sin(alpha) * jnp.cos(epsilon) * jnp.cos(phi) + jnp.cos(alpha) * jnp.sin(epsilon)
    ) + jnp.sin(beta) * jnp.cos(epsilon) * jnp.sin(phi)
    # At exactly 90 degrees asin has no derivative; rounding may also carry the sine past one.
    inside = jnp.abs(cosine) < 1
    angle = jnp.arcsin(jnp.where(inside, cosine, 0.0))
    return jnp.rad2deg(jnp.where(inside, angle, jnp.sign(cosine) * (jnp.pi / 2)))


def _known(value: Number | np.number | None) -> float | None:
    return None if value is None else float(value)


def _symbols(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _number(*, static: bool = True):
    return eqx.field(static=static, default=None, converter=_known)


class Acquisition(eqx.Module):
    """What is known of how an image was acquired; `None` stands for "not known".

    - `beam_energy`: in keV.
    - `elevation`, `azimuth`: of the detector, in degrees.
    - `tilt_alpha`, `tilt_beta`: of the stage, in degrees.
    - `live_time`, `real_time`: in s, as a file states them: of the whole scan, or of one pixel, or
      of one spectrum stored with it. Nothing is computed from them.
    - `dwell_time`: live time of one pixel, all frames together, in s.
    - `beam_current`: in nA.
    - `solid_angle`: of all detectors whose counts were added up, in sr.
    - `energy_resolution_mn_ka`: full width at half maximum of Mn Kα, in eV.
    - `elements`: symbols listed in the file.

    Raises `InputError` for a number that is not finite or cannot be what it stands for.
    """

    beam_energy: float | None = _number()
    elevation: float | None = _number()
    azimuth: float | None = _number()
    tilt_alpha: float | None = _number()
    tilt_beta: float | None = _number()
    live_time: float | None = _number()
    real_time: float | None = _number()
    dwell_time: float | None = _number()
    beam_current: float | None = _number()
    solid_angle: float | None = _number()
    energy_resolution_mn_ka: float | None = _number()
    elements: tuple[str, ...] = eqx.field(static=True, default=(), converter=_symbols)

    def __check_init__(self):
        for name, unit in (
            ("beam_energy", "keV"),
            ("live_time", "s"),
            ("real_time", "s"),
            ("dwell_time", "s"),
            ("beam_current", "nA"),
            ("solid_angle", "sr"),
            ("energy_resolution_mn_ka", "eV"),
        ):
            value = getattr(self, name)
            check(
                value is None or (math.isfinite(value) and value > 0),
                f"The acquisition's {name.replace('_', ' ')} is {value} {unit}; give a positive "
                "number, or None if it is not known.",
            )
        check(
            self.solid_angle is None or self.solid_angle <= 4 * math.pi,
            f"The acquisition's solid angle is {self.solid_angle} sr, more than the whole sphere's "
            "4π; give that of the detector.",
        )
        for name in ("elevation", "azimuth", "tilt_alpha", "tilt_beta"):
            value = getattr(self, name)
            check(
                value is None or (math.isfinite(value) and abs(value) <= 360),
                f"The acquisition's {name.replace('_', ' ')} is {value}°; give an angle in "
                "degrees, or None if it is not known.",
            )

    @property
    def take_off_angle(self) -> float | None:
        """The take-off angle in degrees, or `None` where it is not known.

        It needs the elevation, and the azimuth too where the stage is tilted; a tilt that is not
        known counts as zero.
        """
        tilt_alpha, tilt_beta = self.tilt_alpha or 0.0, self.tilt_beta or 0.0
        tilted = tilt_alpha != 0 or tilt_beta != 0
        if self.elevation is None or (tilted and self.azimuth is None):
            return None
        if not tilted:
            return self.elevation
        return float(take_off_angle(tilt_alpha, self.azimuth or 0.0, self.elevation, tilt_beta))
