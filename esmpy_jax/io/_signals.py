"""The EDS signal among all that a file holds, and the meaning of its axes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._checks import InputError, check

_KEV = {"ev": 1e-3, "kev": 1.0}
_NOT_EDS = ("EELS", "CL", "Luminescence", "DielectricFunction", "LumiSpectrum")


@dataclasses.dataclass(frozen=True)
class Signal:
    """One signal of a file with its axes sorted out.

    - `order`: axes of `data` in the order (y, x, energy), without those it does not have.
    - `scan_shape`: (y, x), with ones for a line scan or a single spectrum.
    - `offset`, `gain`: of the energy axis, keV; `None` where the file has no calibration.
    - `origin`: (y, x) of the first pixel, in `pixel_unit`.
    """

    data: Any
    metadata: Mapping[str, Any]
    original: Mapping[str, Any]
    title: str
    order: tuple[int, ...]
    scan_shape: tuple[int, int]
    n_channels: int
    offset: float | None
    gain: float | None
    pixel_size: tuple[float, float]
    pixel_unit: str
    origin: tuple[float, float]
    notes: tuple[str, ...]


def lookup(tree: Any, path: str) -> Any:
    """The value at `a.b.c` of nested mappings, or `None`."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def text(value: Any) -> str:
    """Strings come as str, bytes or NumPy scalars."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def choose(
    signals: Sequence[Mapping[str, Any]],
    signal: int | str | None,
    name: str,
    said: Sequence[str] = (),
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The EDS signal of a file, and notes on how it was chosen.

    A signal is EDS by its type, or, where nothing has that type, by an energy axis in eV or keV.
    Among several, `signal` picks one by its number or title; without it the only spectrum image
    is taken before single spectra. Raises `InputError` when there is none or no single one.
    """
    full = [s for s in signals if "data" in s and "axes" in s]
    found = [s for s in full if "EDS" in _type(s) and energy_axis(s) is not None]
    notes: tuple[str, ...] = ()
    if not found:
        found = [s for s in full if _looks_like_eds(s)]
        if found:
            notes = ("the file does not name its signal EDS; taken for EDS by its energy axis",)
    if not found:
        held = ", ".join(_describe(s) for s in full[:8]) or "nothing"
        raise InputError(
            f"{name} holds no EDS signal, that is none with an energy axis in eV or keV; "
            f"it holds {held}"
            + "".join(f"; {note.split('. ')[0]}" for note in said[:1])
            + "; give a file with an EDS spectrum image."
        )
    listing = "; ".join(f"{i}: {_describe(s)}" for i, s in enumerate(found))
    if signal is not None:
        return _named(found, signal, name, listing), notes
    if len(found) == 1:
        return found[0], notes
    images = [s for s in found if np.ndim(s["data"]) > 1]
    check(
        len(images) == 1,
        f"{name} holds {len(found)} EDS signals; choose one with `signal` by number or title "
        f"({listing}).",
    )
    others = len(found) - 1
    return images[0], (
        *notes,
        f"the only spectrum image was taken; {others} other EDS "
        f"spectr{'um is' if others == 1 else 'a are'} also in the file",
    )


def _named(found, signal, name, listing):
    titles = [_title(s) for s in found]
    if isinstance(signal, str) and titles.count(signal) == 1:
        return found[titles.index(signal)]
    number = int(signal) if str(signal).strip().isdigit() else -1
    check(
        0 <= number < len(found),
        f"{name} has no single EDS signal called '{signal}'; choose one by number or title "
        f"({listing}).",
    )
    return found[number]


def _type(signal) -> str:
    return text(lookup(signal.get("metadata", {}), "Signal.signal_type"))


def _title(signal) -> str:
    return text(lookup(signal.get("metadata", {}), "General.title"))


def _describe(signal) -> str:
    shape = " × ".join(str(n) for n in np.shape(signal["data"]))
    return f"'{_title(signal)}' ({_type(signal) or 'no signal type'}, {shape})"


def _looks_like_eds(signal) -> bool:
    if any(word in _type(signal) for word in _NOT_EDS):
        return False
    index = energy_axis(signal)
    if index is None:
        return False
    axis = signal["axes"][index]
    if "loss" in text(axis.get("name")).lower():
        return False
    return text(axis.get("units")).lower() in _KEV or "ev-per-chan" in signal.get(
        "original_metadata", {}
    )


def energy_axis(signal: Mapping[str, Any]) -> int | None:
    """Which entry of `axes` is the energy: by its unit, its name, or as the only signal axis."""
    axes = signal["axes"]
    rules = (
        lambda a: text(a.get("units")).lower() in _KEV,
        lambda a: "energy" in text(a.get("name")).lower(),
        lambda a: not a.get("navigate", False),
        lambda a: text(a.get("name")).lower() == "depth",
    )
    for rule in rules:
        hits = [i for i, a in enumerate(axes) if rule(a)]
        if len(hits) == 1:
            return hits[0]
    return None


