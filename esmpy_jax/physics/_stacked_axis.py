"""The channels of several detectors, one detector after the other."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import check
from ._acquisition import EnergyAxis
from ._scalars import Number


class StackedAxis(eqx.Module):
    """The energy axes of detectors that recorded the same scan, their channels one after another.

    - `parts`: the axis of each detector.

    Energies begin again with every detector. Raises `InputError` for less than two axes.
    """

    parts: tuple[EnergyAxis, ...] = eqx.field(converter=tuple)

    def __check_init__(self):
        check(
            len(self.parts) >= 2,
            f"A stacked axis holds {len(self.parts)} detectors; give the axes of at least two.",
        )

    @property
    def size(self) -> int:
        """The number of channels of all detectors together."""
        return sum(part.size for part in self.parts)

    @property
    def centres(self) -> Float[Array, " channel"]:
        """The energy at the middle of each channel, in keV."""
        return jnp.concatenate([part.centres for part in self.parts])

    def crop(self, low: Number, high: Number) -> "tuple[StackedAxis, Int[np.ndarray, ' kept']]":
        """Each detector's channels with centres in [low, high] keV, and which of all these are."""
        cut = [part.crop(low, high) for part in self.parts]
        kept = [c[own] for c, (_, own) in zip(channels(self), cut, strict=True)]
        return StackedAxis(tuple(axis for axis, _ in cut)), np.concatenate(kept)


#: The channels of one detector or of several; both have `size`, `parts`, `centres` and `crop`.
AnyEnergyAxis = EnergyAxis | StackedAxis


def channels(axis: AnyEnergyAxis) -> tuple[Int[np.ndarray, " own"], ...]:
    """Which channels belong to each detector."""
    ends = np.cumsum([part.size for part in axis.parts])
    return tuple(np.split(np.arange(ends[-1]), ends[:-1]))


def detector_numbers(axis: AnyEnergyAxis) -> Int[np.ndarray, " channel"]:
    """The detector of each channel, numbered from 1."""
    sizes = [part.size for part in axis.parts]
    return np.repeat(np.arange(1, len(sizes) + 1), sizes)


def of_detector(name: str, number: int) -> str:
    """The name of a quantity that each detector has its own of, by the detector's number from 1."""
    return f"{name} of detector {number}"
