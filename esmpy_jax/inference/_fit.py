"""`fit`: an image and a model in, a `Solution` out."""

import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray

from .._checks import check
from ..model import EDSModel
from ..objective import (
    AbstractConstraint,
    AbstractRegulariser,
    LaplacianSmoothness,
    NoRegulariser,
    SumOf,
    SumToOneAbundances,
    SumToOneShares,
    Unconstrained,
    exposure_or_one,
)
from ..solve import (
    RESULTS,
    AbstractSolver,
    AbstractStart,
    BinnedStart,
    Factorisation,
    GivenStart,
    RandomStart,
    factorise,
)
from ._coarse import CoarseToFine
from ._fisher import free_entries, information, weights_covariance
from ._image import Provenance, SpectrumImage
from ._quantify import phase_composition
from ._solution import SCHEMA, Solution, column_record

#: Default smoothness: shares of neighbouring pixels differ by 1 / sqrt(25) = 0.2, a third by more.
SMOOTHNESS = 25.0

#: Standard error of an atomic fraction above which the user is warned.
VAGUE = 0.2


def fit(
    image: SpectrumImage,
    model: EDSModel,
    n_phases: int,
    *,
    solver: AbstractSolver | CoarseToFine = CoarseToFine(),
    start: AbstractStart | None = None,
    constraint: AbstractConstraint | None = None,
    regulariser: AbstractRegulariser | None = None,
    fixed_weights: Any = None,
    fixed_abundances: Any = None,
    phase_names: Sequence[str] | None = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 2000,
    tol: float = 0.1,
    max_seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    throw: bool = True,
) -> Solution:
    """Decompose a spectrum image into phases: abundance maps, spectra and compositions.

    The counts are Poisson with mean G W H. By default W comes from the image binned in space and
    H from the full image with W held (`CoarseToFine`); the shares of a pixel sum to one with each
    pixel as bright as its own counts (`SumToOneShares`) and are smooth
    (`LaplacianSmoothness(25)`). With another solver W and H are fitted together from `start`
    (`BinnedStart()` by default), without constraint and regulariser unless given.

    A model with self-absorption gives each phase its own G, which follows that phase's W.

    - `fixed_weights`, `fixed_abundances`: (column, phase) and (phase, pixel) with NaN where free,
        in the gauge of the constraint.
    - `phase_names`: one for each phase. Phases come in the order of their counts, most first,
        unless names, fixed entries or a `GivenStart` say which is which.
    - `key`: for random starts; `jax.random.key(0)` by default. `max_steps` (at full resolution;
        see `CoarseToFine` for the binned image), `tol` (nats), `max_seconds`,
        `progress`: see `esmpy_jax.solve.solve`.
    - `throw`: raise `RuntimeError` when the fit ended with values that are not finite. A fit that
        stopped at `max_steps` is returned, and says so in `warnings`.

    Raises `InputError` for what cannot be used: see `factorise`.
    """
    check(
        model.energy_axis.size == image.counts.n_channels,
        f"The model has {model.energy_axis.size} channels but the image has "
        f"{image.counts.n_channels}; build the model from this image.",
    )
    names = None if phase_names is None else tuple(str(name) for name in phase_names)
    check(
        names is None or len(set(names)) == len(names) == n_phases,
        f"The phase names are {names} for {n_phases} phases; give one distinct name each.",
    )
    key = jr.key(0) if key is None else key
    began = time.perf_counter()
    basis = model.basis if model.depends_on_phase else model.basis()
    if isinstance(solver, CoarseToFine):
        check(
            fixed_abundances is None and start is None,
            "CoarseToFine chooses its own start and cannot hold abundances fixed; give "
            "solver=MultiplicativeUpdate() with a start or fixed_abundances.",
        )
        constraint = SumToOneShares() if constraint is None else constraint
        if regulariser is None:
            shares = isinstance(constraint, SumToOneAbundances | SumToOneShares)
            regulariser = LaplacianSmoothness(SMOOTHNESS) if shares else NoRegulariser()
        judged, fine = solver(
            image.counts,
            basis,
            n_phases,
            constraint=constraint,
            regulariser=regulariser,
            fixed_weights=fixed_weights,
            key=key,
            max_steps=max_steps,
            tol=tol,
            max_seconds=max_seconds,
            progress=progress,
        )
    else:
        constraint = Unconstrained() if constraint is None else constraint
        regulariser = NoRegulariser() if regulariser is None else regulariser
        if start is None:
            start = BinnedStart() if fixed_abundances is None else RandomStart()
        fine = factorise(
            image.counts,
            basis,
            n_phases,
            solver=solver,
            start=start,
            constraint=constraint,
            regulariser=regulariser,
            fixed_weights=fixed_weights,
            fixed_abundances=fixed_abundances,
            key=key,
            max_steps=max_steps,
            tol=tol,
            max_seconds=max_seconds,
            progress=progress,
        )
        judged = fine
    if throw and RESULTS.nonfinite in (fine.result, judged.result):
        raise RuntimeError(RESULTS[RESULTS.nonfinite])
    settings = {
        "seconds": time.perf_counter() - began,
        "seed": np.asarray(jr.key_data(key)).ravel().tolist(),
        "solver": repr(solver),
        "start": repr(start),
        "constraint": type(constraint).__name__,
        "regulariser": _words(regulariser),
        "max_steps": max_steps,
        "tol": tol,
        "max_seconds": max_seconds,
    }
    anchored = isinstance(start, GivenStart) or not (
        names is None and fixed_weights is None and fixed_abundances is None
    )
    coarse = isinstance(solver, CoarseToFine) and solver.coarse_steps is not None
    ending = _ending(fine, judged, "coarse_steps of CoarseToFine" if coarse else "max_steps")
    return _solution(image, model, fine, judged, ending, names, anchored, settings)


