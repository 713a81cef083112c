"""`SpectrumImage`: counts, energy axis and acquisition of one scan, with where each came from."""

import dataclasses
import types
from collections.abc import Iterator, Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import as_floats
from .._checks import check
from ..objective import AbstractCounts, SparseCounts, counts_from_coo
from ..physics import Acquisition, AnyEnergyAxis
from ..physics._stacked_axis import channels, of_detector


@dataclasses.dataclass(frozen=True)
class Provenance:
    """One quantity as a person would report it.

    `source` is "given", "read from the file", "derived" (from what is given), "default", "refined"
    or, with `value` None, "missing".
    """

    value: str | float | int | None
    unit: str = ""
    source: str = "given"


class _Record(Mapping[str, Provenance]):
    """A read-only, hashable mapping, so that it may be a static field."""

    def __init__(self, entries: Mapping[str, Provenance] | None = None):
        self._entries = types.MappingProxyType(dict(entries or {}))

    def __getitem__(self, key: str) -> Provenance:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(tuple(self._entries.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __repr__(self) -> str:
        return repr(dict(self._entries))

    def __reduce__(self):
        return _Record, (dict(self._entries),)


def _to_float(values: ArrayLike | np.ndarray) -> Array:
    return as_floats(values)


#: A part of the channels.
Channels = slice | Int[np.ndarray, " kept"]


class GroundTruth(eqx.Module):
    """What a simulated image was made of.

    - `abundance`: each phase's share of a pixel, shape (phase, y, x), summing to one over phases.
    - `spectra`: expected spectrum of each phase, shape (channel, phase), summing to one.
    - `composition`: atomic fractions, shape (element, phase), summing to one.
    - `element_symbols`, `phase_names`: the labels of the two axes.
    """

    abundance: Float[Array, "phase y x"] = eqx.field(converter=_to_float)
    spectra: Float[Array, "channel phase"] = eqx.field(converter=_to_float)
    composition: Float[Array, "element phase"] = eqx.field(converter=_to_float)
    element_symbols: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    phase_names: tuple[str, ...] = eqx.field(static=True, converter=tuple)

    def __check_init__(self):
        phases = len(self.phase_names)
        if not (
            self.abundance.shape[0] == self.spectra.shape[1] == self.composition.shape[1] == phases
        ):
            raise ValueError("The parts of a GroundTruth differ in their number of phases.")
        if self.composition.shape[0] != len(self.element_symbols):
            raise ValueError("GroundTruth.composition needs one row per element symbol.")

    def crop_channels(self, channels: Channels) -> "GroundTruth":
        """Only these channels; the spectra are normalised to sum one again."""
        spectra = self.spectra[channels]
        total = spectra.sum(0, keepdims=True)
        spectra = jnp.where(total > 0, spectra / jnp.where(total > 0, total, 1.0), 0.0)
        return dataclasses.replace(self, spectra=spectra)

    def crop_region(self, y0: int, y1: int, x0: int, x1: int) -> "GroundTruth":
        """Only the pixels of `y0 <= y < y1`, `x0 <= x < x1`."""
        return dataclasses.replace(self, abundance=self.abundance[:, y0:y1, x0:x1])

    def bin(self, factor: int) -> "GroundTruth":
        """Mean share of each `factor` × `factor` block, as if every pixel were equally bright."""
        phase, ny, nx = self.abundance.shape
        blocks = self.abundance.reshape(phase, ny // factor, factor, nx // factor, factor)
        return dataclasses.replace(self, abundance=blocks.mean((2, 4)))


class SpectrumImage(eqx.Module):
    """One scan: the counts of every pixel, the energy axis and how it was acquired.

    Several detectors that recorded it together have their channels one after another; see
    `join_detectors`.

    - `counts`: dense or sparse counts of shape (pixel, channel); pixel = y * nx + x.
    - `energy_axis`, `acquisition`: see [`EnergyAxis`][esmpy_jax.EnergyAxis] and
      [`Acquisition`][esmpy_jax.Acquisition].
    - `pixel_size`: (y, x) step in `pixel_unit`.
    - `origin`: (y, x) of the centre of the first pixel, in `pixel_unit`.
    - `provenance`: each quantity by name, with its unit and where it came from.
    - `notes`: sentences on what was left out or not believed while the image was made.
    - `truth`: the phases of a simulated image, else `None`.
    - `further_acquisitions`: of the detectors after the first.
    """

    counts: AbstractCounts
    energy_axis: AnyEnergyAxis
    acquisition: Acquisition
    pixel_size: tuple[float, float] = eqx.field(static=True, default=(1.0, 1.0))
    pixel_unit: str = eqx.field(static=True, default="px")
    title: str = eqx.field(static=True, default="")
    provenance: Mapping[str, Provenance] = eqx.field(
        static=True, converter=_Record, default_factory=_Record
    )
    truth: GroundTruth | None = None
    notes: tuple[str, ...] = eqx.field(static=True, converter=tuple, default=())
    origin: tuple[float, float] = eqx.field(static=True, default=(0.0, 0.0))
    further_acquisitions: tuple[Acquisition, ...] = ()

    def __check_init__(self):
        if len(self.counts.scan_shape) != 2:
            raise ValueError("A SpectrumImage needs counts with a scan shape (y, x).")
        if self.counts.n_channels != self.energy_axis.size:
            raise ValueError(
                f"The counts have {self.counts.n_channels} channels, but the energy axis has "
                f"{self.energy_axis.size}."
            )
        if len(self.acquisitions) != len(self.energy_axis.parts):
            raise ValueError("A SpectrumImage needs one acquisition for each detector's axis.")
        if self.truth is not None:
            if tuple(self.truth.abundance.shape[1:]) != tuple(self.counts.scan_shape):
                raise ValueError("The true abundance maps and the scan differ in shape.")
            if self.truth.spectra.shape[0] != self.counts.n_channels:
                raise ValueError("The true spectra and the counts differ in their channels.")

    @property
    def acquisitions(self) -> tuple[Acquisition, ...]:
        """That of each detector."""
        return (self.acquisition, *self.further_acquisitions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(y, x, channel)."""
        ny, nx = self.counts.scan_shape
        return ny, nx, self.counts.n_channels

    def _at(self, y: float | int, x: float | int) -> tuple[float, float]:
        """Where so many pixels from the first one are, in `pixel_unit`."""
        return self.origin[0] + y * self.pixel_size[0], self.origin[1] + x * self.pixel_size[1]

    def sum_spectrum(self) -> Float[Array, " channel"]:
        """Counts of each channel, summed over the pixels."""
        return jnp.asarray(self.counts.sum_spectrum(), float)

    def crop_energy(self, low: float, high: float) -> "SpectrumImage":
        """Only the channels whose centre lies in [low, high] keV.

        Raises `InputError` when there is none.
        """
        axis, kept = self.energy_axis.crop(low, high)
        ny, nx, _ = self.shape
        record = dict(self.provenance)
        shared = record.pop("energy offset", None)
        for i, part in enumerate(axis.parts, 1):
            name = "energy offset" if len(axis.parts) == 1 else of_detector("energy offset", i)
            entry = record.get(name, shared)
            if entry is not None:
                record[name] = dataclasses.replace(entry, value=float(part.offset))
        return dataclasses.replace(
            self,
            counts=_select(self.counts, (0, ny, 0, nx), kept),
            energy_axis=axis,
            truth=None if self.truth is None else self.truth.crop_channels(kept),
            provenance=record,
        )

    def of_detector(self, number: int) -> "SpectrumImage":
        """What one detector recorded, these numbered from 1.

        Raises `InputError` for a detector that there is not.
        """
        n = len(self.acquisitions)
        check(
            1 <= number <= n,
            f"The image has no detector {number}; it holds the spectra of {n}, numbered from 1.",
        )
        if n == 1:
            return self
        own = channels(self.energy_axis)[number - 1]
        ny, nx, _ = self.shape
        others = tuple(of_detector("", i) for i in range(1, n + 1) if i != number)
        record = {
            name.removesuffix(of_detector("", number)): entry
            for name, entry in self.provenance.items()
            if not name.endswith(others)
        }
        return dataclasses.replace(
            self,
            counts=_select(self.counts, (0, ny, 0, nx), own),
            energy_axis=self.energy_axis.parts[number - 1],
            acquisition=self.acquisitions[number - 1],
            further_acquisitions=(),
            truth=None if self.truth is None else self.truth.crop_channels(own),
            provenance=record,
        )

    def crop_region(self, y0: int, y1: int, x0: int, x1: int) -> "SpectrumImage":
        """Only the pixels of `y0 <= y < y1`, `x0 <= x < x1`.

        Raises `InputError` when the region is empty or leaves the image.
        """
        ny, nx, n_channels = self.shape
        check_region((y0, y1, x0, x1), (ny, nx))
        return dataclasses.replace(
            self,
            counts=_select(self.counts, (y0, y1, x0, x1), slice(0, n_channels)),
            origin=self._at(y0, x0),
            truth=None if self.truth is None else self.truth.crop_region(y0, y1, x0, x1),
        )

    def bin(self, factor: int) -> "SpectrumImage":
        """Sum the counts of `factor` × `factor` pixels, and their dwell times, into one.

        Raises `InputError` when the factor is below 1 or does not divide both sides of the scan.
        """
        ny, nx, _ = self.shape
        check_bin(factor, (ny, nx))
        if factor == 1:
            return self
        size = (self.pixel_size[0] * factor, self.pixel_size[1] * factor)
        dwell = self.acquisition.dwell_time
        dwell = None if dwell is None else dwell * factor**2
        record = dict(self.provenance)
        for name, value in (
            ("pixel size y", size[0]),
            ("pixel size x", size[1]),
            ("dwell time", dwell),
        ):
            if name in record:
                record[name] = dataclasses.replace(record[name], value=value)
        return dataclasses.replace(
            self,
            counts=_bin(self.counts, factor),
            acquisition=dataclasses.replace(self.acquisition, dwell_time=dwell),
            origin=self._at((factor - 1) / 2, (factor - 1) / 2),
            pixel_size=size,
            truth=None if self.truth is None else self.truth.bin(factor),
            provenance=record,
        )


def check_region(region: tuple[int, int, int, int], scan_shape: tuple[int, int]) -> None:
    """Raise `InputError` unless (y0, y1, x0, x1) is a non-empty part of the scan."""
    y0, y1, x0, x1 = region
    ny, nx = scan_shape
    check(
        0 <= y0 < y1 <= ny and 0 <= x0 < x1 <= nx,
        f"The region y {y0} to {y1}, x {x0} to {x1} is not inside the image of {ny} × {nx} pixels; "
        f"give y0 < y1 <= {ny} and x0 < x1 <= {nx}, counted from 0.",
    )


def check_bin(factor: int, scan_shape: tuple[int, int]) -> None:
    """Raise `InputError` unless `factor` divides both sides of the scan."""
    ny, nx = scan_shape
    check(
        factor >= 1 and factor == int(factor),
        f"The bin factor is {factor}; give a whole number of at least 1.",
    )
    check(
        ny % factor == 0 and nx % factor == 0,
        f"The bin factor {factor} does not divide the {ny} × {nx} pixels of the scan; choose "
        f"another factor or cut the region to a multiple of {factor} first.",
    )


def select_window(counts: AbstractCounts, window: tuple[slice, ...]) -> AbstractCounts:
    """The counts of the pixels in a window of the scan, in the same storage."""
    inside = np.zeros(counts.scan_shape, bool)
    inside[window] = True
    inside = inside.ravel()
    exposure = counts.exposure
    sizes = (w.indices(s) for w, s in zip(window, counts.scan_shape, strict=True))
    if isinstance(counts, SparseCounts):
        triplets = counts.by_pixel.of_owners(np.flatnonzero(inside)).to_triplets()
    else:
        pixel, *rest = counts.to_coo()
        keep = inside[pixel]
        triplets = (np.cumsum(inside) - 1)[pixel[keep]], *(x[keep] for x in rest)
    return counts_from_coo(
        *triplets,
        scan_shape=tuple(len(range(*size)) for size in sizes),
        n_channels=counts.n_channels,
        storage="sparse" if counts.is_sparse else "dense",
        exposure=None if exposure is None else np.asarray(exposure).ravel()[inside],
    )


def _select(
    counts: AbstractCounts, region: tuple[int, int, int, int], channels: Channels
) -> AbstractCounts:
    """The counts of some pixels and channels, in the same storage."""
    y0, y1, x0, x1 = region
    chosen = np.arange(counts.n_channels)[channels]
    place = np.full(counts.n_channels, -1)
    place[chosen] = np.arange(len(chosen))
    nx = counts.scan_shape[1]
    pixel, channel, value = counts.to_coo()
    y, x = pixel // nx, pixel % nx
    keep = (y >= y0) & (y < y1) & (x >= x0) & (x < x1) & (place[channel] >= 0)
    exposure = counts.exposure
    if exposure is not None:
        exposure = np.asarray(exposure).reshape(counts.scan_shape)[y0:y1, x0:x1].ravel()
    return counts_from_coo(
        (y[keep] - y0) * (x1 - x0) + x[keep] - x0,
        place[channel[keep]],
        value[keep],
        scan_shape=(y1 - y0, x1 - x0),
        n_channels=len(chosen),
        storage="sparse" if counts.is_sparse else "dense",
        exposure=exposure,
    )


def _bin(counts: AbstractCounts, factor: int) -> AbstractCounts:
    """The counts of larger pixels; unlike `bin_counts` these are the unit of H from now on."""
    ny, nx = counts.scan_shape
    pixel, channel, value = counts.to_coo()
    exposure = counts.exposure
    if exposure is not None:
        blocks = np.asarray(exposure).reshape(ny // factor, factor, nx // factor, factor)
        exposure = blocks.mean((1, 3)).ravel()
    return counts_from_coo(
        (pixel // nx // factor) * (nx // factor) + pixel % nx // factor,
        channel,
        value,
        scan_shape=(ny // factor, nx // factor),
        n_channels=counts.n_channels,
        exposure=exposure,
    )
