"""What Velox files keep in their original metadata only: angles, times, solid angle, current.

Velox stores angles in radians and one entry per detector; `CollectionAngle` is the solid angle in
sr, of each detector or, in some files, of all of them in each entry. The current is that of the
fluorescent screen when it was last measured. HyperSpy fills the angles it does not
find with 35° and 0° and the resolution with 130 eV.
"""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from .._checks import check
from ..atomic import Element
from ._signals import lookup, text

#: What exspy writes where a file says nothing; never a property of a Velox microscope.
EXSPY_DEFAULTS = {"elevation": 35.0, "azimuth": 0.0, "energy_resolution_mn_ka": 130.0}


def is_velox(original: Mapping[str, Any]) -> bool:
    return "Detectors" in original and ("BinaryResult" in original or "Optics" in original)


def streams(
    path: pathlib.Path, signal: int | str | None
) -> tuple[int | None, dict[str, Any], list[str]]:
    """Which detector stream is asked for, the reader's options for it, and a note on the sum.

    Files that are no Velox spectrum images give (None, {}, []).
    """
    if path.suffix.lower() != ".emd" or not path.is_file():
        return None, {}, []
    import h5py

    try:
        with h5py.File(path, "r") as file:
            number = len(list(file["Data/SpectrumStream"]))  # pyright: ignore[reportArgumentType]
    except (OSError, KeyError, TypeError):
        return None, {}, []
    asked = re.fullmatch(r"detector\s*(\d+)", text(signal).strip().lower())
    if asked is None:
        return None, {}, [f"the image is the sum of {number} detector streams"] * (number > 1)
    index = int(asked.group(1))
    check(
        1 <= index <= number,
        f"{path.name} has no detector {index}; it holds {number} detector streams, numbered from "
        "1, and their sum is read when `signal` is left out.",
    )
    note = f"the image is detector stream {index} of {number}"
    return index - 1, {"sum_EDS_detectors": False}, [note]


def one_stream(signals: list[dict[str, Any]], index: int, name: str) -> list[dict[str, Any]]:
    """The spectrum image of one detector stream, knowing of its own detector only."""
    images = [
        s
        for s in signals
        if "EDS" in text(lookup(s.get("metadata"), "Signal.signal_type")) and s["data"].ndim == 3
    ]
    check(
        index < len(images),
        f"{name} has fewer detector streams than its contents list; leave `signal` out.",
    )
    chosen = images[index]
    original = dict(chosen.get("original_metadata") or {})
    if is_velox(original):
        key = f"Detector-{text(lookup(original, 'BinaryResult.DetectorIndex'))}"
        used = _detectors(original)
        if key in original["Detectors"]:
            original["Detectors"] = {key: original["Detectors"][key]}
        elif len(used) == len(images):
            original["Detectors"] = {"only": used[index]}
    return [chosen | {"original_metadata": original}]


def quantities(original: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Acquisition fields found in the original metadata, and notes on what is ambiguous."""
    detectors = _detectors(original)
    found: dict[str, Any] = {}
    notes: list[str] = []
    elevations = _angles(detectors, "ElevationAngle")
    azimuths = _angles(detectors, "AzimuthAngle")
    if elevations:
        found["elevation"] = sum(elevations) / len(elevations)
        if max(elevations) - min(elevations) > 0.01:
            notes.append(f"the elevation is the mean of detectors at {_list(elevations)}°")
    if azimuths and max(azimuths) - min(azimuths) < 0.01:
        found["azimuth"] = azimuths[0]
    elif azimuths:
        notes.append(
            f"the sum of detectors at azimuths {_list(azimuths)}° has no single azimuth; where the "
            "stage is tilted, give one"
        )
    for field, key in (("live_time", "LiveTime"), ("real_time", "RealTime")):
        times = _numbers(detectors, key)
        if times:
            found[field] = sum(times) / len(times)
    angles = _numbers(detectors, "CollectionAngle")
    if angles and len(angles) == len(detectors):
        if 0 < sum(angles) <= 2 * math.pi:
            found["solid_angle"] = sum(angles)
        else:
            notes.append(
                f"the collection angles of the detectors, {_list(angles)} sr, are more than a half "
                "space together and were left out"
            )
    for key in ("LastMeasuredScreenCurrent", "ScreenCurrent"):
        amperes = _number(lookup(original, f"Optics.{key}"))
        if amperes and amperes > 0 and "beam_current" not in found:
            found["beam_current"] = amperes * 1e9
    volts = _number(lookup(original, "Optics.AccelerationVoltage"))
    if volts:
        found["beam_energy"] = volts / 1e3
    elements = _elements(original)
    if elements:
        found["elements"] = elements
    return found, notes


def _detectors(original) -> list[Mapping[str, Any]]:
    """The X-ray detectors that took part: analytical, enabled and of the signal's family."""
    every = [d for d in original["Detectors"].values() if isinstance(d, Mapping)]
    used = [
        d
        for d in every
        if text(d.get("DetectorType")) == "AnalyticalDetector"
        and text(d.get("Enabled", "true")).lower() != "false"
    ]
    family = text(lookup(original, "BinaryResult.Detector"))
    named = [d for d in used if family and family in text(d.get("DetectorName"))]
    return named or used


def _number(value: Any) -> float | None:
    try:
        number = float(text(value)) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _numbers(detectors, key) -> list[float]:
    numbers = (_number(d.get(key)) for d in detectors)
    return [n for n in numbers if n]


def _angles(detectors, key) -> list[float]:
    return [
        round(math.degrees(n), 4) for n in (_number(d.get(key)) for d in detectors) if n is not None
    ]


def _elements(original) -> tuple[str, ...]:
    for path in (
        "Operations.ImageQuantificationOperation",
        "SharedProperties.EDSSpectrumQuantificationSettings",
    ):
        settings = lookup(original, path)
        if isinstance(settings, Mapping) and settings:
            chosen = next(iter(settings.values()))
            numbers = chosen.get("elementSelection", []) if isinstance(chosen, Mapping) else []
            return tuple(Element(int(n)).symbol for n in numbers)
    return ()


def _list(values) -> str:
    return ", ".join(f"{v:g}" for v in values)