def _solution(
    image: SpectrumImage,
    model: EDSModel,
    fine: Factorisation,
    judged: Factorisation,
    ending: str,
    names: Sequence[str] | None,
    anchored: bool,
    settings: dict[str, Any],
) -> Solution:
    """The labelled result; `judged` is the fit that W, and so its errors, come from."""
    basis, counts = fine.basis, image.counts
    rows = np.flatnonzero(basis.composition_rows)
    n_columns, n_phases = fine.weights.shape
    scale = _scale(fine, rows)
    weights = np.asarray(fine.weights, float) / scale[None, :]
    per_dose = np.asarray(fine.abundances, float) * scale[:, None]
    # H is per unit of the exposure that the image knows of, whatever the constraint made of it.
    known = np.asarray(exposure_or_one(counts), float)
    dose = np.asarray(exposure_or_one(fine.problem.counts), float)
    maps = per_dose * np.divide(dose, known, out=np.ones_like(known), where=known > 0)
    # Without counts, and so without dose, the prior has still a say in the shares.
    total = per_dose.sum(0)
    share = np.where(total > 0, per_dose / np.where(total > 0, total, 1.0), 1.0 / n_phases)
    order = np.arange(n_phases) if anchored else np.argsort(-(maps * known).sum(1))
    names = [f"phase {a + 1}" for a in range(n_phases)] if names is None else names

    judged_scale = jnp.asarray(_scale(judged, rows), judged.weights.dtype)
    info = information(judged.problem, judged.weights, judged.abundances, judged_scale)
    covariance = weights_covariance(weights, info)
    entries = (np.arange(n_columns)[:, None] * n_phases + order[None, :]).ravel()
    covariance = covariance[np.ix_(entries, entries)]
    free = np.asarray(free_entries(fine.problem, fine.weights, fine.abundances)[1], np.int8)
    if fine.problem.fixed_abundances is not None:
        free = np.where(np.asarray(fine.problem.fixed_abundances.mask), -1, free)
    on_plane = isinstance(fine.problem.constraint, SumToOneAbundances)
    weights, maps, share, free = weights[:, order], maps[order], share[order], free[order]
    plane = 1 / scale[order] if on_plane else np.zeros(n_phases)
    matrix = np.asarray(basis.matrix)
    if basis.depends_on_phase:
        matrix = matrix[order]

    atomic_weights = np.array([e.atomic_weight for e in model.elements])
    atomic, atomic_error = phase_composition(weights, covariance, rows, np.ones(len(rows)))
    weight, weight_error = phase_composition(weights, covariance, rows, atomic_weights)
    ny, nx, _ = image.shape
    spectra = (
        np.einsum("pcj,jp->cp", matrix, weights) if basis.depends_on_phase else matrix @ weights
    )
    grid = ("phase", "y", "x")
    table = ("element", "phase")
    percent, weight_unit = {"units": "at%"}, {"units": "wt%"}
    warnings = _warnings(image, model, fine, judged, ending, names, atomic, atomic_error)
    parameters = _parameters(image, model)
    dataset = xr.Dataset(
        {
            "pixel_counts": (("y", "x"), np.asarray(counts.pixel_totals()).reshape(ny, nx)),
            "counts_sum": ("energy", np.asarray(image.sum_spectrum(), float)),
            "G": (("phase",) * basis.depends_on_phase + ("energy", "column"), matrix),
            "W": (("column", "phase"), weights),
            "W_covariance": (("entry", "entry_"), covariance),
            "H": (grid, maps.reshape(n_phases, ny, nx)),
            "H_free": (grid, free.reshape(n_phases, ny, nx)),
            "H_plane": ("phase", plane),
            "exposure": (("y", "x"), np.broadcast_to(known, (1, ny * nx)).reshape(ny, nx).copy()),
            "spectra": (("energy", "phase"), spectra),
            "fit_sum": (("energy", "phase"), spectra * (maps * known).sum(1)[None, :]),
            "abundance": (grid, share.reshape(n_phases, ny, nx)),
            "composition": (table, 100 * atomic, percent),
            "composition_stderr": (table, 100 * atomic_error, percent),
            "weight_percent": (table, 100 * weight, weight_unit),
            "weight_percent_stderr": (table, 100 * weight_error, weight_unit),
            "nll": ("check", fine.nll_trace),
            "steps": ("check", fine.nll_steps),
            "coarse_nll": ("coarse_check", judged.nll_trace),
            "coarse_steps": ("coarse_check", judged.nll_steps),
        },
        {
            "energy": ("energy", np.asarray(model.energy_axis.centres, float), {"units": "keV"}),
            "column": list(basis.labels),
            "phase": list(names),
            "element": [e.symbol for e in model.elements],
            "atomic_number": ("element", [e.atomic_number for e in model.elements]),
            "y": ("y", np.arange(ny) * image.pixel_size[0], {"units": image.pixel_unit}),
            "x": ("x", np.arange(nx) * image.pixel_size[1], {"units": image.pixel_unit}),
        },
        {
            "esmpy_jax_schema": SCHEMA,
            "program_version": _version(),
            "title": image.title,
            "result": ending,
            "converged": int(fine.converged and judged.converged),
            "nll": fine.nll,
            "n_steps": fine.steps,
            "remaining_nats": fine.remaining,
            "seconds": settings.pop("seconds"),
            "sum_to_one": int(on_plane),
            "seed": json.dumps(settings.pop("seed")),
            "columns": json.dumps([column_record(c) for c in basis.columns]),
            "parameters": json.dumps({k: _plain(v) for k, v in parameters.items()}),
            "settings": json.dumps(settings),
            "warnings": json.dumps(warnings),
        },
    )
    if fine is judged:
        dataset = dataset.drop_vars(["coarse_nll", "coarse_steps"])
    return Solution(dataset)


