"""`load`: any file that RosettaSciIO reads becomes a SpectrumImage."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal

from .._checks import InputError, check
from ..inference import GroundTruth, Provenance, SpectrumImage
from ..inference._image import check_bin, check_region
from ..objective import AbstractCounts, counts_from_coo
from ..physics import EnergyAxis
from . import _velox
from ._chunks import coordinates
from ._metadata import apply_mapping, read_acquisition
from ._readers import close, read, sentence, unreadable
from ._signals import Signal, choose, interpret
from ._truth import read_truth

#: Half width in keV of the strobe peak that Bruker files hold at zero energy.
STROBE = 0.15


def load(
    path: str | os.PathLike,
    *,
    signal: int | str | None = None,
    beam_energy: float | None = None,
    elevation: float | None = None,
    azimuth: float | None = None,
    tilt_alpha: float | None = None,
    tilt_beta: float | None = None,
    energy_range: Sequence[float] | None = None,
    region: Sequence[int] | None = None,
    bin: int = 1,
    storage: Literal["auto", "dense", "sparse"] = "auto",
    lazy: bool | None = None,
    energy_offset: float | None = None,
    energy_gain: float | None = None,
    beam_current: float | None = None,
    dwell_time: float | None = None,
    live_time: float | None = None,
    solid_angle: float | None = None,
) -> SpectrumImage:
    """Read the EDS spectrum image of a file, of any format that RosettaSciIO knows.

    The file is read in blocks that become sparse at once, so the dense cube is never in memory
    where the reader can read lazily. A line scan becomes 1 × n pixels, a single spectrum 1 × 1.
    Channels at or below 0 keV are left out, and for Bruker files the strobe peak within 0.15 keV
    of zero, unless `energy_range` asks for it. `image.provenance` says of every quantity whether
    it was given, read from the file or is missing, and `image.notes` what was left out or guessed.

    - `signal`: number or title of the EDS signal where the file holds several; a Velox file's
        detector streams are summed, and "detector 1" and so on picks one of them.
    - `beam_energy` in keV, `elevation`, `azimuth`, `tilt_alpha`, `tilt_beta` in degrees,
        `energy_offset` (centre of channel 0) and `energy_gain` in keV: replace what the file says.
    - `beam_current` in nA, `dwell_time` in s (live time of one pixel of the file, all frames
        together), `solid_angle` in sr: for amounts per area. Instead of `dwell_time`, `live_time`
        in s of the whole scan, of which each pixel of the file gets an equal share.
    - `energy_range`: (low, high) in keV; keeps the channels whose centre lies inside.
    - `region`: (y0, y1, x0, x1) in pixels, ends excluded; `bin` then sums bin × bin pixels.
        The image keeps its place in the scan (`origin`).
    - `storage`: "dense", "sparse" or, by the share of nonzero channels, "auto".
    - `lazy`: `None` reads lazily where the reader can, `False` reads at once.

    Raises `InputError`, one sentence, for a file that cannot be read or holds no EDS signal, for
    values that are no counts, and for a range, region or factor that does not fit.
    """
    path = pathlib.Path(path)
    check(
        dwell_time is None or live_time is None,
        "Both dwell_time, of one pixel, and live_time, of the whole scan, are given; give one.",
    )
    check(
        isinstance(bin, int) and bin >= 1,
        f"The bin factor is {bin}; give a whole number of at least 1.",
    )
    with opened(path, signal, lazy) as (eds, reader, notes):
        return _build(
            eds,
            path,
            region=region,
            factor=bin,
            energy=(energy_offset, energy_gain),
            energy_range=energy_range,
            given={
                "beam_energy": beam_energy,
                "elevation": elevation,
                "azimuth": azimuth,
                "tilt_alpha": tilt_alpha,
                "tilt_beta": tilt_beta,
                "beam_current": beam_current,
                "dwell_time": dwell_time,
                "live_time": live_time,
                "solid_angle": solid_angle,
            },
            storage=storage,
            about={
                "file": Provenance(path.name, "", "given"),
                "reader": Provenance(reader, "", "default"),
            },
            notes=notes,
        )


@contextlib.contextmanager
def opened(
    path: pathlib.Path, signal: int | str | None, lazy: bool | None
) -> Iterator[tuple[Signal, str, list[str]]]:
    """The EDS signal of a file while it is open, the name of its reader, and notes."""
    stream, options, notes = _velox.streams(path, signal)
    held, reader, said = read(path, lazy, options)
    said = [f"the reader warned: {w}" for w in dict.fromkeys(said)]
    notes += said
    try:
        signals = [s | {"metadata": apply_mapping(s)} for s in held]
        if stream is not None:
            signals = _velox.one_stream(signals, stream, path.name)
        chosen, how = choose(signals, None if stream is not None else signal, path.name, said)
        eds = interpret(chosen, path.name)
        yield eds, reader, [*notes, *how, *eds.notes]
    finally:
        close(held)


def _build(
    eds: Signal, path, *, region, factor, energy, energy_range, given, storage, about, notes
) -> SpectrumImage:
    ny, nx = eds.scan_shape
    acquisition, provenance, said = read_acquisition(eds, given)
    notes += said
    offset, gain = _calibration(eds, energy, path.name)
    channels, cropped = _channels(
        EnergyAxis(offset, gain, eds.n_channels), _is_bruker(path, eds), energy_range, path.name
    )
    notes += cropped
    offset += gain * channels.start
    axis = EnergyAxis(offset, gain, channels.stop - channels.start)
    calibration = {
        name: Provenance(value, "keV", "read from the file" if mine is None else "given")
        for name, value, mine in zip(
            ("energy offset", "energy gain"), (offset, gain), energy, strict=True
        )
    }
    if region is None:
        y0, y1, x0, x1 = 0, ny, 0, nx
    else:
        check(
            len(region) == 4,
            f"The region has {len(region)} numbers; give four: y0, y1, x0, x1.",
        )
        y0, y1, x0, x1 = (int(n) for n in region)
        check_region((y0, y1, x0, x1), (ny, nx))
    check_bin(factor, (y1 - y0, x1 - x0))
    counts = _counts(eds, (y0, y1, x0, x1), channels, storage, path)
    truth, problem = read_truth(eds.metadata, path, (ny, nx), eds.n_channels)
    notes += problem
    record = about | provenance | calibration
    source = "read from the file" if eds.pixel_unit != "px" else "default"
    for name, size in zip(("pixel size y", "pixel size x"), eds.pixel_size, strict=True):
        record[name] = Provenance(size, eds.pixel_unit, source)
    record["energy range"] = Provenance(
        f"{float(axis.centres[0]):.4g} to {float(axis.centres[-1]):.4g}",
        "keV",
        "given" if energy_range is not None else "default" if cropped else "read from the file",
    )
    if region is not None:
        record["region"] = Provenance(f"y {y0} to {y1}, x {x0} to {x1}", "px", "given")
    if factor > 1:
        record["bin"] = Provenance(factor, "px", "given")
    image = SpectrumImage(
        counts=counts,
        energy_axis=axis,
        acquisition=acquisition,
        pixel_size=eds.pixel_size,
        pixel_unit=eds.pixel_unit,
        origin=(
            eds.origin[0] + y0 * eds.pixel_size[0],
            eds.origin[1] + x0 * eds.pixel_size[1],
        ),
        title=eds.title or path.stem,
        provenance=record,
        truth=_cut(truth, channels, (y0, y1, x0, x1)),
        notes=tuple(notes),
    )
    return image.bin(factor)


def _cut(truth: GroundTruth | None, channels: slice, region) -> GroundTruth | None:
    return None if truth is None else truth.crop_channels(channels).crop_region(*region)


def _counts(eds: Signal, region, channels: slice, storage, path) -> AbstractCounts:
    try:
        pixel, channel, value = coordinates(eds, region, channels, path.name)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # lazily read blocks fail as late as here
        raise InputError(unreadable(path, sentence(error))) from error
    y0, y1, x0, x1 = region
    return counts_from_coo(
        pixel,
        channel,
        value,
        scan_shape=(y1 - y0, x1 - x0),
        n_channels=channels.stop - channels.start,
        storage=storage,
    )


def _calibration(eds: Signal, given, name) -> tuple[float, float]:
    """Offset and gain of the energy axis in keV; what the user gives wins."""
    offset = eds.offset if given[0] is None else given[0]
    gain = eds.gain if given[1] is None else given[1]
    if offset is None or gain is None:
        raise InputError(
            f"The energy axis of {name} has no calibration; give energy_offset and energy_gain in "
            "keV."
        )
    return float(offset), float(gain)


def _channels(axis: EnergyAxis, bruker: bool, energy_range, name) -> tuple[slice, list[str]]:
    """The channels to keep, and notes on what was left out by default."""
    offset, gain = float(axis.offset), float(axis.gain)
    last = offset + gain * (axis.size - 1)
    check(
        energy_range is None or len(energy_range) == 2,
        "The energy range needs two energies in keV: low, high.",
    )
    low, high = (offset, last) if energy_range is None else map(float, energy_range)
    check(
        last > 0,
        f"The energy axis of {name} ends at {last:g} keV, below zero; give energy_offset and "
        "energy_gain in keV.",
    )
    check(
        energy_range is None or low < high,
        f"The energy range {low:g} to {high:g} keV is empty; give low < high.",
    )
    notes = []
    above = 0.05 * gain  # a centre at the limit is out, whatever its rounding
    if energy_range is None and bruker and offset <= STROBE:
        low = STROBE + above
        notes.append(
            f"the channels up to {STROBE} keV, with the strobe peak that Bruker files hold at "
            "zero energy, were left out"
        )
    elif low < above and offset < above:
        low = above
        notes.append("the channels at or below 0 keV were left out")
    _, channels = axis.crop(low, high)
    return channels, notes


def _is_bruker(path: pathlib.Path, eds: Signal) -> bool:
    """Bruker's own files, and those that another program made of them."""
    return path.suffix.lower() in (".bcf", ".spx") or "DSP Configuration" in eds.original
