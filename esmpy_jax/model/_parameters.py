"""The physical numbers behind a model, with where each came from."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..physics import Number

Source = Literal["given", "read from the file", "default"]


class Parameter(NamedTuple):
    """A physical parameter of a model.

    - `value`: a number, words, or `None` where it is not known.
    - `unit`: of the number; empty for pure numbers and words.
    - `source`: "given", "read from the file", "derived", "refined" or "default".
    """

    value: float | str | None
    unit: str
    source: str


#: What an image tells that a parameter follows from, by the names of its provenance.
_TOLD = {
    "beam_energy": ("beam energy",),
    "take_off_angle": ("elevation", "azimuth", "tilt alpha", "tilt beta"),
    "noise_fwhm": ("energy resolution",),
    "energy_offset": ("energy offset",),
    "energy_gain": ("energy gain",),
}


def image_sources(image: Any) -> dict[str, Source]:
    """Where an image has each quantity from: "given" if it says so of any part, else the file."""
    record: Mapping[str, Any] = getattr(image, "provenance", {})
    return {
        name: "given"
        if any(record[part].source == "given" for part in parts if part in record)
        else "read from the file"
        for name, parts in _TOLD.items()
    }


def resolve(
    given: Number | None, found: float | None, source: Source = "read from the file"
) -> tuple[float | None, Source]:
    """What the user gave, or else what was found (with its source), or else nothing."""
    if given is not None:
        return float(given), "given"
    if found is not None:
        return float(found), source
    return None, "default"
