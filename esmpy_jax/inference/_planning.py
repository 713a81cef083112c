"""What a measurement can tell before it is made: errors of at% against dose."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._basis import ColumnKind
from .._checks import check
from ..model import AnyModel, EDSModel, switched_on
from ..physics import Number
from ._known import KnownComposition, atomic_fractions
from ._tangents import parametrised, tangents

if TYPE_CHECKING:
    import xarray as xr
else:
    from .._xarray import xr

#: Standard errors at which an element that is absent would be seen: 5 % of false alarms, and as
#: many misses at twice that (L. A. Currie, Anal. Chem. 40 (1968) 586).
DETECTION = 3.29

#: at%, at which errors end: nothing is known.
_UNKNOWN = 100.0

_ABSORBING = "mass_thickness"

#: Part of the continuum in the first of Lifshin's two shapes.
_FLAT = 0.1


def expected_errors(
    model: AnyModel,
    composition: KnownComposition,
    counts: Number | Sequence[Number] | Float[np.ndarray, " dose"],
    *,
    continuum: Number = 0.3,
    stray: Number = 0.05,
    parameters: Sequence[str] = (),
) -> "xr.Dataset":
    """The smallest standard errors of at% that so many counts of one phase allow (Cramér-Rao).

    For Poisson counts with mean `D = G W` the information is `I = Jᵀ diag(1 / D) J`, J being the
    derivatives of D by W and by the parameters; the priors of the parameters are added. Errors of
    at% follow by propagation. No estimator without bias does better, and a maximum-likelihood fit
    comes as close as the counts are many.

    - `composition`: of the phase: "MgSiO3", atoms of each element, or a `Composition`. Elements of
        the model that it lacks are in the fit all the same, and get a limit of detection.
    - `counts`: of the whole spectrum: of a pixel, or of all pixels of a phase together.
    - `continuum`: counts of bremsstrahlung over those of the lines. `stray`: counts of each stray
        column over those of the sample's lines.
    - `parameters`: physical parameters that are not known but for their priors; parts that the
        model has not are switched on, as in `refine`.

    Returns a dataset over `counts` with `composition_stderr(counts, element)` and
    `detection_limit(counts, element)`, both in at%: 3.29 standard errors at none of the element
    (the limit of detection of Currie). Errors are at most 100, which stands for "not known". Raises
    `InputError` for elements or parameters that the model has not, and for counts or a continuum
    that are not positive.
    """
    doses = np.atleast_1d(np.asarray(counts, np.float64))
    check(
        bool(np.isfinite(doses).all() and (doses > 0).all()),
        "The numbers of counts hold something that is not a positive number; give counts of a "
        "spectrum such as 1000.",
    )
    check(
        bool(continuum > 0 and stray >= 0),
        f"The continuum is {continuum:g} and a stray column {stray:g} of the lines' counts; give a "
        "positive ratio for the continuum, without which nothing is hard to see.",
    )
    atoms = atomic_fractions(model, composition)
    weights = _weights(model, atoms, continuum, stray)
    spectrum = model.endmembers(jnp.asarray(weights, float))[:, 0]
    model = switched_on(model, list(parameters), np.asarray(spectrum))
    every, start = parametrised(model)
    for name in parameters:
        check(
            name in every.names,
            f"The model has no parameter '{name}'; it has {', '.join(every.names)}"
            + ("; self-absorption needs thickness and density." if name == _ABSORBING else "."),
        )
    moved = [every.names.index(name) for name in parameters]
    rows = np.flatnonzero([c.in_composition for c in model.columns])
    weights = _weights(model, atoms, continuum, stray)
    own = _errors(every, start, moved, weights, rows, doses)
    limits = np.empty_like(own)
    for e in range(len(rows)):
        absent = atoms.copy()
        absent[e] = 0.0
        if absent.sum() == 0:  # an element alone cannot be absent
            limits[:, e] = np.nan
            continue
        without = _weights(model, absent / absent.sum(), continuum, stray)
        limits[:, e] = DETECTION * _errors(every, start, moved, without, rows, doses)[:, e]
    table, percent = ("counts", "element"), {"units": "at%"}
    return xr.Dataset(
        {
            "composition": ("element", 100 * atoms, percent),
            "composition_stderr": (table, own, percent),
            "detection_limit": (table, limits, percent),
        },
        {"counts": doses, "element": [e.symbol for e in model.elements]},
    )


def needed_counts(errors: "xr.DataArray", wanted: Number) -> "xr.DataArray":
    """The counts N at which errors, or limits of detection, come down to a wanted value.

    Errors σ(N) are taken along straight lines of log σ over log N, and beyond the ends of the table
    as N^(-1/2) if its two outermost numbers of counts fall like that, to a percent. So all do while
    no parameter is in doubt, and the answer is exact.

    - `errors`: at%, over `counts` and whatever else: a variable of `expected_errors`.
    - `wanted`: at%.

    Returns counts over the other dimensions, NaN where the table does not tell. Raises `InputError`
    for fewer than two numbers of counts and for a wanted value that is not positive.
    """
    doses = np.asarray(errors["counts"].values, np.float64)
    check(
        len(doses) >= 2 and bool((np.diff(doses) > 0).all()),
        "The counts that are needed follow from errors at two or more increasing numbers of "
        "counts; compute them for more.",
    )
    check(
        bool(np.isfinite(wanted) and wanted > 0),
        f"The wanted error is {wanted:g} at%; give a positive number such as 1.",
    )
    table = np.asarray(errors.transpose("counts", ...).values, np.float64)
    found = np.apply_along_axis(_dose_of, 0, table, np.log(doses), np.log(wanted))
    return errors.isel(counts=0, drop=True).copy(data=np.exp(found)).assign_attrs(units="counts")


def _dose_of(sigma: np.ndarray, log_doses: np.ndarray, log_wanted: float) -> float:
    """log N at which one element's errors reach a wanted one; NaN if that is not known."""
    known = (sigma > 0) & (sigma < _UNKNOWN)
    if known.sum() < 2:
        return np.nan
    x, y = log_doses[known], np.log(sigma[known])
    if y[-1] <= log_wanted <= y[0]:
        return float(np.interp(-log_wanted, -y, x))
    end, inner = (0, 1) if log_wanted > y[0] else (-1, -2)
    slope = (y[end] - y[inner]) / (x[end] - x[inner])
    return float(x[end] + 2 * (y[end] - log_wanted)) if abs(slope + 0.5) < 0.005 else np.nan