def _scale(fit: Factorisation, rows: np.ndarray) -> np.ndarray:
    """The sum of each phase's composition rows, by which W is divided; 1 where it is zero."""
    totals = np.asarray(fit.weights, float)[rows].sum(0)
    return np.where(totals > 0, totals, 1.0)


def _sentence(fit: Factorisation) -> str:
    return RESULTS[fit.result] or str(fit.result)


def _ending(fine: Factorisation, judged: Factorisation, steps_argument: str) -> str:
    """How the fit ended; what went wrong in the binned one goes first."""
    if judged is fine or judged.converged:
        return _sentence(fine)
    where = "The fit of the binned image, from which the spectra come, did not converge"
    if judged.result == RESULTS.max_steps_reached:
        return f"{where} in {judged.steps} steps; raise {steps_argument} above that."
    if judged.result == RESULTS.basis_moving:
        return (
            f"{where}: the absorption still follows the compositions; check thickness and "
            "density, or ask for fewer phases."
        )
    return f"{where}: {_sentence(judged)}"


def _warnings(image, model, fine, judged, ending, names, atomic, error):
    out = list(image.notes)
    if judged is not fine and not judged.converged:
        out.append(ending)
    if not fine.converged:
        out.append(f"The fit did not converge: {_sentence(fine)}")
    for name, entry in model.parameters().items():
        if entry.source != "default":
            continue
        if name == "mass_thickness":
            out.append(
                "Thickness and density were not given, so absorption in the sample is neglected; "
                "light elements come out too low."
            )
        elif entry.value is not None:
            value = entry.value if isinstance(entry.value, str) else f"{entry.value:.4g}"
            words = f"{value} {entry.unit}".strip()
            out.append(
                f"The {_name(name)} was neither given nor in the file: {words} stands in for it."
            )
    out += _unknown_tilts(image, model)
    empty = int((np.asarray(image.counts.pixel_totals()) <= 0).sum())
    if empty:
        out.append(f"{empty} pixels hold no counts; their abundances are not determined by data.")
    for a, name in enumerate(names):
        if atomic[:, a].sum() <= 0:
            out.append(f"{name} contains no element of the sample; its composition is empty.")
        elif error[:, a].max() > VAGUE:
            worst = model.elements[int(np.argmax(error[:, a]))].symbol
            out.append(
                f"The counts hardly determine the composition of {name}: the standard error of "
                f"{worst} is {100 * error[:, a].max():.0f} at%; fewer phases or elements may help."
            )
    return list(dict.fromkeys(out))