def interpret(signal: Mapping[str, Any], name: str) -> Signal:
    """Sort out the axes of a chosen signal. Raises `InputError` where they make no image."""
    axes = [dict(a) for a in signal["axes"]]
    energy = energy_axis(signal)
    check(energy is not None, f"The EDS signal of {name} has no single energy axis.")
    assert energy is not None
    position = {i: int(a.get("index_in_array", i)) for i, a in enumerate(axes)}
    if sorted(position.values()) != list(range(len(axes))):
        position = {i: i for i in range(len(axes))}
    scan = sorted((i for i in range(len(axes)) if i != energy), key=lambda i: position[i])
    check(
        len(scan) <= 2,
        f"The EDS signal of {name} has {len(scan)} scan axes "
        f"({', '.join(text(axes[i].get('name')) or '?' for i in scan)}); "
        "sum it to at most y and x first.",
    )
    scan = _y_before_x(scan, axes)
    shape = np.shape(signal["data"])
    order = tuple(position[i] for i in (*scan, energy))
    sizes = [int(shape[position[i]]) for i in scan]
    size, unit, notes = _pixel_size([axes[i] for i in scan])
    down = len(scan) == 1 and _is_y(axes[scan[0]])
    first = [_first(axes[i]) for i in scan]  # in steps
    place = (*first, 0.0) if down else (0.0, 0.0, *first)[-2:]
    ny, nx = (sizes[0], 1) if down else [1, 1, *sizes][-2:]
    offset, gain, more = _calibration(axes[energy], signal.get("original_metadata", {}), name)
    return Signal(
        data=signal["data"],
        metadata=signal.get("metadata") or {},
        original=signal.get("original_metadata") or {},
        title=_title(signal),
        order=order,
        scan_shape=(ny, nx),
        n_channels=int(shape[position[energy]]),
        offset=offset,
        gain=gain,
        pixel_size=size,
        pixel_unit=unit,
        origin=(place[0] * size[0], place[1] * size[1]),
        notes=(*notes, *more),
    )


def _is_y(axis) -> bool:
    return text(axis.get("name")).lower() in ("y", "height")


def _y_before_x(scan, axes):
    """The array's order, unless the axes are named the other way round."""
    if len(scan) == 2 and _is_y(axes[scan[1]]):
        first = text(axes[scan[0]].get("name")).lower()
        return [scan[1], scan[0]] if first in ("x", "width") else scan
    return scan


def _calibration(axis, original, name):
    """Offset and gain in keV, or `None` for both where the file does not tell."""
    if "scale" not in axis:
        values = np.asarray(axis.get("axis", []), float)
        steps = np.diff(values)
        check(
            len(values) > 1 and bool(np.allclose(steps, steps.mean(), rtol=1e-3)),
            f"The energy axis of {name} is not uniform; rebin it to channels of equal width.",
        )
        scale, offset = float(steps.mean()), float(values[0])
    else:
        scale, offset = float(axis["scale"]), float(axis.get("offset", 0.0))
    unit = text(axis.get("units")).lower()
    if unit in _KEV:
        return offset * _KEV[unit], scale * _KEV[unit], ()
    if "ev-per-chan" in original and "depth-units" not in original:
        return offset * 1e-3, scale * 1e-3, ()
    for guess, low, high in (("eV", 2.0, 200.0), ("keV", 2e-3, 0.2)):
        if low <= scale <= high:
            factor = _KEV[guess.lower()]
            return (
                offset * factor,
                scale * factor,
                (f"the energy axis has no unit; {scale:g} per channel was taken to be in {guess}",),
            )
    return None, None, ()


_METRES = {"pm": 1e-12, "å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}


def _pixel_size(axes):
    """(y, x) step, its unit and notes; the unit is that of x."""
    if not axes:
        return (1.0, 1.0), "px", ()
    steps = [_step(a) for a in axes]
    units = [_unit(a) for a in axes]
    if not all(units):
        said = any(s != 1.0 for s in steps)
        note = f"the scan step {steps[-1]:g} has no unit; the scale is left in pixels"
        return (1.0, 1.0), "px", ((note,) if said else ())
    if len(axes) == 1:
        return (steps[0], steps[0]), units[0], ()
    if units[0] != units[1]:
        if not (units[0].lower() in _METRES and units[1].lower() in _METRES):
            note = f"y is in {units[0]} and x in {units[1]}; the scale is left in pixels"
            return (1.0, 1.0), "px", (note,)
        steps[0] *= _METRES[units[0].lower()] / _METRES[units[1].lower()]
    return (steps[0], steps[1]), units[1], ()


def _step(axis) -> float:
    if "scale" in axis:
        return abs(float(axis["scale"])) or 1.0
    values = np.asarray(axis.get("axis", [0.0, 1.0]), float)
    return abs(float(np.diff(values).mean())) if len(values) > 1 else 1.0


def _first(axis) -> float:
    """Where the first pixel is, in steps; zero for an axis that runs backwards or does not tell."""
    values = axis.get("axis")
    offset = axis.get("offset", 0.0 if values is None or not len(values) else values[0])
    place = float(offset or 0.0) / _step(axis)
    return place if np.isfinite(place) and float(axis.get("scale", 1.0)) > 0 else 0.0


def _unit(axis) -> str:
    unit = text(axis.get("units")).strip()
    if unit in ("", "None", "<undefined>", "px", "pixel", "pixels"):
        return ""
    return "µm" if unit in ("um", "μm", "µm", "micron", "microns") else unit
