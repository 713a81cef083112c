"""`esmpy-jax demo`: a simulated sample, decomposed as if nothing were known of it."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from .._checks import check
from . import _options as o
from . import _parse as parse
from ._output import check_folder
from ._terminal import console, working
from ._write import announce, write_results

#: Of the foil, given to the simulation and to the fit alike.
THICKNESS, DENSITY = 100.0, 4.2


def demo(
    out: Annotated[
        pathlib.Path, typer.Option(help="New folder for the results.", metavar="DIR")
    ] = pathlib.Path("esmpy_jax_demo"),
    counts: Annotated[float, typer.Option(help="Mean counts per pixel.")] = 30.0,
    size: Annotated[int, typer.Option(help="Pixels along each side.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the sample, its counts and the fit.")] = 0,
    max_steps: o.MaxSteps = 2000,
    overwrite: o.Overwrite = False,
) -> None:
    """Simulate a mineral sample at few counts per pixel, find its phases, compare with the truth.

    A particle of ferropericlase and one of Ca-perovskite in bridgmanite, on a copper grid.
    """
    check_folder(out, overwrite)
    check_scene(counts, size, seed)
    parse.at_least(max_steps, 1, "--max-steps", "a whole number of at least 1")

    import jax

    from .. import simulate
    from ..inference import fit as run
    from ..model import EDSModel
    from ._fit import recorded, renamed, run_fit
    from ._truth import compare

    screen = console()
    with working("simulating the sample"):
        truth_model = simulate.demo_model(thickness=THICKNESS)
        image = simulate.demo_image(
            jax.random.key(seed), counts_per_pixel=counts, shape=(size, size), model=truth_model
        )
    screen.print(
        f"Simulated {size} × {size} pixels of {image.shape[2]} channels: three mineral phases, "
        f"{image.counts.total / size**2:.1f} counts per pixel."
    )
    model = EDSModel.from_image(
        image,
        [element.symbol for element in truth_model.elements],
        stray=["Cu"],
        thickness=THICKNESS,
        density=DENSITY,
    )
    solution = run_fit(image, model, 3, run, seed=seed, max_steps=max_steps)
    found = compare(solution, image.truth)
    if found is not None:
        solution = renamed(solution, list(found.names))
    solution = recorded(solution, seed=seed)
    with working("writing the results"):
        truth, written = write_results(solution, image, out)
    announce(solution, truth, out, written, screen)
    screen.print(f"Open {out / 'report.html'} in a browser.", markup=False)


def check_scene(counts: float, size: int, seed: int) -> None:
    """Raise `InputError` for what no sample can be simulated with."""
    check(
        0 < counts <= 1e5,
        f"--counts is {counts:g}; give a number of counts per pixel above 0 and up to 1e5.",
    )
    check(8 <= size <= 2048, f"--size is {size}; give 8 to 2048 pixels along each side.")
    check(0 <= seed < 2**32, f"--seed is {seed}; give a whole number from 0 to 2^32 - 1.")