def _unknown_tilts(image, model) -> list[str]:
    """A sentence where absorption rests on a take-off angle for which a tilt was taken as zero."""
    known = image.acquisition
    tilts = {"α": known.tilt_alpha, "β": known.tilt_beta}
    unknown = [name for name, value in tilts.items() if value is None]
    angle = known.take_off_angle
    if not (model.depends_on_phase and unknown and angle is not None):
        return []
    if not np.isclose(angle, float(model.take_off_angle), rtol=0, atol=1e-4):
        return []  # another angle was given
    return [
        f"The stage tilt {' and '.join(unknown)} was neither given nor in the file: 0° stands in "
        "for it in the take-off angle."
    ]


def _parameters(image, model) -> dict[str, Provenance]:
    found = dict(image.provenance)
    for name, entry in model.parameters().items():
        found[_name(name)] = Provenance(entry.value, entry.unit, entry.source)
    return found


def _name(name: str) -> str:
    """A parameter's name as words."""
    words = {
        "fano": "Fano factor",
        "efficiency": "detector efficiency",
        "noise_fwhm": "noise FWHM",
        "take_off_angle": "take-off angle",
        "mass_thickness": "mass-thickness",
    }
    return words.get(name, name.replace("_", " "))


def _plain(entry: Provenance) -> dict[str, Any]:
    value = entry.value
    if isinstance(value, np.generic):
        value = value.item()
    return {"value": value, "unit": entry.unit, "source": entry.source}


def _words(module: eqx.Module) -> str:
    """A regulariser as `Name(field=value)`."""
    if isinstance(module, SumOf):
        return " + ".join(_words(t) for t in module.terms)
    fields = ", ".join(f"{k}={float(v):g}" for k, v in vars(module).items())
    return f"{type(module).__name__}({fields})"


def _version() -> str:
    try:
        return version("esmpy-jax")
    except PackageNotFoundError:
        return "unknown"
