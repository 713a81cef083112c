"""`esmpy-jax quantify`: compositions of a solution, of its phases and of each pixel."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from .._checks import check
from . import _options as o
from ._output import check_folder, filled
from ._results import (
    amount_sentence,
    phase_names,
    print_composition,
    print_warnings,
    write_composition,
)
from ._terminal import console, working

if TYPE_CHECKING:
    from xarray import Dataset

    from ..inference import Solution

_FILES = ("composition.csv", "pixel_composition.nc", "composition_maps.png", "composition.png")
_AMOUNTS = ("pixel_amounts.nc", "mass_thickness.png")


def quantify(
    solution: Annotated[
        pathlib.Path,
        typer.Argument(help="A solution.nc, or the folder that fit wrote.", show_default=False),
    ],
    out: o.Out = None,
    overwrite: o.Overwrite = False,
    beam_current: o.BeamCurrent = None,
    dwell_time: o.DwellTime = None,
    solid_angle: o.SolidAngle = None,
    density: o.Density = None,
) -> None:
    """Print at% and wt% with standard errors; write them and the composition of each pixel.

    Writes composition.csv, pixel_composition.nc (at% and wt% of every pixel, with standard errors)
    and maps of each element; where current, dwell time and solid angle are known, also
    pixel_amounts.nc (atoms per area, mass-thickness and, with --density, thickness) and a map; into
    the folder "quantification" beside the solution unless --out.
    """
    file = solution / "solution.nc" if solution.is_dir() else solution
    check(
        file.is_file(),
        f"There is no solution {file}; give the solution.nc or the folder that "
        "'esmpy-jax fit' wrote.",
    )
    folder = file.parent / "quantification" if out is None else out
    check_folder(folder, overwrite)

    from .. import plot
    from ..inference import Solution
    from ._figures import png

    with working("computing the compositions"):
        found = Solution.load(file)
        amounts = _amounts(found, beam_current, dwell_time, solid_angle, density)
        atomic = found.pixel_composition()
        weight = found.pixel_composition(weight_percent=True)
        maps = atomic.assign(
            weight_percent=weight["composition"],
            weight_percent_stderr=weight["composition_stderr"],
        ).assign_attrs(
            title=found.dataset.attrs.get("title", ""),
            solution=str(file),
            program_version=found.dataset.attrs.get("program_version", ""),
        )
        pictures = {"composition.png": png(plot.plot_composition(found.dataset))}
        if atomic.sizes["y"] * atomic.sizes["x"] > 1:
            pictures["composition_maps.png"] = png(plot.plot_composition_maps(found.dataset))
            if amounts is not None:
                shown = amounts[["mass_thickness"]]
                shown = shown.assign(pixel_counts=found.dataset["pixel_counts"])
                pictures["mass_thickness.png"] = png(plot.plot_mass_thickness(shown))
    with filled(folder, (*_FILES, *_AMOUNTS)) as hidden:
        write_composition(found, hidden / "composition.csv")
        maps.to_netcdf(hidden / "pixel_composition.nc", engine="h5netcdf")
        if amounts is not None:
            amounts.to_netcdf(hidden / "pixel_amounts.nc", engine="h5netcdf")
        for name, content in pictures.items():
            (hidden / name).write_bytes(content)
    screen = console()
    n = len(phase_names(found))
    screen.print(f"{file}: {n} phase{'s' if n > 1 else ''}; {found.result}", markup=False)
    screen.print()
    print_composition(found, screen)
    screen.print()
    print_composition(found, screen, quantity="weight_percent", unit="wt%")
    screen.print()
    if amounts is not None:
        screen.print(amount_sentence(amounts), markup=False)
        screen.print()
    print_warnings(found, screen)
    possible = _FILES if amounts is None else _FILES + _AMOUNTS
    written = [name for name in possible if name in pictures or not name.endswith(".png")]
    screen.print(f"Written to {folder}: {', '.join(written)}.", markup=False)


def _amounts(
    solution: Solution,
    beam_current: float | None,
    dwell_time: float | None,
    solid_angle: float | None,
    density: float | None,
) -> Dataset | None:
    """Amounts of every pixel; `None` where the dose is not known and nothing was asked of it.

    The dwell time is that of a pixel of the file, of which the solution may have added up several.
    """
    asked = (beam_current, dwell_time, solid_angle, density)
    if solution.dose is None and all(value is None for value in asked):
        return None
    bin = solution.parameters.get("bin")
    if dwell_time is not None and bin is not None:
        dwell_time = dwell_time * int(bin.value or 1) ** 2
    return solution.pixel_amounts(
        beam_current=beam_current,
        dwell_time=dwell_time,
        solid_angle=solid_angle,
        density=density,
    )
