"""`esmpy-jax info`: what a file holds, and what it lacks for a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _options as o
from ._results import as_sentence
from ._terminal import console, table, working

if TYPE_CHECKING:
    from ..inference import Provenance, SpectrumImage

#: What stands in for a quantity that is missing, and the flag that gives it.
_LACKS = {
    "beam energy": "--beam-energy (without it nothing can be fitted)",
    "elevation": "--elevation or --take-off-angle (for absorption)",
    "azimuth": "--azimuth or --take-off-angle (for absorption, where the stage is tilted)",
    "tilt alpha": "--tilt-alpha (taken as 0)",
    "tilt beta": "--tilt-beta (taken as 0)",
    "beam current": "--beam-current (for atoms per area)",
    "dwell time": "--dwell-time or --live-time (for atoms per area)",
    "solid angle": "--solid-angle (for atoms per area)",
    "energy resolution": "--resolution (taken as 130 eV)",
}


def info(file: o.File, signal: o.Signal = None) -> None:
    """Show what a file holds (signals, shape, counts, acquisition) and what it lacks."""
    from ..io import load

    with working(f"reading {file.name}"):
        held = _signals(file)
        image = load(file, signal=signal)
    screen = console()
    screen.print(f"{file}: {image.title}", markup=False, style="bold")
    screen.print()
    grid = table(header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for index, entry in enumerate(held):
        grid.add_row("signals" if index == 0 else "", entry)
    for name, value in _image_rows(image):
        grid.add_row(name, value)
    screen.print(grid)
    screen.print()
    grid = table()
    for name in ("quantity", "value", "from"):
        grid.add_column(name)
    missing = []
    for name, entry in image.provenance.items():
        if name == "reader":  # told with the signals
            continue
        if entry.value is None:
            missing.append(name)
        grid.add_row(name, value_and_unit(entry), entry.source)
    screen.print(grid)
    screen.print()
    for name in missing:
        if name in _LACKS:
            screen.print(f"Missing: {name}; give {_LACKS[name]}.", markup=False)
    for note in image.notes:
        screen.print(f"Note: {as_sentence(note)}", markup=False)


def value_and_unit(entry: Provenance) -> str:
    """ "200 keV"; a dash for what is not known."""
    if entry.value is None:
        return "–"
    value = f"{entry.value:.6g}" if isinstance(entry.value, int | float) else str(entry.value)
    return f"{value}{'' if entry.unit == '°' else ' '}{entry.unit}".strip()


def _signals(file) -> list[str]:
    """One line for each signal in the file."""
    from ..io._metadata import apply_mapping
    from ..io._readers import close, read
    from ..io._signals import _describe as describe

    signals, reader, _ = read(file, None)
    try:
        full = [s | {"metadata": apply_mapping(s)} for s in signals if "data" in s]
        return [f"{describe(s)}, {reader}" for s in full]
    finally:
        close(signals)


def _image_rows(image: SpectrumImage) -> list[tuple[str, str]]:
    ny, nx, channels = image.shape
    (axis,) = image.energy_axis.parts  # as in every file
    centres = np.asarray(axis.centres, float)
    totals = np.asarray(image.counts.pixel_totals(), float)
    filled = image.counts.to_coo()[2].size
    size = f", {ny * image.pixel_size[0]:.4g} × {nx * image.pixel_size[1]:.4g} {image.pixel_unit}"
    empty = int((totals <= 0).sum())
    return [
        ("shape", f"{ny} × {nx} pixels (y × x){size if image.pixel_unit != 'px' else ''}"),
        (
            "energy axis",
            f"{channels} channels of {1000 * float(axis.gain):.5g} eV, "
            f"{centres[0]:.4g} to {centres[-1]:.4g} keV",
        ),
        (
            "counts",
            f"{totals.sum():,.0f}; per pixel {totals.mean():.4g} on average, "
            f"{totals.min():.0f} to {totals.max():.0f}"
            + (f"; {empty} pixels are empty" if empty else ""),
        ),
        (
            "filled",
            f"{100 * filled / (ny * nx * channels):.2g} % of the channels of all pixels, kept "
            f"{'sparse' if image.counts.is_sparse else 'dense'}",
        ),
        ("listed elements", ", ".join(image.acquisition.elements) or "none"),
        *((("truth", ", ".join(image.truth.phase_names)),) if image.truth is not None else ()),
    ]
