"""`esmpy-jax plan`: what a measurement can tell, before it is made."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import check
from . import _options as o
from . import _parse as parse
from ._model import check_absorbing, read_detector, with_sources
from ._output import check_folder, filled
from ._planned import STRAY, print_inputs, print_phase, write_errors, write_needed
from ._terminal import console, working

if TYPE_CHECKING:
    import xarray as xr

    from ..inference import SpectrumImage
    from ..model import EDSModel

_FILES = ("plan.csv", "needed.csv", "plan.png")
_AXIS = 0.2, 0.01, 20.0  # keV: first channel, width, end
_MOST_CHANNELS = 100_000
_REACH = 1e9  # counts up to which the wanted error is looked for


def plan(
    file: o.Example = None,
    composition: o.Compositions = None,
    elements: o.Further = "",
    counts: o.Doses = "100,1000,10000,100000,1000000",
    error: o.WantedError = 1.0,
    counts_per_pixel: o.CountsPerPixel = None,
    continuum: o.Continuum = 0.3,
    parameters: o.Unknown = None,
    out: o.Out = None,
    stray: o.Stray = "",
    split: o.Split = "",
    thickness: o.Thickness = None,
    density: o.Density = None,
    oxides: o.Oxides = False,
    signal: o.Signal = None,
    beam_energy: o.BeamEnergy = None,
    elevation: o.Elevation = None,
    azimuth: o.Azimuth = None,
    tilt_alpha: o.TiltAlpha = None,
    tilt_beta: o.TiltBeta = None,
    take_off_angle: o.TakeOffAngle = None,
    energy_offset: o.EnergyOffset = None,
    energy_gain: o.EnergyGain = None,
    energy_range: o.EnergyRange = None,
    efficiency: o.Efficiency = None,
    detector: o.Window = None,
    resolution: o.Resolution = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Tell what errors of at% and limits of detection so many counts allow, and how many it takes.

    No measurement is needed. Prints and writes the smallest standard errors (Cramér-Rao bound) of
    phases of known composition, and a figure of them. A FILE gives energy axis and acquisition.

    Example: esmpy-jax plan --composition MgSiO3,Mg0.9Fe0.1O --elements Al,Ca --beam-energy 200
    --out plan
    """
    if out is None:
        check(False, "Name a folder for the results with --out, such as --out plan.")
    assert out is not None
    check_folder(out, overwrite)
    phases = parse.words(composition)
    check(
        len(phases) > 0,
        "No composition is given; name formulas with --composition, such as --composition MgSiO3.",
    )
    check(len(set(phases)) == len(phases), f"--composition {composition} holds one phase twice.")
    doses = _doses(counts)
    names = parse.words(parameters)
    check_absorbing(names, thickness, density)
    cuts = parse.split_energies(split)
    kept: Any = parse.numbers(energy_range, ("LO", "HI"), "--energy-range")
    check(
        kept is None or kept[0] < kept[1],
        f"--energy-range is {energy_range}; give LO,HI in keV with low < high.",
    )
    if file is None:
        check(
            beam_energy is not None,
            "The beam energy is not known; give it in keV, such as --beam-energy 200, or a file "
            "that tells it.",
        )
        check(signal is None, "--signal picks a signal of a file, but none is given; leave it out.")
    sample = _sample(phases, parse.words(elements))

    from .. import plot
    from ..inference import expected_errors
    from ..model import EDSModel
    from ._figures import png

    told = {
        "beam_energy": beam_energy,
        "elevation": elevation,
        "azimuth": azimuth,
        "tilt_alpha": tilt_alpha,
        "tilt_beta": tilt_beta,
    }
    image = _image(file, signal, told, energy_offset, energy_gain, kept)
    with working("building the model"):
        built, sources = read_detector(image, efficiency, detector, resolution)
        model = EDSModel.from_image(
            image,
            sample,
            stray=parse.words(stray),
            split=cuts,
            detector=built,
            take_off_angle=take_off_angle,
            thickness=thickness,
            density=density,
            bound_oxygen=oxides,
        )
        model = with_sources(model, sources)
    _check_parameters(model, names)
    if file is not None and counts_per_pixel is None:
        counts_per_pixel = float(np.mean(np.asarray(image.counts.pixel_totals(), float))) or None

    with working("computing the errors"):
        grid = _grid(doses)
        found = [
            expected_errors(
                model, phase, grid, continuum=continuum, stray=STRAY, parameters=names
            ).expand_dims(phase=[phase])
            for phase in phases
        ]
        data = _joined(found)
        needed = _needed(data, error)
        around = 10 if len(doses) == 1 else 1
        shown = data.sel(counts=slice(doses[0] / around, doses[-1] * around))
        picture = png(plot.plot_planning(shown, error=error, counts_per_pixel=counts_per_pixel))
    with filled(out, _FILES) as folder:
        write_errors(data.sel(counts=doses), folder / "plan.csv")
        write_needed(needed, error, folder / "needed.csv")
        (folder / "plan.png").write_bytes(picture)
    screen = console()
    axis = "read from the file" if file is not None else "default"
    if any(value is not None for value in (energy_offset, energy_gain, kept)):
        axis = "given"
    print_inputs(model, axis, continuum, screen)
    for phase in phases:
        print_phase(data.sel(counts=doses), needed, phase, error, counts_per_pixel, screen)
    screen.print(
        "±: the smallest standard error of at% that counting allows. <: the limit of detection, "
        "3.29 standard errors at none of the element. Last: the counts of the phase that bring "
        f"them down to {error:g} at%.",
        markup=False,
    )
    if names:
        screen.print(f"Known no better than their priors: {', '.join(names)}.", markup=False)
    screen.print(f"Written to {out}: {', '.join(_FILES)}.", markup=False)


