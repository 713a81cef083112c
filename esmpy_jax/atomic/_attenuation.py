"""Mass attenuation of X-rays: xraylib's values, and a differentiable table of them."""

import functools
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xraylib
from jaxtyping import Array, ArrayLike, Float

from .._arrays import as_floats
from .._checks import check
from ._elements import Element, ElementLike, parse_element, parse_elements

_LOWEST_KEV, _HIGHEST_KEV = 0.1, 800.0
_HEAVIEST = 98


def mass_attenuation(element: ElementLike, energy: ArrayLike) -> Float[np.ndarray, "*shape"]:
    """Total mass attenuation coefficient mu/rho in cm²/g at `energy` keV (any shape).

    Source: `CS_Total` of xraylib (photoelectric, coherent and incoherent), 0.1 - 800 keV and
    Z <= 98. Raises `InputError` outside.
    """
    parsed = parse_element(element)
    check(
        parsed.atomic_number <= _HEAVIEST,
        f"There are no attenuation data for {parsed}; they end at Z = {_HEAVIEST}.",
    )
    values = np.asarray(energy, float)
    check(
        bool(((values >= _LOWEST_KEV) & (values <= _HIGHEST_KEV)).all()),
        f"Mass attenuation is known from {_LOWEST_KEV:g} to {_HIGHEST_KEV:g} keV only; "
        "keep energies inside, in keV.",
    )
    return _attenuation(parsed.atomic_number, values)


def _attenuation(
    atomic_number: int, energy: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    flat = [xraylib.CS_Total(atomic_number, value) for value in energy.ravel().tolist()]
    return np.array(flat).reshape(energy.shape)


_TOLERANCE = 1e-3  # of log-log interpolation between knots
_EDGE_WIDTH = 1e-9  # relative: an interval this narrow that still misses the tolerance is an edge
_EDGE_ROOM = 1e-4  # relative: no knot this near an edge but its own two


@functools.lru_cache(maxsize=128)
def _knots(atomic_number: int) -> Float[np.ndarray, " knot"]:
    """Logarithms of energies between which log mu is a straight line within the tolerance.

    Intervals are halved until the line hits the points at 1/4, 1/2 and 3/4. This closes in on
    every discontinuity of the data: where it really is (up to 2 % from the tabulated edges),
    leaving a knot on either side, at most `_EDGE_WIDTH` apart. The other knots on the way to it
    are dropped.
    """
    start = np.linspace(np.log(_LOWEST_KEV), np.log(_HIGHEST_KEV), 257)
    low, high = start[:-1], start[1:]
    knots, edges = [start], []
    fractions = np.array([0.25, 0.5, 0.75])[:, None]
    while low.size:
        inside = low + fractions * (high - low)
        ends = [np.log(_attenuation(atomic_number, _energy(x))) for x in (low, high)]
        line = ends[0] + fractions * (ends[1] - ends[0])
        misses = np.abs(np.log(_attenuation(atomic_number, _energy(inside))) - line) > _TOLERANCE
        bad, narrow = misses.any(0), high - low <= _EDGE_WIDTH
        edges += [low[bad & narrow], high[bad & narrow]]
        split = bad & ~narrow
        middle = inside[1, split]
        knots.append(middle)
        low, high = np.append(low[split], middle), np.append(middle, high[split])
    smooth, sides = np.concatenate(knots), np.concatenate(edges)
    far = np.abs(smooth[:, None] - sides[None, :]).min(1, initial=np.inf) > _EDGE_ROOM
    result = np.sort(np.append(smooth[far], sides))
    result.flags.writeable = False
    return result


def _energy(log_energy: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """keV, kept inside xraylib's range against rounding."""
    return np.clip(np.exp(log_energy), _LOWEST_KEV, _HIGHEST_KEV)


@jax.jit
def _interpolate(
    knots: Float[Array, " knot"],
    log_values: Float[Array, "element knot"],
    energy: Float[Array, "*shape"],
) -> Float[Array, "element *shape"]:
    """exp of the piecewise linear function of log E, constant outside the knots."""
    # Energies at or below zero (channels left of the origin) count as the lowest knot.
    log_energy = jnp.log(jnp.maximum(energy, jnp.exp(knots[0])))
    log_energy = jnp.clip(log_energy, knots[0], knots[-1])
    right = jnp.clip(jnp.searchsorted(knots, log_energy, side="right"), 1, knots.size - 1)
    left = right - 1
    width = knots[right] - knots[left]
    share = (log_energy - knots[left]) / jnp.where(width > 0, width, 1)
    low, high = log_values[:, left], log_values[:, right]
    return jnp.exp(low + share[None] * (high - low))


class AttenuationTable(eqx.Module):
    """mu/rho of some elements as a function of energy, in JAX and differentiable.

    log mu is interpolated linearly in log E between knots that all elements share. An edge is a
    true step: two knots at one energy with the values of either side, the upper one holding at
    the edge itself. Outside the knots, and so below 0.1 keV, mu keeps the value of the last knot.
    """

    log_energy: Float[Array, " knot"]
    log_attenuation: Float[Array, "element knot"]
    elements: tuple[Element, ...] = eqx.field(static=True)

    @classmethod
    def tabulate(
        cls,
        elements: str | Iterable[ElementLike],
        energy_range: tuple[float | int, float | int] = (0.1, 100.0),
    ) -> "AttenuationTable":
        """The table of `elements` over `energy_range` keV, as far as 0.1 - 800 keV reach.

        Within 0.2 % of `mass_attenuation`. Raises `InputError` for elements without data and for
        an empty range.
        """
        parsed = parse_elements(elements)
        low, high = max(energy_range[0], _LOWEST_KEV), min(energy_range[1], _HIGHEST_KEV)
        check(
            low < high,
            f"Energy range {tuple(energy_range)} keV holds nothing between "
            f"{_LOWEST_KEV:g} and {_HIGHEST_KEV:g} keV; give (low, high).",
        )
        ends = np.log([low, high])
        for element in parsed:
            mass_attenuation(element, low)  # raises where there are no data
        knots = np.concatenate([ends, *(_knots(element.atomic_number) for element in parsed)])
        knots = np.unique(knots[(knots >= ends[0]) & (knots <= ends[1])])
        values = [_attenuation(element.atomic_number, _energy(knots)) for element in parsed]
        above = np.diff(knots, prepend=-np.inf) <= _EDGE_WIDTH
        positions = np.where(above, np.roll(knots, 1), knots)
        return cls(
            as_floats(positions),
            as_floats(np.log(np.reshape(values, (len(parsed), knots.size)))),
            parsed,
        )

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "element *shape"]:
        """mu/rho in cm²/g of each element at `energy` keV."""
        return _interpolate(self.log_energy, self.log_attenuation, energy)
