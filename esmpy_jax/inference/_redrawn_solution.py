"""Counts drawn from the mean of a solution, and W and H fitted again to each."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from .._arrays import as_floats, on_device
from .._basis import Basis
from .._checks import check
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    sample_counts,
)
from ..objective._alike import Alike
from ..objective._build import Storage
from ..solve import AbstractSolver, Fixed, GivenStart, Problem, solve_batch
from ..solve._batch import fit_bytes
from ._absent import errors_by, is_absent, pool_penalty
from ._known import KnownPhases
from ._pools import as_bright, number_of_pools, pooled_by_shares
from ._solution import Solution

#: Least share of a phase in a pixel with which a fit begins.
_FLOOR = 1e-3

#: Least entry of W with which a fit begins, in its standard errors.
_OFF_ZERO = 0.1

#: Constraints as the settings of a solution call them, and what is asked of a draw.
_CONSTRAINTS = {
    "Unconstrained": Unconstrained,
    "SumToOneWeights": SumToOneWeights,
    "SumToOneAbundances": SumToOneAbundances,
    "SumToOneShares": SumToOneAbundances,  # with the counts of each draw as exposure
}


class Redrawn(NamedTuple):
    """W of each draw in the canonical gauge, and whether its fit converged."""

    weights: Float[np.ndarray, "draw column phase"]
    converged: Bool[np.ndarray, " draw"]


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """A solution in the gauge of its constraint: what is drawn from, and what is fitted.

    - `weights`, `mean`: W and H of what is drawn from. `start`, `abundances`: where a fit begins.
    - `exposure`: of each pixel or pool; `by_counts`: whether it follows the counts of a draw.
    - `pooled`: whether pixels are pools.
    """

    basis: Basis
    constraint: AbstractConstraint
    regulariser: AbstractRegulariser
    weights: Float[np.ndarray, "column phase"]
    start: Float[np.ndarray, "column phase"]
    abundances: Float[np.ndarray, "phase pixel"]
    mean: Float[np.ndarray, "phase pixel"]
    exposure: Float[np.ndarray, " pixel"]
    by_counts: bool
    fixed_weights: Float[np.ndarray, "column phase"]
    fixed_abundances: Float[np.ndarray, "phase pixel"]
    scan_shape: tuple[int, ...]
    pooled: bool


def redraw_solution(
    solution: Solution,
    keys: Key[Array, " draw"],
    *,
    solver: AbstractSolver,
    regulariser: AbstractRegulariser | None,
    max_steps: int,
    tol: float,
    memory_gb: float,
    batch_size: int | None,
) -> Redrawn:
    """W of each draw; some draws at a time, as many as `memory_gb` takes."""
    data = solution.dataset
    settings = json.loads(data.attrs["settings"])
    fitted, plain = _extended(_fitted(solution, settings, regulariser), settings, solution)
    draw = _Drawing(fitted)
    first = _problem(fitted, draw(keys[:1])[0])
    n_phases = fitted.weights.shape[1]
    start = as_floats(fitted.start), as_floats(fitted.abundances)
    one = fit_bytes(first, n_phases) + sum(x.nbytes for x in jax.tree.leaves(first.counts))
    n_groups = -(-len(keys) // max(int(memory_gb * 2**30 // one), 1))
    size = -(-len(keys) // n_groups)  # of all groups, so that they share a program
    if batch_size is None and jax.default_backend() == "cpu":
        batch_size = 1
    found, converged = [], []
    for g in range(n_groups):
        places = np.minimum(np.arange(g * size, (g + 1) * size), len(keys) - 1)
        problems = [dataclasses.replace(first, counts=counts) for counts in draw(keys[places])]
        fits = solve_batch(
            problems,
            solver,
            *(jnp.broadcast_to(x, (size, *x.shape)) for x in start),
            max_steps=max_steps,
            tol=tol,
            batch_size=batch_size,
            memory_gb=memory_gb,
            resume=True,
        )
        found += [np.asarray(plain(fit.weights), np.float64) for fit in fits]
        converged += [fit.converged for fit in fits]
    n = len(keys)
    return Redrawn(_canonical(np.stack(found[:n]), solution), np.array(converged[:n]))


def _fitted(
    solution: Solution, settings: dict[str, Any], regulariser: AbstractRegulariser | None
) -> _Fitted:
    """The solution in the gauge of its constraint, of pixels or of pools."""
    data, name = solution.dataset, settings["constraint"]
    check(
        name in _CONSTRAINTS,
        f"The solution was fitted with the constraint {name}, which cannot be drawn from; fit with "
        f"one of {', '.join(_CONSTRAINTS)}.",
    )
    pooled = settings["solver"].startswith("CoarseToFine")
    scan = data["H"].shape[1:]
    weights = data["W"].values.astype(np.float64)
    maps = data["H"].values.reshape(len(data["phase"]), -1).astype(np.float64)
    dose = data["exposure"].values.ravel().astype(np.float64)
    summed = bool(data.attrs["sum_to_one"])
    plane = data["H_plane"].values
    if summed:
        weights, maps = weights / plane[None, :], maps * plane[:, None]
        total = maps.sum(0)
        maps = np.where(total > 0, maps / np.where(total > 0, total, 1.0), 1 / len(maps))
        dose = dose * total
    variance = np.diag(data["W_covariance"].values).reshape(weights.shape)
    fixed_weights = np.where(variance == 0, weights, np.nan)
    # nothing leads away from a zero that is exact
    least = _OFF_ZERO * np.sqrt(np.nan_to_num(np.maximum(variance, 0.0)))
    least = least / plane[None, :] if summed else least
    given = data["H_free"].values.reshape(maps.shape) == -1
    constraint = _CONSTRAINTS[name]()
    if settings.get("brightness"):
        constraint = SumToOneAbundances(as_floats(settings["brightness"]))
    common = _Fitted(
        solution.basis,
        constraint,
        NoRegulariser() if regulariser is None else regulariser,
        weights,
        np.maximum(weights, least),
        maps,
        maps,
        dose,
        name == "SumToOneShares",
        fixed_weights,
        np.where(given, maps, np.nan),
        scan,
        pooled,
    )
    if pooled:
        check(
            regulariser is None,
            "The solution has its W from pooled pixels, whose penalty it knows; leave regulariser "
            "out.",
        )
        return _in_pools(common, settings, np.asarray(data["pixel_counts"].values).ravel(), summed)
    known = settings["regulariser"]
    check(
        regulariser is not None or known.startswith("NoRegulariser"),
        f"The solution was fitted with {known}, of which it keeps the name alone; give the same "
        "object as regulariser.",
    )
    floor = np.where(given, maps, np.maximum(maps, _FLOOR * maps.sum(0)))
    return dataclasses.replace(common, abundances=floor / floor.sum(0) if summed else floor)


def _in_pools(
    fitted: _Fitted, settings: dict[str, Any], totals: np.ndarray, summed: bool
) -> _Fitted:
    """Pixels that hold the same added up, as `CoarseToFine` does for the last fit of W."""
    whole = as_counts(totals.astype(np.int64)[:, None], storage="dense", exposure=fitted.exposure)
    pools, shares = pooled_by_shares(whole, fitted.abundances, number_of_pools(whole.total))
    shares = np.asarray(shares, np.float64)
    assert pools.exposure is not None
    dose = np.asarray(pools.exposure, np.float64)
    spectra = np.asarray(fitted.basis.endmembers(as_floats(fitted.weights)), np.float64)
    if not summed:
        amounts = as_bright(pools, spectra, shares)
        return dataclasses.replace(
            fitted,
            abundances=np.maximum(amounts, _FLOOR * amounts.sum(0)),
            mean=amounts,
            exposure=dose,
            fixed_abundances=np.full(shares.shape, np.nan),
            scan_shape=pools.scan_shape,
        )
    choices = settings["choices"]
    level = 0.0 if choices is None else choices["absent_below"]
    expected = spectra @ np.maximum(shares, 1e-4)
    known = np.einsum(
        "ca,cb,cp->abp", spectra, spectra, dose / np.maximum(expected, 1e-300), optimize=True
    )
    absent = is_absent(shares, errors_by(known, shares), level)
    present = np.where(absent, 0.0, shares)
    start = np.where(absent, 0.0, np.maximum(shares, _FLOOR))
    return dataclasses.replace(
        fitted,
        regulariser=pool_penalty(pools, shares, tuple(settings["purities"])),
        abundances=start / start.sum(0),
        mean=present / present.sum(0),
        exposure=dose,
        fixed_abundances=np.where(absent, 0.0, np.nan),
        scan_shape=pools.scan_shape,
    )


def _extended(
    fitted: _Fitted, settings: dict[str, Any], solution: Solution
) -> tuple[_Fitted, Callable[[Any], Any]]:
    """With a column for each phase of known composition, and the way back to the plain W."""
    record = settings["compositions"]
    if not record or isinstance(fitted.constraint, SumToOneWeights):
        return fitted, lambda weights: weights
    symbols = [str(name) for name in solution.dataset["element"].values]
    known = KnownPhases(
        np.array([int(p) for p in record]),
        tuple(record),
        np.array([[own.get(s, 0.0) for s in symbols] for own in record.values()]).T,
        np.flatnonzero(fitted.basis.composition_rows),
        fitted.basis.n_columns,
    )
    basis = known.extended(fitted.basis)
    assert isinstance(basis, Basis)

    def longer_weights(weights):
        start = known.started(GivenStart(weights, fitted.abundances))
        return np.asarray(start.weights, np.float64)

    longer = dataclasses.replace(
        fitted,
        basis=basis,
        weights=longer_weights(fitted.weights),
        start=longer_weights(fitted.start),
        fixed_weights=known.fixed(fitted.fixed_weights),
    )
    return longer, lambda weights: known.plain(weights)


class _Drawing:
    """Counts of draws from their keys, in shapes that all of them share."""

    def __init__(self, fitted: _Fitted):
        self._fitted = fitted
        self._spectra = np.asarray(fitted.basis.endmembers(as_floats(fitted.weights)), np.float64)
        self._amounts = fitted.mean * fitted.exposure[None, :]
        self._expected = self._spectra.sum(0) @ self._amounts
        self._alike = Alike(spare=math.inf)
        self._storage: Storage = "dense" if fitted.pooled else "auto"

    def __call__(self, keys: Key[Array, " draw"]) -> list[AbstractCounts]:
        drawn = [self._alike(self._one(key)) for key in keys]
        # what comes late may have needed more room
        return [self._with_exposure(self._alike(counts)) for counts in drawn]

    def _one(self, key: Key[Array, ""]) -> AbstractCounts:
        scan = self._fitted.scan_shape
        counts = sample_counts(
            self._spectra, self._amounts, key=key, scan_shape=scan, storage=self._storage
        )
        self._storage = "sparse" if counts.is_sparse else "dense"
        return counts

    def _with_exposure(self, counts: AbstractCounts) -> AbstractCounts:
        exposure = self._fitted.exposure
        if self._fitted.by_counts:
            totals = np.asarray(counts.pixel_totals(), np.float64)
            exposure = exposure * totals / np.where(self._expected > 0, self._expected, 1.0)
        return eqx.tree_at(
            lambda c: c.exposure, counts, as_floats(exposure), is_leaf=lambda x: x is None
        )


def _problem(fitted: _Fitted, counts: AbstractCounts) -> Problem:
    """What is fitted to each draw."""
    return Problem(
        counts,
        fitted.basis,
        fitted.constraint,
        fitted.regulariser,
        _fixed(fitted.fixed_weights),
        _fixed(fitted.fixed_abundances),
    )


def _fixed(values: np.ndarray) -> Fixed | None:
    mask = ~np.isnan(values)
    return Fixed(on_device(mask), as_floats(np.where(mask, values, 0.0))) if mask.any() else None


def _canonical(
    weights: Float[np.ndarray, "draw column phase"], solution: Solution
) -> Float[np.ndarray, "draw column phase"]:
    """Composition rows that sum to one; spectra that do in a phase without atoms."""
    data = solution.dataset
    rows = solution.basis.composition_rows
    atoms = data["composition"].values.sum(0) > 0
    per_unit = np.asarray(solution.basis.column_sums, np.float64)
    total = np.where(atoms, weights[:, rows].sum(1), (per_unit * weights).sum(1))
    return weights / np.where(total > 0, total, 1.0)[:, None, :]
