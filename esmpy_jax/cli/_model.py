"""The detector that the options describe, and where each of its numbers came from."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._checks import check

if TYPE_CHECKING:
    from ..inference import SpectrumImage
    from ..model import EDSModel
    from ..physics import Detector


def read_detector(
    image: SpectrumImage,
    efficiency: pathlib.Path | None,
    window: str | None,
    resolution: float | None,
) -> tuple[Detector | None, dict[str, str]]:
    """The detector, or `None` where no option speaks of it, with the sources of its parameters.

    What is not given is taken from the file, or else is the default.
    """
    from ..inference import Provenance
    from ..physics import Detector, MeasuredEfficiency, Resolution, detector_window

    check(
        efficiency is None or window is None,
        f"--efficiency {efficiency} and --detector {window} both tell the efficiency; give one.",
    )
    if efficiency is None and window is None and resolution is None:
        return None, {}
    if efficiency is not None:
        check(
            efficiency.is_file(),
            f"There is no efficiency curve {efficiency}; give the path of a file with two columns, "
            "energy in keV and efficiency.",
        )
        share = MeasuredEfficiency.read(efficiency)
    else:
        share = detector_window("windowless" if window is None else window)
    read = image.acquisition.energy_resolution_mn_ka
    told = image.provenance.get("energy resolution", Provenance(read, "eV", "read from the file"))
    fwhm = resolution or read or 130.0
    sources = {
        "efficiency": "default" if efficiency is None and window is None else "given",
        "noise_fwhm": "given" if resolution else told.source if read else "default",
        "fano": "default",
    }
    return Detector(efficiency=share, resolution=Resolution.from_mn_ka(fwhm)), sources


def check_absorbing(names: Sequence[str], thickness: float | None, density: float | None) -> None:
    """Raise `InputError` for the mass-thickness of a model without self-absorption."""
    check(
        "mass_thickness" not in names or thickness is not None or density is not None,
        "--parameters names mass_thickness, but without --thickness and --density the model has no "
        "self-absorption; add both.",
    )


def with_sources(model: EDSModel, sources: dict[str, str]) -> EDSModel:
    """The model with these sources of its parameters."""
    merged = dict(model.sources) | sources
    return dataclasses.replace(model, sources=tuple(merged.items()))
