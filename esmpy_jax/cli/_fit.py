"""`esmpy-jax fit`: a file in, a folder of results out."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from .._checks import check
from . import _options as o
from . import _parse as parse
from ._invocation import command
from ._model import read_detector, with_sources
from ._output import check_folder
from ._refined import Refined, print_refined, with_refined
from ._terminal import console, fit_progress, working
from ._write import announce, write_results

if TYPE_CHECKING:
    from ..inference import Solution, SpectrumImage
    from ..model import AnyModel

_SOLVERS = {
    "coarse-to-fine": "CoarseToFine",
    "newton": "VariableProjectionNewton",
    "multiplicative": "MultiplicativeUpdate",
    "joint": "JointMultiplicativeUpdate",
    "extrapolated": "ExtrapolatedUpdate",
    "squarem": "SquaremUpdate",
    "projected-gradient": "ProjectedGradient",
    "quadratic-surrogate": "QuadraticSurrogate",
    "mirror-descent": "BlockMirrorDescent",
}
_STARTS = ("binned", "random", "nndsvd", "vertex")
_CONSTRAINTS = ("none", "abundances", "weights", "shares")


def decompose(
    file: o.File,
    elements: o.Elements = None,
    phases: o.Phases = None,
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
    beam_current: o.BeamCurrent = None,
    dwell_time: o.DwellTime = None,
    live_time: o.LiveTime = None,
    solid_angle: o.SolidAngle = None,
    energy_offset: o.EnergyOffset = None,
    energy_gain: o.EnergyGain = None,
    energy_range: o.EnergyRange = None,
    region: o.Region = None,
    bin: o.Bin = 1,
    storage: o.Storage = "auto",
    efficiency: o.Efficiency = None,
    detector: o.Window = None,
    resolution: o.Resolution = None,
    seed: o.Seed = 0,
    solver: o.Solver = "coarse-to-fine",
    start: o.Start = None,
    constraint: o.Constraint = None,
    smoothness: o.Smoothness = None,
    sparsity: o.Sparsity = None,
    total_variation: o.TotalVariation = None,
    max_steps: o.MaxSteps = 2000,
    tol: o.Tol = 0.1,
    max_seconds: o.MaxSeconds = None,
    compositions: o.KnownCompositions = None,
    absent: o.Absent = None,
    phase_names: o.PhaseNames = None,
    overwrite: o.Overwrite = False,
    *,
    refining: Callable[[Any, Any, Any], Refined] | None = None,
) -> None:
    """What `fit` does, by its options; `refining` a model first, as `refine` does.

    `refining` is called with the image, the model, and a function that fits a model to the image.
    """
    if out is None:
        check(False, f"Name a folder for the results with --out, such as --out {file.stem}_phases.")
    assert out is not None
    check_folder(out, overwrite)
    number = None if phases is None else parse.phase_number(phases)
    names = parse.words(phase_names) if phase_names is not None else None
    check(
        names is None or number == "auto" or len(set(names)) == len(names) == (number or 1),
        f"--phase-names holds {len(set(names or ()))} different names for {number or 1} phases; "
        "give one for each, and the number with --phases.",
    )
    check(
        names is None or number != "auto",
        "--phase-names names phases whose number is not known; give the number with --phases.",
    )
    known = _known(compositions, absent, number, names)
    options = known | _fit_options(
        parse.choice(solver, tuple(_SOLVERS), "--solver"),
        None if start is None else parse.choice(start, _STARTS, "--start"),
        None if constraint is None else parse.choice(constraint, _CONSTRAINTS, "--constraint"),
        smoothness,
        sparsity,
        total_variation,
    )
    parse.at_least(max_steps, 1, "--max-steps", "a whole number of at least 1")
    check(tol > 0, f"--tol is {tol:g}; give a positive number of nats such as 0.1.")
    check(
        max_seconds is None or max_seconds > 0,
        f"--max-seconds is {max_seconds}; give a positive number of seconds.",
    )
    check(
        not oxides or thickness is not None or density is not None,
        "--oxides is about absorption, which needs --thickness and --density; add them.",
    )
    check(
        dwell_time is None or live_time is None,
        "Both --dwell-time, of one pixel, and --live-time, of the whole scan, are given; give one.",
    )
    parse.at_least(bin, 1, "--bin", "a whole number of at least 1")
    check(0 <= seed < 2**32, f"--seed is {seed}; give a whole number from 0 to 2^32 - 1.")
    kept_energies = parse.numbers(energy_range, ("LO", "HI"), "--energy-range")
    kept_pixels = parse.numbers(region, ("Y0", "Y1", "X0", "X1"), "--region", whole=True)
    storage = parse.choice(storage, ("auto", "dense", "sparse"), "--storage")
    cuts = parse.split_energies(split)
    sample, other = _named(elements), _named(stray)

    from ..inference import fit as run
    from ..io import load
    from ..model import EDSModel

    with working(f"reading {file.name}"):
        image = load(
            file,
            signal=signal,
            beam_energy=beam_energy,
            elevation=elevation,
            azimuth=azimuth,
            tilt_alpha=tilt_alpha,
            tilt_beta=tilt_beta,
            beam_current=beam_current,
            dwell_time=dwell_time,
            live_time=live_time,
            solid_angle=solid_angle,
            energy_offset=energy_offset,
            energy_gain=energy_gain,
            energy_range=kept_energies,
            region=kept_pixels,  # pyright: ignore[reportArgumentType]
            bin=bin,
            storage=storage,  # pyright: ignore[reportArgumentType]
        )
    check(bool(sample), _no_elements(image, file))
    number = _number(number, image, file)
    check(
        image.acquisition.beam_energy is not None,
        f"{file.name} does not tell the beam energy; give it in keV, such as --beam-energy 200.",
    )
    with working("building the model"):
        built, sources = read_detector(image, efficiency, detector, resolution)
        model = EDSModel.from_image(
            image,
            sample,
            stray=other,
            split=cuts,
            detector=built,
            take_off_angle=take_off_angle,
            thickness=thickness,
            density=density,
            bound_oxygen=oxides,
        )
        model = with_sources(model, sources)
    limits = {"max_steps": max_steps, "tol": tol, "max_seconds": max_seconds}

    def fitted(model: AnyModel) -> Solution:
        return run_fit(image, model, number, run, seed=seed, **limits, **options)

    refined = None
    if refining is not None:
        refined = refining(image, model, fitted)
        model = refined.refinement.model
    solution = fitted(model)
    if names is not None and not known:
        solution = renamed(solution, names)
    solution = recorded(solution, seed=seed)
    if refined is not None:
        with working("propagating the errors"):
            solution = with_refined(solution, image, refined)
    with working("writing the results"):
        truth, written = write_results(solution, image, out, refined)
    screen = console()
    if refined is not None:
        print_refined(refined, screen)
    announce(solution, truth, out, written, screen)


@o.with_options_of(decompose)
def fit(**options: Any) -> None:
    """Decompose a spectrum image into phases; write maps, spectra, compositions and a report.

    Example: esmpy-jax fit scan.bcf --elements O,Mg,Si,Fe --stray Cu,Ga --phases 3 --out results
    """
    decompose(**options)


def run_fit(
    image: SpectrumImage,
    model: AnyModel,
    phases: int | Literal["auto"],
    run: Any,
    *,
    seed: int,
    **options: Any,
) -> Solution:
    """`fit` with its progress on a terminal."""
    import jax

    with fit_progress() as progress:
        return run(image, model, phases, key=jax.random.key(seed), progress=progress, **options)


def renamed(solution: Solution, names: list[str]) -> Solution:
    """The same solution with other names of the phases."""
    import json
    import re

    from ..inference import Solution

    data = solution.dataset
    new = dict(zip(map(str, data["phase"].values), names, strict=True))
    either = "|".join(re.escape(old) for old in sorted(new, key=len, reverse=True))
    whole = re.compile(rf"(?<!\w)(?:{either})(?!\w)")
    warnings = [whole.sub(lambda found: new[found[0]], text) for text in solution.warnings]
    return Solution(
        data.assign_coords(phase=list(names)).assign_attrs(warnings=json.dumps(warnings))
    )


def recorded(solution: Solution, *, seed: int) -> Solution:
    """The same solution with what it takes to repeat it."""
    import jax

    from ..inference import Solution

    return Solution(
        solution.dataset.assign_attrs(
            command=command(),
            seed=seed,
            precision="float64" if jax.config.jax_enable_x64 else "float32",  # pyright: ignore
            device=f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind})",
            jax_version=jax.__version__,
        )
    )


def _known(
    compositions: str | None,
    absent: str | None,
    number: int | Literal["auto"] | None,
    names: list[str] | None,
) -> dict[str, Any]:
    """Arguments of `fit` where something is known of single phases, which need names then."""
    if compositions is None and absent is None:
        return {}
    flag = "--compositions" if absent is None else "--absent"
    check(
        number != "auto",
        f"{flag} tells of phases whose number is not known; give the number with --phases.",
    )
    names = names or [f"phase {a + 1}" for a in range(number or 1)]  # pyright: ignore
    one_each = parse.of_phases(compositions, names, "--compositions")
    twice = [name for name, formulas in one_each.items() if len(formulas) > 1]
    check(not twice, f"--compositions gives {(twice or [''])[0]} two compositions; give one.")
    return {
        "compositions": {name: formulas[0] for name, formulas in one_each.items()},
        "absent": parse.of_phases(absent, names, "--absent"),
        "phase_names": names,
    }


def _named(text: str | None):
    """Elements out of "O,Mg,Si"; unknown ones are refused before the file is read."""
    from ..atomic import parse_elements

    found = parse.words(text)
    return parse_elements(found) if found else ()


def _number(
    asked: int | Literal["auto"] | None, image: SpectrumImage, file: pathlib.Path
) -> int | Literal["auto"]:
    """How many phases; a single spectrum is one."""
    n_pixels = image.counts.n_pixels
    check(
        asked is not None or n_pixels == 1,
        "Say how many phases to look for with --phases, such as --phases 3, or --phases auto.",
    )
    check(
        asked in (None, "auto") or n_pixels > 1 or asked == 1,
        f"{file.name} is a single spectrum, which cannot be told apart into {asked} phases; leave "
        "--phases out.",
    )
    return 1 if n_pixels == 1 or asked is None else asked


def _no_elements(image: SpectrumImage, file: pathlib.Path) -> str:
    listed = image.acquisition.elements
    such = ",".join(listed) or "O,Mg,Si"
    what = f"{file.name} lists {', '.join(listed)}" if listed else f"{file.name} lists none"
    return (
        f"No element of the sample is named, and {what}; name them with --elements, such as "
        f"--elements {such}, and those of grid or holder with --stray."
    )


def _fit_options(
    solver: str,
    start: str | None,
    constraint: str | None,
    smoothness: float | None,
    sparsity: float | None,
    total_variation: float | None,
) -> dict[str, Any]:
    """Arguments of `fit`; refuses what contradicts itself."""
    from .. import inference, objective, solve

    strengths = {
        "--smoothness": smoothness,
        "--sparsity": sparsity,
        "--total-variation": total_variation,
    }
    for flag, value in strengths.items():
        if value is not None:
            parse.at_least(value, 0, flag, "zero or a positive number")
    coarse = solver == "coarse-to-fine"
    check(
        start is None or not coarse,
        f"--start {start} contradicts --solver coarse-to-fine, which chooses its own starts; leave "
        "--start out, or add --solver newton.",
    )
    bound = coarse or constraint not in (None, "none")
    check(
        bound or not any(strengths.values()),
        "--smoothness, --sparsity and --total-variation mean nothing without a constraint, since "
        "the maps would shrink while the spectra grow; add --constraint abundances, weights or "
        "shares, or leave them out.",
    )
    constraints = {
        "none": objective.Unconstrained(),
        "abundances": objective.SumToOneAbundances(),
        "weights": objective.SumToOneWeights(),
        "shares": objective.SumToOneShares(),
    }
    starts = {
        "binned": solve.BinnedStart,
        "random": solve.RandomStart,
        "nndsvd": solve.NNDSVDStart,
        "vertex": solve.VertexStart,
    }
    options: dict[str, Any] = {
        "solver": getattr(inference if coarse else solve, _SOLVERS[solver])()
    }
    if constraint is not None:
        options["constraint"] = constraints[constraint]
    if start is not None:
        options["start"] = starts[start]()
    if any(value is not None for value in strengths.values()):
        terms: list[Any] = []
        if smoothness:
            terms.append(objective.LaplacianSmoothness(smoothness))
        if sparsity:
            terms.append(objective.LogSparsity(sparsity))
        if total_variation:
            terms.append(objective.TotalVariation(total_variation))
        options["regulariser"] = (
            objective.NoRegulariser()
            if not terms
            else terms[0]
            if len(terms) == 1
            else objective.SumOf(tuple(terms))
        )
    return options