def _doses(text: str) -> np.ndarray:
    """Increasing numbers of counts."""
    try:
        found = [float(word) for word in parse.words(text)]
    except ValueError:
        found = []
    check(
        len(found) > 0 and all(1 <= value <= _REACH for value in found),
        f"--counts is '{text}'; give numbers from 1 to {_REACH:g} with commas between them.",
    )
    return np.unique(found)


def _grid(doses: np.ndarray) -> np.ndarray:
    """Those numbers of counts, and others between and around them for curves."""
    decades = math.log10(_REACH)
    return np.unique(np.append(np.logspace(0, decades, 8 * round(decades) + 1), doses))


def _sample(phases: Sequence[str], further: Sequence[str]) -> list[str]:
    """Elements of the phases, and then the further ones."""
    from ..atomic import Composition, parse_elements

    own = {e.symbol: None for phase in phases for e in Composition.from_formula(phase).elements}
    if further:
        own |= {element.symbol: None for element in parse_elements(further)}
    check(
        len(own) > 1,
        f"{next(iter(own))} alone is 100 at% however few counts there are; name what else is to be "
        "looked for with --elements.",
    )
    return list(own)


def _image(
    file: pathlib.Path | None,
    signal: str | None,
    told: dict[str, Any],
    offset: float | None,
    gain: float | None,
    kept: Any,
) -> SpectrumImage:
    """The file's, or one pixel with what the options tell."""
    if file is not None:
        from ..io import load

        with working(f"reading {file.name}"):
            image = load(
                file,
                signal=signal,
                energy_offset=offset,
                energy_gain=gain,
                energy_range=kept,
                **told,
            )
        check(
            image.acquisition.beam_energy is not None,
            f"{file.name} does not tell the beam energy; give it in keV, such as --beam-energy "
            "200.",
        )
        return image
    from ..inference import Provenance, SpectrumImage
    from ..objective import as_counts
    from ..physics import Acquisition, EnergyAxis

    beam = told["beam_energy"]
    assert beam is not None
    first, width, end = _AXIS
    first, width = first if offset is None else offset, width if gain is None else gain
    end = min(end, beam) if kept is None else kept[1] + width
    size = round((end - first) / width)
    check(
        1 <= size <= _MOST_CHANNELS,
        f"An energy axis of channels {width:g} keV wide from {first:g} to {end:g} keV has {size} "
        f"channels; give --energy-offset, --energy-gain and --energy-range that make 1 to "
        f"{_MOST_CHANNELS}.",
    )
    given = {name.replace("_", " "): Provenance(v, "", "given") for name, v in told.items()}
    image = SpectrumImage(
        as_counts(np.ones((1, 1, size), np.uint8)),
        EnergyAxis(first, width, size),
        Acquisition(**told),
        provenance=given,
    )
    return image if kept is None else image.crop_energy(*kept)


def _check_parameters(model: EDSModel, names: Sequence[str]) -> None:
    from ..model import adjustables, switched_on

    known = adjustables(switched_on(model, names, np.ones(model.energy_axis.size)))
    for name in names:
        check(
            name in known,
            f"--parameters names '{name}', which the model has not; choose among "
            f"{', '.join(known)}.",
        )


def _joined(found: list[xr.Dataset]) -> xr.Dataset:
    import xarray as xr

    return xr.concat(found, "phase")


def _needed(data: xr.Dataset, error: float) -> xr.Dataset:
    """Counts for the wanted error, and to detect as much."""
    from ..inference import needed_counts

    return data[["composition"]].assign(
        error=needed_counts(data["composition_stderr"], error),
        detection=needed_counts(data["detection_limit"], error),
    )