def _weights(
    model: AnyModel, atoms: np.ndarray, continuum: float, stray: float
) -> Float[np.ndarray, "column one"]:
    """W of one phase that makes one count, in all detectors together."""
    weights = np.zeros((len(model.columns), 1))
    for part, own in zip(model.parts, model.part_columns, strict=True):
        weights[own] = _part_weights(part, atoms, continuum, stray)
    return weights / float(_sums(model, weights) @ weights[:, 0])


def _sums(model: AnyModel, weights: np.ndarray) -> Float[np.ndarray, " column"]:
    """Counts of each column of G by these weights."""
    matrix = np.asarray(model.basis(jnp.asarray(weights, float)).matrix, np.float64)
    return matrix.reshape(-1, len(weights))[-model.energy_axis.size :].sum(0)


def _part_weights(
    model: EDSModel, atoms: np.ndarray, continuum: float, stray: float
) -> Float[np.ndarray, "column one"]:
    """W of one detector's columns, elements as atomic fractions."""
    weights = np.zeros((len(model.columns), 1))
    share = dict(zip((e.atomic_number for e in model.elements), atoms, strict=True))
    for j, column in enumerate(model.columns):
        if column.kind is ColumnKind.ELEMENT:  # lines split off, too
            weights[j, 0] = share[column.atomic_number or 0]
    sums = _sums(model, weights)
    lines = float(sums @ weights[:, 0])
    kinds = [column.kind.value for column in model.columns]
    smooth = [j for j, kind in enumerate(kinds) if kind == "bremsstrahlung"]
    parts = (_FLAT, 1 - _FLAT) if len(smooth) == 2 else [1 / max(len(smooth), 1)] * len(smooth)
    shares = dict(zip(smooth, (continuum * part for part in parts), strict=True))
    shares |= {j: stray for j, kind in enumerate(kinds) if kind == "stray"}
    for j, share in shares.items():
        weights[j] += share * lines / sums[j] if sums[j] > 0 else 0.0
    return weights


def _errors(every, start, moved, weights, rows, doses) -> Float[np.ndarray, "dose element"]:
    """Standard errors of at% at each number of counts."""
    u, w = (jnp.asarray(x, float) for x in (start, weights))
    found = tangents(every, u, w, moved)
    mean = np.asarray(found.endmembers, np.float64)[:, 0]
    jacobian = np.concatenate(
        [np.asarray(x, np.float64)[0] for x in (found.weights, found.parameters)], axis=1
    )
    some = mean > 0
    per_count = (jacobian[some] / mean[some, None]).T @ jacobian[some]
    content = weights[rows, 0]
    slope = np.zeros((len(rows), jacobian.shape[1]))
    slope[:, rows] = (np.eye(len(rows)) - content[:, None] / content.sum()) / content.sum()
    prior = np.diag(np.concatenate([np.zeros(len(weights)), np.ones(len(moved))]))
    out = []
    for dose in doses:
        # W is per count: its errors fall with the dose, those of the parameters' prior do not
        covariance = widest(dose * per_count + prior)
        variance = np.einsum("ek,kl,el->e", slope, covariance, slope)
        out.append(np.minimum(100 * np.sqrt(np.maximum(variance, 0.0)), _UNKNOWN))
    return np.array(out)


def widest(information: np.ndarray) -> np.ndarray:
    """Inverse; directions without information get a variance beyond anything."""
    diagonal = np.diag(information)
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1e-12))
    values, vectors = np.linalg.eigh(information / size[:, None] / size[None, :])
    return (vectors / np.maximum(values, 1e-9)) @ vectors.T / size[:, None] / size[None, :]
