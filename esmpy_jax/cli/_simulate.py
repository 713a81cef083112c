"""`esmpy-jax simulate`: a file with a sample whose truth is known."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from .._checks import check
from . import _parse as parse
from ._demo import THICKNESS, check_scene
from ._terminal import console, working

if TYPE_CHECKING:
    from ..inference import SpectrumImage

_PHANTOMS = ("spheres", "grain-boundary", "gradient", "texture")
_FORMATS = (".hspy", ".zspy", ".rpl")


def simulate(
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="The file to write: .hspy, .zspy or .rpl.", metavar="FILE"),
    ] = None,
    phantom: Annotated[
        str,
        typer.Option(help="How the three phases lie.", metavar="|".join(_PHANTOMS)),
    ] = "spheres",
    counts: Annotated[float, typer.Option(help="Mean counts per pixel.")] = 30.0,
    size: Annotated[int, typer.Option(help="Pixels along each side.")] = 128,
    thickness: Annotated[
        float, typer.Option(help="Of the foil in nm, at 4.2 g/cm³; 0: no absorption.")
    ] = THICKNESS,
    seed: Annotated[int, typer.Option(help="Of the sample and its counts.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists.")
    ] = False,
) -> None:
    """Simulate a spectrum image of three minerals; the truth is kept in the file.

    Bridgmanite, ferropericlase and Ca-perovskite on a copper grid, at 200 keV.

    Example: esmpy-jax simulate --out minerals.hspy --phantom texture --counts 100
    """
    if out is None:
        check(False, "Name the file to write with --out, such as --out minerals.hspy.")
    assert out is not None
    check(
        out.suffix.lower() in _FORMATS,
        f"{out} cannot be written as '{out.suffix}'; choose .hspy, .zspy or .rpl.",
    )
    check(
        overwrite or not out.exists(),
        f"{out} exists already; give another --out, or --overwrite to replace it.",
    )
    check(out.parent.is_dir(), f"There is no folder {out.parent}; make it first.")
    kind = parse.choice(phantom, _PHANTOMS, "--phantom")
    check_scene(counts, size, seed)
    check(
        0 <= thickness <= 1e5,
        f"--thickness is {thickness:g} nm; give zero or a positive number.",
    )

    from ..io import save_image

    with working("simulating"):
        image = _image(kind, counts, size, thickness, seed)
    with working(f"writing {out.name}"):
        save_image(image, out, overwrite=overwrite)
    elements = ",".join(image.acquisition.elements)
    absorbing = f" --thickness {thickness:g} --density 4.2" if thickness > 0 else ""
    screen = console()
    screen.print(
        f"Written to {out}: {size} × {size} pixels of {image.shape[2]} channels, "
        f"{image.counts.total / size**2:.1f} counts per pixel.",
        markup=False,
    )
    screen.print(
        f"Try: esmpy-jax fit {out} --elements {elements} --stray Cu --phases 3{absorbing} "
        f"--out {out.stem}_phases",
        markup=False,
    )


def _image(kind: str, counts: float, size: int, thickness: float, seed: int) -> SpectrumImage:
    import jax

    from .. import simulate as sim

    key = jax.random.key(seed)
    model = sim.demo_model(thickness=thickness or None)
    shape = (size, size)
    if kind == "spheres":
        return sim.demo_image(key, counts_per_pixel=counts, shape=shape, model=model)
    scene, photons = jax.random.split(key)
    if kind == "grain-boundary":
        maps = sim.grain_boundary(shape)
    elif kind == "gradient":
        maps = sim.gradient(shape, n_phases=3)
    else:
        maps = sim.random_texture(shape, key=scene, n_phases=3)
    return sim.simulate(
        model,
        sim.mineral_phases(),
        maps,
        counts,
        key=photons,
        pixel_size=(4.0, 4.0),
        pixel_unit="nm",
        title=f"simulated minerals, {kind}",
    )
