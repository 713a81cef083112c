"""The options of the commands."""

import inspect
import math
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .._checks import check

_FILE, _SAMPLE = "What is in the file", "The sample"
_DETECTOR, _FIT, _OUT = "The detector", "The fit", "The output"
_REFINEMENT, _PLAN = "The refinement", "The measurement"


def _number(
    flag: str,
    text: str,
    panel: str,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    unit: str = "",
):
    """An option for a finite number from `low` to `high`."""

    def within(value: float | int | None) -> float | int | None:
        bounds = "" if math.isinf(low) else f" from {low:.7g} to {high:.7g} {unit}".rstrip()
        if value is not None:
            check(
                math.isfinite(value) and low <= value <= high,
                f"{flag} is {value:g}; give a{'' if bounds else ' finite'} number{bounds}.",
            )
        return value

    return typer.Option(flag, help=text, rich_help_panel=panel, callback=within)


def _angle(flag: str, text: str):
    return _number(flag, text, _FILE, -360, 360, "degrees")


def _text(text: str, panel: str, metavar: str):
    return typer.Option(help=text, rich_help_panel=panel, metavar=metavar)


File = Annotated[pathlib.Path, typer.Argument(help="A spectrum image.", show_default=False)]
Signal = Annotated[
    str | None, _text("The EDS signal to take, by number or title.", _FILE, "NUMBER|TITLE")
]
BeamEnergy = Annotated[
    float | None, _number("--beam-energy", "Beam energy in keV.", _FILE, 1, 1e6, "keV")
]
Elevation = Annotated[float | None, _angle("--elevation", "Elevation of the detector in degrees.")]
Azimuth = Annotated[float | None, _angle("--azimuth", "Azimuth of the detector in degrees.")]
TiltAlpha = Annotated[float | None, _angle("--tilt-alpha", "Stage tilt α in degrees.")]
TiltBeta = Annotated[float | None, _angle("--tilt-beta", "Stage tilt β in degrees.")]
TakeOffAngle = Annotated[
    float | None,
    _number("--take-off-angle", "Take-off angle in degrees, instead of the four angles.", _FILE),
]
BeamCurrent = Annotated[
    float | None,
    _number(
        "--beam-current",
        "Beam current in nA; with a time and --solid-angle gives atoms per area.",
        _FILE,
        1e-9,
        1e6,
        "nA",
    ),
]
DwellTime = Annotated[
    float | None,
    _number(
        "--dwell-time",
        "Live time of one pixel of the file in s, all frames together.",
        _FILE,
        1e-12,
        1e9,
        "s",
    ),
]
LiveTime = Annotated[
    float | None,
    _number(
        "--live-time",
        "Live time of the whole scan in s, shared out equally, instead of --dwell-time.",
        _FILE,
        1e-12,
        1e12,
        "s",
    ),
]
SolidAngle = Annotated[
    float | None,
    _number(
        "--solid-angle", "Solid angle of the detectors together in sr.", _FILE, 1e-9, 12.566, "sr"
    ),
]
EnergyOffset = Annotated[
    float | None,
    _number("--energy-offset", "Energy of the first channel in keV, instead of the file's.", _FILE),
]
EnergyGain = Annotated[
    float | None,
    _number(
        "--energy-gain", "Width of a channel in keV, instead of the file's.", _FILE, 1e-6, 10, "keV"
    ),
]
EnergyRange = Annotated[str | None, _text("Keep the channels from LO to HI keV.", _FILE, "LO,HI")]
Region = Annotated[
    str | None,
    _text("Keep the pixels y0 <= y < y1, x0 <= x < x1.", _FILE, "Y0,Y1,X0,X1"),
]
Bin = Annotated[
    int, typer.Option(help="Sum blocks of so many pixels squared.", rich_help_panel=_FILE)
]
Storage = Annotated[str, _text("How the counts are kept in memory.", _FILE, "auto|dense|sparse")]

Elements = Annotated[
    str | None,
    _text("Elements of the sample: symbols, names or atomic numbers.", _SAMPLE, "O,Mg,Si"),
]
Stray = Annotated[
    str,
    _text("Elements seen but outside the sample (grid, ion milling).", _SAMPLE, "Cu,Ga"),
]
Split = Annotated[
    str,
    _text(
        "Lines of these elements below the energy in keV are free of the composition.",
        _SAMPLE,
        "Fe:3,Hf:5",
    ),
]
Thickness = Annotated[
    float | None,
    _number("--thickness", "Thickness in nm; with --density switches absorption on.", _SAMPLE),
]
Density = Annotated[float | None, _number("--density", "Density in g/cm³.", _SAMPLE)]
Oxides = Annotated[
    bool,
    typer.Option(
        "--oxides",
        help="Absorption counts the oxygen of the usual oxides, where the energy range begins "
        "above oxygen's line.",
        rich_help_panel=_SAMPLE,
    ),
]

Efficiency = Annotated[
    pathlib.Path | None,
    _text("Measured efficiency: energy in keV and efficiency, in two columns.", _DETECTOR, "CSV"),
]
Window = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="Efficiency of a typical detector behind this window.",
        rich_help_panel=_DETECTOR,
        metavar="windowless|ap3.3|be|si3n4",
    ),
]
Resolution = Annotated[
    float | None, _number("--resolution", "FWHM in eV at Mn Kα.", _DETECTOR, 1, 10_000, "eV")
]

