"""`esmpy-jax quantify`: compositions of a solution, of its phases and of each pixel."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from .._checks import check
from . import _options as o
from ._output import check_folder, filled
from ._results import phase_names, print_composition, print_warnings, write_composition
from ._terminal import console, working

_FILES = ("composition.csv", "pixel_composition.nc", "composition_maps.png", "composition.png")


def quantify(
    solution: Annotated[
        pathlib.Path,
        typer.Argument(help="A solution.nc, or the folder that fit wrote.", show_default=False),
    ],
    out: o.Out = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Print at% and wt% with standard errors; write them and the composition of each pixel.

    Writes composition.csv, pixel_composition.nc (at% and wt% of every pixel, with standard errors)
    and maps of each element; into the folder "quantification" beside the solution unless --out.
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
    with filled(folder, _FILES) as hidden:
        write_composition(found, hidden / "composition.csv")
        maps.to_netcdf(hidden / "pixel_composition.nc", engine="h5netcdf")
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
    print_warnings(found, screen)
    written = [name for name in _FILES if name in pictures or not name.endswith(".png")]
    screen.print(f"Written to {folder}: {', '.join(written)}.", markup=False)
