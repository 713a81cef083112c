"""Errors to be expected, in tables and CSV."""

from __future__ import annotations

import csv
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from ._terminal import table

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from ..model import EDSModel

#: Counts of each stray column over those of the lines.
STRAY = 0.05

_MN_KA = 5.895  # keV


def _rows(data: xr.Dataset):
    """(phase, element, its part of the dataset) of every phase and element."""
    for phase in data["phase"].values:
        for element in data["element"].values:
            yield str(phase), str(element), data.sel(phase=phase, element=element)


def write_errors(data: xr.Dataset, path: pathlib.Path) -> None:
    """`plan.csv`: one row for each phase, element and number of counts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["phase", "element", "at%", "counts", "at% stderr", "detection limit"])
        for phase, element, own in _rows(data):
            for n in own["counts"].values:
                one = own.sel(counts=n)
                numbers = (one[name].item() for name in ("composition_stderr", "detection_limit"))
                percent = f"{own['composition'].item():.6g}"
                writer.writerow([phase, element, percent, f"{n:.6g}", *map(_short, numbers)])


def write_needed(needed: xr.Dataset, error: float, path: pathlib.Path) -> None:
    """`needed.csv`: one row for each phase and element."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        titles = ["wanted at%", "counts for this error", "counts to detect it"]
        writer.writerow(["phase", "element", "at%", *titles])
        for phase, element, own in _rows(needed):
            numbers = (_short(own[name].item()) for name in ("error", "detection"))
            percent = f"{own['composition'].item():.6g}"
            writer.writerow([phase, element, percent, f"{error:.6g}", *numbers])


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def print_inputs(model: EDSModel, axis_source: str, continuum: float, out: Console) -> None:
    """What the model was made from, and where each part came from."""
    import jax.numpy as jnp

    known, axis = model.parameters(), model.energy_axis
    edges = np.asarray(axis.edges, float)
    fwhm = 1e3 * float(model.detector.resolution.fwhm(jnp.asarray(_MN_KA)))
    rows = [
        ("beam energy", f"{model.beam_energy:g} keV", known["beam_energy"].source),
        (
            "energy axis",
            f"{axis.size} channels of {1e3 * float(axis.gain):.4g} eV, {edges[0]:.4g} to "
            f"{edges[-1]:.4g} keV",
            axis_source,
        ),
        ("efficiency", str(known["efficiency"].value), known["efficiency"].source),
        ("resolution", f"{fwhm:.4g} eV at Mn Kα", known["noise_fwhm"].source),
    ]
    if model.mass_thickness is None:
        rows.append(("self-absorption", "none; --thickness and --density add it", "default"))
    else:
        layer = f"{known['thickness'].value:.4g} nm of {known['density'].value:.4g} g/cm³"
        angle = known["take_off_angle"]
        rows.append(("self-absorption", layer, known["mass_thickness"].source))
        rows.append(("take-off angle", f"{angle.value:.4g}°", angle.source))
    stray = [c.label for c in model.columns if c.kind.value == "stray"]
    rows.append(("continuum", f"{continuum:g} of the counts in lines", "--continuum"))
    if stray:
        rows.append(("stray", f"{', '.join(stray)}: each {STRAY:g} of them", "default"))
    grid = table()
    for name in ("quantity", "value", "from"):
        grid.add_column(name)
    for row in rows:
        grid.add_row(*row)
    out.print(grid)
    out.print()


def print_phase(
    data: xr.Dataset,
    needed: xr.Dataset,
    phase: str,
    error: float,
    counts_per_pixel: float | None,
    out: Console,
) -> None:
    """Errors or limits of each element by counts, and the counts that the wanted error takes."""
    grid = table(phase)
    grid.add_column("\nelement")
    grid.add_column("\nat%", justify="right")
    for n in data["counts"].values:
        number = f"{n:,.0f}" if n == round(n) else f"{n:,.6g}"
        grid.add_column(f"{number}\ncounts", justify="right", no_wrap=True)
    grid.add_column(f"counts for\n{error:g} at%", justify="right", no_wrap=True)
    if counts_per_pixel is not None:
        title = f"pixels of\n{counts_per_pixel:.4g} counts"
        grid.add_column(title, justify="right", no_wrap=True)
    for element in data["element"].values:
        own, takes = (d.sel(phase=phase, element=element) for d in (data, needed))
        percent = own["composition"].item()
        kind, sign = ("composition_stderr", "±") if percent > 0 else ("detection_limit", "<")
        cells = [f"{sign} {_two(v)}" if v < 100 else "not known" for v in own[kind].values]
        ends = [takes["error" if percent > 0 else "detection"].item()]
        if counts_per_pixel is not None:
            ends.append(ends[0] / counts_per_pixel)
        shown = f"{percent:.4g}" if percent > 0 else "–"
        grid.add_row(str(element), shown, *cells, *map(amount, ends))
    out.print(grid)
    out.print()


def _two(value: float) -> str:
    """Two digits: 6.0, 0.54, 12."""
    return f"{value:#.2g}".rstrip(".")


def amount(value: float) -> str:
    """A whole number, rounded up to two digits."""
    if math.isnan(value):
        return "out of reach"
    if value <= 1:
        return "1"
    step = 10.0 ** max(math.floor(math.log10(value)) - 1, 0)
    return f"{step * math.ceil(value / step - 1e-9):,.0f}"