Phases = Annotated[
    str | None,
    _text(
        "Number of phases, or auto: as many as held-out counts speak for. A single spectrum is "
        "one.",
        _FIT,
        "N|auto",
    ),
]
Seed = Annotated[int, typer.Option(help="Of every random number.", rich_help_panel=_FIT)]
Solver = Annotated[
    str,
    _text(
        "Spectra from the binned image, then maps (coarse-to-fine); or both together at full "
        "resolution, by newton, multiplicative, joint, extrapolated, squarem, "
        "projected-gradient, quadratic-surrogate or mirror-descent steps.",
        _FIT,
        "NAME",
    ),
]
Start = Annotated[
    str | None,
    _text("Of a fit of both together.", _FIT, "binned|random|nndsvd|vertex"),
]
Constraint = Annotated[
    str | None,
    _text(
        "What sums to one: abundances of a pixel, shares of its own counts, element weights of a "
        "phase. By default shares with coarse-to-fine, else none.",
        _FIT,
        "none|abundances|weights|shares",
    ),
]
Smoothness = Annotated[
    float | None,
    _number(
        "--smoothness",
        "Weight of the squared differences between neighbouring pixels.",
        _FIT,
    ),
]
Sparsity = Annotated[
    float | None, _number("--sparsity", "Weight of the penalty on many phases in a pixel.", _FIT)
]
TotalVariation = Annotated[
    float | None,
    _number(
        "--total-variation",
        "Weight of the total variation of the maps. With coarse-to-fine held-out counts choose it "
        "unless one of these three weights is given.",
        _FIT,
    ),
]
MaxSteps = Annotated[
    int,
    typer.Option(
        help="Most steps of the fit at full resolution; that of the binned image may take 5000, or "
        "as many as this where it is more.",
        rich_help_panel=_FIT,
    ),
]
Tol = Annotated[
    float,
    _number(
        "--tol",
        "Stop when at most so many nats are believed to be left; 0.5 is 1 std. error.",
        _FIT,
    ),
]
MaxSeconds = Annotated[
    float | None,
    _number("--max-seconds", "Stop the fit after so long, compilation included.", _FIT),
]
KnownCompositions = Annotated[
    str | None,
    typer.Option(
        "--compositions",
        help="Known compositions of phases, which then keep that number (or name).",
        rich_help_panel=_FIT,
        metavar="1:MgSiO3,2:MgO",
    ),
]
Absent = Annotated[str | None, _text("Elements that phases have not.", _FIT, "2:Si,Ca,3:Al")]
PhaseNames = Annotated[
    str | None,
    _text("Names, in the order of the phases (most counts first).", _FIT, "A,B,C"),
]

Parameters = Annotated[
    str | None,
    _text(
        "What to refine, by name; of groups of lines, too, such as 'Mg K-M ratio'. By default the "
        "energy axis, the resolution, the tail and, with --thickness and --density, the "
        "mass-thickness.",
        _REFINEMENT,
        "A,B,C",
    ),
]
Loss = Annotated[
    str,
    _text(
        "What is refined on: the summed spectrum (summed), the pixels of a first fit that hold the "
        "same, added up (pools), or each pixel by itself (pixels).",
        _REFINEMENT,
        "summed|pools|pixels",
    ),
]

Example = Annotated[
    pathlib.Path | None,
    typer.Argument(
        help="A spectrum image, for its energy axis and acquisition.", show_default=False
    ),
]
Compositions = Annotated[
    str | None, _text("Formulas of the phases, such as MgSiO3 or Mg0.9Fe0.1O.", _PLAN, "A,B,C")
]
Further = Annotated[
    str,
    _text("Further elements of the fit, of which the phases have none.", _PLAN, "Al,Fe"),
]
Doses = Annotated[str, _text("Counts of a phase, of all its pixels together.", _PLAN, "N,N,N")]
WantedError = Annotated[
    float, _number("--error", "Wanted error, in at%: how many counts it takes.", _PLAN, 1e-6, 100)
]
CountsPerPixel = Annotated[
    float | None,
    _number(
        "--counts-per-pixel",
        "To tell the pixels that it takes; by default the file's mean.",
        _PLAN,
        1e-6,
        1e9,
    ),
]
Continuum = Annotated[
    float,
    _number("--continuum", "Bremsstrahlung over the counts of the lines.", _PLAN, 1e-6, 1e6),
]
Unknown = Annotated[
    str | None,
    typer.Option(
        "--parameters",
        help="Physical parameters known no better than their priors, such as mass_thickness.",
        rich_help_panel=_PLAN,
        metavar="A,B,C",
    ),
]

Out = Annotated[
    pathlib.Path | None,
    _text("New folder for the results.", _OUT, "DIR"),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the results in a folder that exists.",
        rich_help_panel=_OUT,
    ),
]


def with_options_of(function: Callable[..., Any]):
    """A decorator: the command's `**options` are the options of a function, as Typer sees them.

    The command's own options come first, behind the arguments. What the function takes by keyword
    only is no option.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = _parameters(command)
        both = [*own, *(p for p in _parameters(function) if p.kind is not p.KEYWORD_ONLY)]
        both.sort(key=lambda p: p.default is not p.empty)
        seen = inspect.Signature(both, return_annotation=None)
        command.__signature__ = seen  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {p.name: p.annotation for p in both} | {"return": None}
        return command

    return decorated


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Of a function, but for `**options`, with annotations that are no strings."""
    every = inspect.signature(function, eval_str=True).parameters.values()
    return [p for p in every if p.kind is not p.VAR_KEYWORD]
