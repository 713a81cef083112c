"""Acquisition and provenance out of a file's metadata and the user's own numbers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..inference import Provenance
from ..physics import Acquisition
from . import _velox
from ._signals import Signal, lookup, text

#: Field of Acquisition: (name for people, unit, paths below Acquisition_instrument.TEM or .SEM).
FIELDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "beam_energy": ("beam energy", "keV", ("beam_energy",)),
    "elevation": ("elevation", "°", ("Detector.EDS.elevation_angle",)),
    "azimuth": ("azimuth", "°", ("Detector.EDS.azimuth_angle",)),
    "tilt_alpha": ("tilt alpha", "°", ("Stage.tilt_alpha", "tilt_stage")),
    "tilt_beta": ("tilt beta", "°", ("Stage.tilt_beta",)),
    "live_time": ("live time", "s", ("Detector.EDS.live_time",)),
    "real_time": ("real time", "s", ("Detector.EDS.real_time",)),
    "dwell_time": ("dwell time", "s", ("Detector.EDS.dwell_time",)),
    "beam_current": ("beam current", "nA", ("beam_current",)),
    "solid_angle": ("solid angle", "sr", ("Detector.EDS.solid_angle",)),
    "energy_resolution_mn_ka": (
        "energy resolution",
        "eV",
        ("Detector.EDS.energy_resolution_MnKa",),
    ),
}
_ANGLES = ("elevation", "azimuth", "tilt_alpha", "tilt_beta")


def apply_mapping(signal: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with what the reader's `mapping` takes from the original metadata.

    Readers leave this step to the caller. An entry that fails leaves its quantity unknown.
    """
    metadata: dict[str, Any] = dict(signal.get("metadata") or {})
    for source, (target, convert) in (signal.get("mapping") or {}).items():
        value = lookup(signal.get("original_metadata") or {}, source)
        if value is None:
            continue
        try:
            value = value if convert is None else convert(value)
        except Exception:  # a converter of the reader's, fed with whatever the file holds
            continue
        _set(metadata, target.split("."), value)
    return metadata


def _set(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = tree.get(key)
        tree[key] = dict(below) if isinstance(below, Mapping) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def read_acquisition(
    signal: Signal, given: Mapping[str, float | None]
) -> tuple[Acquisition, dict[str, Provenance], list[str]]:
    """The acquisition, the provenance of each of its quantities, and notes.

    What the user gives wins over the file; what neither tells is missing, never made up. A live
    time that is given is that of the whole scan, and each pixel of the file is taken to have an
    equal share of it as dwell time ("derived"). One that a file states is not shared out: makers
    mean different things by it.
    """
    found, notes = _from_file(signal)
    whole = given.get("live_time")
    shared = whole is not None and given.get("dwell_time") is None
    if whole is not None and shared:
        given = {**given, "dwell_time": whole / (signal.scan_shape[0] * signal.scan_shape[1])}
    values: dict[str, Any] = {}
    provenance: dict[str, Provenance] = {}
    for field, (label, unit, _) in FIELDS.items():
        mine, theirs = given.get(field), found.get(field)
        if mine is not None:
            values[field] = float(mine)
            provenance[label] = Provenance(float(mine), unit, "given")
            if theirs is not None and not math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-9):
                notes.append(f"the {label} given, {mine:g} {unit}, replaces the file's {theirs:g}")
        elif theirs is not None:
            values[field] = theirs
            provenance[label] = Provenance(theirs, unit, "read from the file")
        else:
            provenance[label] = Provenance(None, unit, "missing")
    elements = found.get("elements", ())
    source = "read from the file" if elements else "missing"
    provenance["elements"] = Provenance(", ".join(elements) or None, "", source)
    if shared:
        provenance["dwell time"] = dataclasses.replace(provenance["dwell time"], source="derived")
    return Acquisition(**values, elements=elements), provenance, notes


def _from_file(signal: Signal) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    notes: list[str] = []
    for field, (label, _, paths) in FIELDS.items():
        value = _first(signal.metadata, paths)
        if value is None:
            continue
        number = _number(value)
        if number is None or not (_possible(field, number)):
            notes.append(f"the file's {label}, '{text(value)}', is not usable and was left out")
            continue
        found[field] = number
    elements = lookup(signal.metadata, "Sample.elements")
    if elements is not None and np.size(elements):
        found["elements"] = tuple(text(e) for e in np.atleast_1d(np.asarray(elements)))
    velox = _velox.is_velox(signal.original)
    at_default = [
        field
        for field, value in _velox.EXSPY_DEFAULTS.items()
        if field in found and math.isclose(found[field], value)
    ]
    if velox:
        for field in at_default:
            label, unit, _ = FIELDS[field]
            notes.append(
                f"the {label} of exactly {found.pop(field):g} {unit} is HyperSpy's default for "
                "Velox files, which do not carry it here, and was left out"
            )
        more, said = _velox.quantities(signal.original)
        angles = {k: v for k, v in more.items() if k in ("elevation", "azimuth")}
        found = more | found | angles
        notes += said
    elif len(at_default) == len(_velox.EXSPY_DEFAULTS):
        notes.append(
            "elevation 35°, azimuth 0° and resolution 130 eV are exactly the defaults that "
            "HyperSpy writes where a file says nothing; check them"
        )
    return found, notes


def _first(metadata: Mapping[str, Any], paths: tuple[str, ...]) -> Any:
    for instrument in ("TEM", "SEM"):
        for path in paths:
            value = lookup(metadata, f"Acquisition_instrument.{instrument}.{path}")
            if value is not None and text(value).strip() not in ("", "None"):
                return value
    return None


def _number(value: Any) -> float | None:
    """A finite number from a number, a string such as '45.000' or '200 kV', or one-entry arrays."""
    if isinstance(value, str | bytes):
        words = text(value).split()
        value = words[0] if words else ""
    try:
        number = float(np.asarray(value).item() if np.ndim(value) else value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _possible(field: str, number: float) -> bool:
    return abs(number) <= 360 if field in _ANGLES else number > 0
