"""`fit`: an image and a model in, a `Solution` out."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import check
from ..model import EDSModel
from ..objective import (
    AbstractConstraint,
    AbstractRegulariser,
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
from ..solve._solver import check_limits
from ._coarse import CoarseToFine
from ._fisher import free_abundances, information, weights_covariance
from ._identifiability import Ambiguity, ambiguities
from ._image import Provenance, SpectrumImage
from ._phase_number import count_phases
from ._quantify import phase_composition
from ._solution import SCHEMA, Parts, Solution, column_record
from ._warnings import (
    ending,
    in_words,
    of_ambiguity,
    of_convergence,
    of_inputs,
    of_misfit,
    of_phases,
    of_starts,
)

#: Share of a phase's counts in lines of the sample's elements, at and below which it has no atoms.
BARREN = 1e-6


def fit(
    image: SpectrumImage,
    model: EDSModel,
    n_phases: int | str,
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
    pixel as bright as its own counts (`SumToOneShares`) and are smooth with sharp borders
    (`TotalVariation`), all as strongly as counts that were held out ask for. With another solver
    W and H are fitted together from `start` (`BinnedStart()` by default), without constraint and
    regulariser unless given.

    A model with self-absorption gives each phase its own G, which follows that phase's W.

    - `n_phases`: or "auto", which finds it with held-out counts: see `count_phases`.
    - `fixed_weights`, `fixed_abundances`: (column, phase) and (phase, pixel) with NaN where free,
        in the gauge of the constraint.
    - `phase_names`: one for each phase. Phases come in the order of their counts, most first,
        unless names, fixed entries or a `GivenStart` say which is which.
    - `key`: for random starts; `jax.random.key(0)` by default. `max_steps` (at full resolution;
        see `CoarseToFine` for the binned image), `tol` (nats), `max_seconds` (of everything),
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
    key = jr.key(0) if key is None else key
    began = time.perf_counter()
    basis = model.basis if model.depends_on_phase else model.basis()
    number = None
    if isinstance(n_phases, str):
        check(
            n_phases == "auto",
            f"The number of phases is '{n_phases}'; give a whole number or 'auto'.",
        )
        check(
            fixed_weights is None and fixed_abundances is None and phase_names is None,
            "The number of phases cannot be found where entries or names of phases are given; "
            "give it.",
        )
        number = count_phases(
            image.counts,
            basis,
            solver=solver if isinstance(solver, CoarseToFine) else CoarseToFine(),
            key=jr.fold_in(key, 1),
            tol=tol,
            max_seconds=max_seconds,
            progress=progress,
        )
        n_phases = number.n_phases
    check_limits(n_phases, max_steps, tol, max_seconds)
    seconds = max_seconds
    if number is not None and max_seconds is not None:
        seconds = max(max_seconds - (time.perf_counter() - began), 0.0)
    names = None if phase_names is None else tuple(str(name) for name in phase_names)
    check(
        names is None or len(set(names)) == len(names) == n_phases,
        f"The phase names are {names} for {n_phases} phases; give one distinct name each.",
    )
    if isinstance(solver, CoarseToFine):
        check(
            fixed_abundances is None and start is None,
            "CoarseToFine chooses its own start and cannot hold abundances fixed; give "
            "solver=VariableProjectionNewton() with a start or fixed_abundances.",
        )
        constraint = SumToOneShares() if constraint is None else constraint
        judged, fine, choices = solver(
            image.counts,
            basis,
            n_phases,
            constraint=constraint,
            regulariser=regulariser,
            fixed_weights=fixed_weights,
            key=key,
            max_steps=max_steps,
            tol=tol,
            max_seconds=seconds,
            progress=progress,
        )
    else:
        choices = None
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
            max_seconds=seconds,
            progress=progress,
        )
        judged = fine
    if throw and RESULTS.nonfinite in (fine.result, judged.result):
        raise RuntimeError(RESULTS[RESULTS.nonfinite])
    settings = {
        "seconds": time.perf_counter() - began,
        "seed": np.asarray(jr.key_data(key)).ravel().tolist(),
        "solver": _solvers(solver),
        "start": repr(start),
        "constraint": type(constraint).__name__,
        "regulariser": _words(fine.problem.regulariser),
        "phase_number": None if number is None else dataclasses.asdict(number),
        "choices": None if choices is None else dataclasses.asdict(choices),
        "max_steps": max_steps,
        "tol": tol,
        "max_seconds": max_seconds,
    }
    anchored = isinstance(start, GivenStart) or not (
        names is None and fixed_weights is None and fixed_abundances is None
    )
    coarse = isinstance(solver, CoarseToFine) and solver.coarse_steps is not None
    ended = ending(fine, judged, "coarse_steps of CoarseToFine" if coarse else "max_steps")
    unclear = ()
    if choices is not None:
        unclear = ambiguities(fine, _percent(np.flatnonzero(fine.basis.composition_rows)))
    more = of_starts(choices.agreeing_starts, len(choices.starts)) if choices else []
    return _solution(image, model, fine, judged, ended, names, anchored, settings, unclear, more)


def _solution(
    image: SpectrumImage,
    model: EDSModel,
    fine: Factorisation,
    judged: Factorisation,
    ended: str,
    names: Sequence[str] | None,
    anchored: bool,
    settings: dict[str, Any],
    unclear: Sequence[Ambiguity],
    more: Sequence[str],
) -> Solution:
    """The labelled result; `judged` is the fit that W, and so its errors, come from."""
    basis, counts = fine.basis, image.counts
    rows = np.flatnonzero(basis.composition_rows)
    n_columns, n_phases = fine.weights.shape
    scale, barren = _gauge(fine, rows)
    weights = np.asarray(fine.weights, float) / scale[None, :]
    per_dose = np.asarray(fine.abundances, float) * scale[:, None]
    # H is per unit of the exposure that the image knows of, whatever the constraint made of it.
    known = np.asarray(exposure_or_one(counts), float)
    dose = np.asarray(exposure_or_one(fine.problem.counts), float)
    maps = per_dose * np.divide(dose, known, out=np.ones_like(known), where=known > 0)
    matrix = np.asarray(basis.matrix)
    spectra = (
        np.einsum("pcj,jp->cp", matrix, weights) if basis.depends_on_phase else matrix @ weights
    )
    # Atoms compare phases that have some. Without counts, and so without dose, the prior has still
    # a say in the shares.
    amount = per_dose * spectra.sum(0)[:, None] if barren.any() else per_dose
    total = amount.sum(0)
    share = np.where(total > 0, amount / np.where(total > 0, total, 1.0), 1.0 / n_phases)
    fit_sum = spectra * (maps * known).sum(1)[None, :]
    order = np.arange(n_phases) if anchored else np.argsort(-fit_sum.sum(0), kind="stable")
    names = [f"phase {a + 1}" for a in range(n_phases)] if names is None else names

    info = information(judged.problem, judged.weights, judged.abundances, _gauge(judged, rows)[0])
    covariance = weights_covariance(weights, info)
    entries = (np.arange(n_columns)[:, None] * n_phases + order[None, :]).ravel()
    covariance = covariance[np.ix_(entries, entries)]
    free = np.asarray(free_abundances(fine.problem, fine.weights, fine.abundances), np.int8)
    if fine.problem.fixed_abundances is not None:
        free = np.where(np.asarray(fine.problem.fixed_abundances.mask), -1, free)
    on_plane = isinstance(fine.problem.constraint, SumToOneAbundances)
    weights, maps, share, free = weights[:, order], maps[order], share[order], free[order]
    spectra, fit_sum, barren = spectra[:, order], fit_sum[:, order], barren[order]
    plane = 1 / scale[order] if on_plane else np.zeros(n_phases)
    matrix = matrix[order] if basis.depends_on_phase else matrix

    atomic_weights = np.array([e.atomic_weight for e in model.elements])
    held = np.where(barren[None, :], 0.0, weights)
    atomic, atomic_error = phase_composition(held, covariance, rows, np.ones(len(rows)))
    weight, weight_error = phase_composition(held, covariance, rows, atomic_weights)
    low, high = (100 * atomic + sign * 196 * atomic_error for sign in (-1, 1))
    if unclear:
        unclear = [unclear[int(a)].ordered(order) for a in order]
        low, high = (
            np.stack([getattr(u, end) for u in unclear], 1) + sign * 196 * atomic_error
            for end, sign in (("low", -1), ("high", 1))
        )
    ny, nx, _ = image.shape
    grid = ("phase", "y", "x")
    table = ("element", "phase")
    percent, weight_unit = {"units": "at%"}, {"units": "wt%"}
    counts_sum = np.asarray(image.sum_spectrum(), float)
    warnings = [
        *image.notes,
        *of_convergence(fine, judged, ended),
        *of_inputs(image, model),
        *of_misfit(model, counts_sum, fit_sum.sum(1)),
        *of_phases(names, [e.symbol for e in model.elements], atomic_error, barren),
        *of_ambiguity(names, [e.symbol for e in model.elements], unclear),
        *more,
    ]
    parameters = _parameters(image, model)
    coarse_trace = {
        "coarse_objective": ("coarse_check", judged.nll_trace),
        "coarse_steps": ("coarse_check", judged.nll_steps),
    }
    number = settings["phase_number"]
    of_number = {}
    if number is not None:
        of_number = {
            "held_out_loss": ("number", np.asarray(number["losses"])),
            "held_out_error": ("number", np.asarray(number["errors"])),
        }
    parts = Parts(
        {
            "pixel_counts": (("y", "x"), np.asarray(counts.pixel_totals()).reshape(ny, nx)),
            "counts_sum": ("energy", counts_sum),
            "G": (("phase",) * basis.depends_on_phase + ("energy", "column"), matrix),
            "W": (("column", "phase"), weights),
            "W_covariance": (("entry", "entry_"), covariance),
            "H": (grid, maps.reshape(n_phases, ny, nx)),
            "H_free": (grid, free.reshape(n_phases, ny, nx)),
            "H_plane": ("phase", plane),
            "exposure": (("y", "x"), np.broadcast_to(known, (1, ny * nx)).reshape(ny, nx).copy()),
            "spectra": (("energy", "phase"), spectra),
            "fit_sum": (("energy", "phase"), fit_sum),
            "abundance": (
                grid,
                share.reshape(n_phases, ny, nx),
                {"share_of": "counts" if barren.any() else "atoms"},
            ),
            "composition": (table, 100 * atomic, percent),
            "composition_stderr": (table, 100 * atomic_error, percent),
            "composition_low": (table, np.clip(low, 0, 100), percent),
            "composition_high": (table, np.clip(high, 0, 100), percent),
            "weight_percent": (table, 100 * weight, weight_unit),
            "weight_percent_stderr": (table, 100 * weight_error, weight_unit),
            "objective": ("check", fine.nll_trace),
            "steps": ("check", fine.nll_steps),
        }
        | ({} if fine is judged else coarse_trace)
        | of_number,
        {
            "energy": ("energy", np.asarray(model.energy_axis.centres, float), {"units": "keV"}),
            "column": list(basis.labels),
            "phase": list(names),
            "element": [e.symbol for e in model.elements],
            "atomic_number": ("element", [e.atomic_number for e in model.elements]),
            "y": ("y", _positions(image, 0), {"units": image.pixel_unit}),
            "x": ("x", _positions(image, 1), {"units": image.pixel_unit}),
        }
        | ({} if number is None else {"number": list(number["tried"])}),
        {
            "esmpy_jax_schema": SCHEMA,
            "program_version": _version(),
            "title": image.title,
            "result": ended,
            "converged": int(fine.converged and judged.converged),
            "objective": fine.nll,
            "nll": fine.nll - fine.penalty,
            "n_steps": fine.steps,
            "remaining_nats": fine.remaining,
            "seconds": settings.pop("seconds"),
            "sum_to_one": int(on_plane),
            "seed": json.dumps(settings.pop("seed")),
            "columns": json.dumps([column_record(c) for c in basis.columns]),
            "parameters": json.dumps({k: _plain(v) for k, v in parameters.items()}),
            "settings": json.dumps(settings),
            "ambiguities": json.dumps([u.record() for u in unclear]),
            "warnings": json.dumps(list(dict.fromkeys(warnings))),
        }
        | ({} if fine is judged else {"coarse_remaining_nats": judged.remaining}),
    )
    return Solution(parts)


def _percent(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """At% of each phase from W, zero for a phase without atoms."""

    def composition(weights):
        total = weights[rows].sum(0)
        return 100 * weights[rows] / np.where(total > 0, total, 1.0)

    return composition


def _gauge(fit: Factorisation, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each phase's W is divided by, and which phases have practically no atoms.

    It is the sum of the composition rows, so that these become atomic fractions; for a phase
    without atoms the counts of its spectrum, so that its H is in counts.
    """
    weights = np.asarray(fit.weights, np.float64)
    counts = np.asarray(fit.basis.column_sums, np.float64) * weights
    barren = counts[rows].sum(0) <= BARREN * counts.sum(0)
    scale = np.where(barren, counts.sum(0), weights[rows].sum(0))
    return np.where(scale == 0, 1.0, scale), barren


def _positions(image: SpectrumImage, axis: int) -> np.ndarray:
    """Where the centres of the pixels are along y (0) or x (1), in the scan's unit."""
    return image.origin[axis] + np.arange(image.shape[axis]) * image.pixel_size[axis]


def _parameters(image, model) -> dict[str, Provenance]:
    found = dict(image.provenance)
    for name, entry in model.parameters().items():
        found[in_words(name)] = Provenance(entry.value, entry.unit, entry.source)
    return found


def _plain(entry: Provenance) -> dict[str, Any]:
    value = entry.value
    if isinstance(value, np.generic):
        value = value.item()
    return {"value": value, "unit": entry.unit, "source": entry.source}


def _solvers(solver: AbstractSolver | CoarseToFine) -> str:
    """What was used, by name."""
    if not isinstance(solver, CoarseToFine):
        return repr(solver)
    binned, maps = type(solver.solver).__name__, type(solver.fine_solver).__name__
    return f"{solver!r}: {binned} on the binned image, {maps} on the maps"


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
