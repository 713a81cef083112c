"""The factors of a fit as a labelled result, in atoms where phases have some."""

import json
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..model import AnyModel
from ..objective import SumToOneAbundances, exposure_or_one
from ..physics._stacked_axis import of_detector
from ..solve import Factorisation
from . import _areal
from ._detection import detection_limits
from ._fisher import free_abundances, information, weights_covariance
from ._frame import cropped
from ._identifiability import Ambiguity, hidden_shares, verdicts
from ._image import Provenance, SpectrumImage
from ._quantify import phase_composition
from ._solution import SCHEMA, Parts, Solution, column_record, energy_coordinates
from ._warnings import (
    in_words,
    of_ambiguity,
    of_convergence,
    of_dose,
    of_inputs,
    of_misfit,
    of_phases,
    of_ranges,
)

#: Share of a phase's counts in lines of the sample's elements, at and below which it has no atoms.
BARREN = 1e-6


def labelled(
    image: SpectrumImage,
    model: AnyModel,
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
    of_image = partial(cropped, grid=fine.problem.counts.scan_shape, shape=counts.scan_shape)
    per_dose = of_image(np.asarray(fine.abundances, float)) * scale[:, None]
    # H is per unit of the exposure that the image knows of, whatever the constraint made of it.
    known = np.asarray(exposure_or_one(counts), float)
    dose = of_image(np.asarray(exposure_or_one(fine.problem.counts), float))
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
    free = free_abundances(fine.problem, fine.weights, fine.abundances)
    free = of_image(np.asarray(free, np.int8))
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
    low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
    converged = fine.converged and judged.converged
    told = verdicts(unclear, high - low, barren, converged)
    hidden = hidden_shares(atomic, atomic_error)
    limits = detection_limits(matrix, held, fit_sum.sum(0), rows, atomic_error)
    symbols = [e.symbol for e in model.elements]
    ny, nx, _ = image.shape
    grid = ("phase", "y", "x")
    table = ("element", "phase")
    percent, weight_unit = {"units": "at%"}, {"units": "wt%"}
    counts_sum = np.asarray(image.sum_spectrum(), float)
    parameters = _parameters(image, model)
    pixel_counts = np.asarray(counts.pixel_totals()).reshape(ny, nx)
    areal = _areal.variables(parameters, maps, atomic, model.mass_per_atom, (ny, nx))
    warnings = [
        *image.notes,
        *of_convergence(fine, judged, ended),
        *of_inputs(image, model),
        *of_dose(model, parameters, areal["mass_thickness"][1] if areal else None, pixel_counts),
        *of_misfit(model, counts_sum, fit_sum.sum(1)),
        *of_phases(names, symbols, atomic_error, barren, settings["compositions"]),
        *of_ambiguity(names, symbols, unclear, barren),
        *of_ranges(names, symbols, unclear, low, high, told),
        *more,
    ]
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
            "pixel_counts": (("y", "x"), pixel_counts),
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
            "composition_low": (table, low, percent),
            "composition_high": (table, high, percent),
            "detection_limit": (table, 100 * limits, percent),
            "weight_percent": (table, 100 * weight, weight_unit),
            "weight_percent_stderr": (table, 100 * weight_error, weight_unit),
            "objective": ("check", fine.nll_trace),
            "steps": ("check", fine.nll_steps),
        }
        | ({} if fine is judged else coarse_trace)
        | ({"determined": ("phase", told)} if unclear else {})
        | of_number
        | areal,
        {
            **energy_coordinates(model.energy_axis),
            "column": list(basis.labels),
            "phase": list(names),
            "element": [e.symbol for e in model.elements],
            "atomic_number": ("element", [e.atomic_number for e in model.elements]),
            "mass_per_atom": ("element", model.mass_per_atom, {"units": "g/mol"}),
            "y": ("y", _positions(image, 0), {"units": image.pixel_unit}),
            "x": ("x", _positions(image, 1), {"units": image.pixel_unit}),
        }
        | ({} if number is None else {"number": list(number["tried"])}),
        {
            "esmpy_jax_schema": SCHEMA,
            "program_version": _version(),
            "title": image.title,
            "result": ended,
            "converged": int(converged),
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
            "ambiguities": json.dumps(
                [u.record() | {"hidden": h.tolist()} for u, h in zip(unclear, hidden, strict=False)]
            ),
            "warnings": json.dumps(list(dict.fromkeys(warnings))),
        }
        | ({} if fine is judged else {"coarse_remaining_nats": judged.remaining}),
    )
    return Solution(parts)


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
    for (field, name), unit in zip(_areal.FACTORS.items(), ("nA", "s", "sr"), strict=True):
        value = getattr(image.acquisition, field)
        named = name in found or of_detector(name, 1) in found
        if value is not None and not named:  # of an image that was not read from a file
            found[name] = Provenance(value, unit)
    for name, entry in model.parameters().items():
        found[in_words(name)] = Provenance(entry.value, entry.unit, entry.source)
    return found


def _plain(entry: Provenance) -> dict[str, Any]:
    value = entry.value
    if isinstance(value, np.generic):
        value = value.item()
    return {"value": value, "unit": entry.unit, "source": entry.source}


def _version() -> str:
    try:
        return version("esmpy-jax")
    except PackageNotFoundError:
        return "unknown"
