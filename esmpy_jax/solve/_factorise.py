"""`factorise`: counts and a basis in, W and H out."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._arrays import as_floats, on_device
from .._basis import Basis
from .._checks import check
from .._seldom import seldom_run
from .._types import Weights
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneShares,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    exposure_or_one,
    relative_to_counts,
)
from ._binned import BinnedStart
from ._initialise import AbstractStart, spectrum_basis_weights
from ._solver import RESULTS, AbstractSolver, Factorisation, Problem, check_limits, solve
from ._updates import Fixed, equally_bright
from ._variable_projection import VariableProjectionNewton


def factorise(
    counts: Any,
    basis: Basis | Any,
    n_phases: int,
    *,
    solver: AbstractSolver = VariableProjectionNewton(),
    start: AbstractStart = BinnedStart(),
    constraint: AbstractConstraint = Unconstrained(),
    regulariser: AbstractRegulariser = NoRegulariser(),
    fixed_weights: Any = None,
    fixed_abundances: Any = None,
    key: PRNGKeyArray | None = None,
    max_steps: int = 2000,
    tol: float = 0.1,
    max_seconds: float | None = None,
    basis_rounds: int = 10,
    progress: Callable[[int, int, float], None] | None = None,
    resume: bool = False,
    throw: bool = False,
) -> Factorisation:
    """Find W, H >= 0 with counts ~ Poisson(G W H) by maximum (penalised) likelihood.

    - `counts`: anything `as_counts` takes; (y, x, channel) or (pixel, channel).
    - `basis`: G as a `Basis` or an array (channel, column), or a function `weights -> Basis` for
        a G that follows W (self-absorption). It is called with `None` first, then with W at most
        `basis_rounds` times, between which the steps are divided, until the fit has converged
        with a G of which no column moves any more by over 1e-4 of its sum.
    - `fixed_weights`, `fixed_abundances`: arrays of the shape of W and H with NaN where free, or
        `Fixed`.
    - `key`: for random starts; `jax.random.key(0)` by default.
    - `max_steps`, `tol`, `max_seconds`: see `solve`; steps and time of all rounds together.
    - `resume`: the start comes from a fit of nearly the same problem and needs no warm-up.
    - `throw`: raise `RuntimeError` with the `RESULTS` sentence unless the fit converged.

    Raises `InputError` for counts, phases, constraints or fixed entries that cannot be used.
    """
    counts = as_counts(counts)
    check_limits(n_phases, max_steps, tol, max_seconds)
    _check_made(solver, AbstractSolver, "solver", "VariableProjectionNewton()")
    _check_made(start, AbstractStart, "start", "BinnedStart()")
    key = jr.key(0) if key is None else key
    _check_made(key, jax.Array, "key", "jax.random.key(0)")
    check(basis_rounds >= 1, f"basis_rounds is {basis_rounds}; give at least 1.")
    follow = None
    if callable(basis) and not isinstance(basis, Basis):
        follow = basis
        basis = _first_basis(follow, counts, n_phases)
    elif not isinstance(basis, Basis):
        basis = Basis.from_matrix(basis)
    check_phases(counts, basis, n_phases, constraint)
    check_counts(counts)
    known = as_fixed(fixed_weights, (basis.n_columns, n_phases), "fixed_weights")
    _check_brightness(constraint, solver, basis, known)
    if isinstance(constraint, SumToOneShares):
        counts, constraint = relative_to_counts(counts), SumToOneAbundances()
        constraint = as_bright_as(counts) if solver.keeps_brightness else constraint
    problem = Problem(
        counts,
        basis,
        constraint,
        regulariser,
        known,
        as_fixed(fixed_abundances, (n_phases, counts.n_pixels), "fixed_abundances"),
    )
    check_fixed(problem)
    if not solver.holds_weights:
        check_scale(problem)
    weights, abundances = start(problem, n_phases, key)
    if follow is not None:
        problem = _with_basis(problem, follow(weights))
    weights = _equally_bright(problem, weights)
    rounds = 1 if follow is None else basis_rounds
    fits = []
    for left in range(rounds, 0, -1):
        fit = solve(
            problem,
            solver,
            weights,
            abundances,
            max_steps=-(-(max_steps - sum(f.steps for f in fits)) // left),
            tol=tol,
            max_seconds=None if max_seconds is None else max_seconds - sum(f.seconds for f in fits),
            progress=progress,
            resume=resume or len(fits) > 0,
        )
        fits.append(fit)
        result = fit.result
        weights, abundances = fit.weights, fit.abundances
        if follow is None or result in (RESULTS.nonfinite, RESULTS.max_seconds_reached):
            break
        moved = _with_basis(problem, follow(weights))
        weights = _equally_bright(moved, weights)
        if _change(problem.basis, moved.basis) > 1e-4:
            result = RESULTS.basis_moving
            problem = moved
        elif fit.converged:
            break
    out = _joined(fits, result)
    if throw and not out.converged:
        raise RuntimeError(RESULTS[out.result])
    return out


def _check_made(value, kind, name, example):
    check(isinstance(value, kind), f"The {name} is {value!r}, which is none; give {example}.")


def as_fixed(values: Any, shape: tuple[int, int], name: str) -> Fixed | None:
    """`Fixed` from an array with NaN where free; `None` where nothing is fixed.

    A `Fixed` stays what it is, even where its mask is empty: one compiled program then serves both.
    """
    if values is None:
        return None
    if isinstance(values, Fixed):
        check(
            values.mask.shape == shape,
            f"{name} has shape {values.mask.shape}; it must be {shape}.",
        )
        return values
    array = np.asarray(values, float)
    check(
        array.shape == shape,
        f"{name} has shape {array.shape}; it must be {shape}, with NaN where free.",
    )
    mask = ~np.isnan(array)
    known = array[mask]
    check(
        bool(np.isfinite(known).all() and (known >= 0).all()),
        f"{name} holds a negative or infinite value; give values >= 0 and NaN where free.",
    )
    if not mask.any():
        return None
    return Fixed(on_device(mask), as_floats(np.where(mask, array, 0.0)))


def _first_basis(follow, counts, n_phases):
    """The basis at the composition of the summed spectrum, found by three fixed-point rounds."""
    n_columns = None
    weights: Weights | None = None
    for _ in range(3):
        basis = follow(weights)
        _check_channels(counts, basis)
        n_columns = basis.n_columns
        one = spectrum_basis_weights(basis, counts.sum_spectrum())
        weights = jnp.broadcast_to(one, (n_columns, n_phases))
    return follow(weights)


def _with_basis(problem, basis):
    return Problem(
        problem.counts,
        basis,
        problem.constraint,
        problem.regulariser,
        problem.fixed_weights,
        problem.fixed_abundances,
    )


def as_bright_as(counts: AbstractCounts) -> SumToOneAbundances:
    """Phases that make the mean count of pixels whose exposure is relative to their counts."""
    return SumToOneAbundances(_mean_count(counts))


@eqx.filter_jit
def _mean_count(counts):
    exposure = exposure_or_one(counts).sum()
    return counts.pixel_totals().sum() / jnp.maximum(exposure, jnp.finfo(exposure.dtype).tiny)


@seldom_run
def _equally_bright(problem, weights):
    return equally_bright(problem.basis, weights, problem.constraint, problem.fixed_weights)


def _change(old, new):
    """The largest change of a column of G, as a share of the column's sum."""
    sums = jnp.maximum(old.matrix.sum(-2), jnp.finfo(old.matrix.dtype).tiny)
    return float((jnp.abs(new.matrix - old.matrix).sum(-2) / sums).max())


def _joined(fits, result):
    last = fits[-1]
    offsets = np.cumsum([0] + [f.steps for f in fits[:-1]])
    return Factorisation(
        last.weights,
        last.abundances,
        last.problem,
        result,
        np.concatenate([f.nll_steps + o for f, o in zip(fits, offsets, strict=True)]),
        np.concatenate([f.nll_trace for f in fits]),
        int(sum(f.steps for f in fits)),
        sum(f.seconds for f in fits),
        last.remaining,
        last.penalty,
    )


def _check_channels(counts, basis):
    check(
        basis.n_channels == counts.n_channels,
        f"G has {basis.n_channels} channels but the counts have {counts.n_channels}; "
        "build G for the energy axis of the image.",
    )


def check_phases(
    counts: AbstractCounts, basis: Basis, n_phases: int, constraint: AbstractConstraint
) -> None:
    """Raise `InputError` where counts, G, phases and constraint do not go together."""
    _check_channels(counts, basis)
    most = min(basis.n_columns, counts.n_pixels)
    limit = "columns of G" if most == basis.n_columns else "pixels or bins"
    check(
        n_phases <= most,
        f"{n_phases} phases are more than the data can carry: no more than its {most} {limit} can "
        "be told apart; ask for fewer.",
    )
    check(
        not basis.depends_on_phase or basis.matrix.shape[0] == n_phases,
        f"G is given for {basis.matrix.shape[0]} phases but {n_phases} are asked for.",
    )
    bright = constraint.brightness if isinstance(constraint, SumToOneAbundances) else None
    check(
        bright is None or bright.shape in ((), (n_phases,)),
        f"The brightness of SumToOneAbundances has shape {None if bright is None else bright.shape}"
        f"; give one number for all phases or {n_phases}, one for each.",
    )
    check(
        not isinstance(constraint, SumToOneWeights) or bool(basis.composition_rows.any()),
        "SumToOneWeights needs at least one column of G in the composition.",
    )


def _check_brightness(constraint, solver, basis, fixed):
    bright = constraint.brightness if isinstance(constraint, SumToOneAbundances) else None
    if bright is None:
        return
    known = np.asarray(bright)
    check(
        bool((np.isfinite(known) & (known > 0)).all()),
        f"The brightness of SumToOneAbundances is {known.tolist()}; give positive counts.",
    )
    check(
        solver.keeps_brightness or solver.holds_weights,
        f"{type(solver).__name__} cannot keep the brightness of SumToOneAbundances; use "
        "VariableProjectionNewton() or MultiplicativeUpdate().",
    )
    if fixed is None or solver.holds_weights:
        return
    held = (np.asarray(basis.column_sums) * np.where(fixed.mask, fixed.values, 0.0)).sum(0)
    check(
        bool((held <= known * (1 + 1e-6)).all()),
        f"The fixed entries of W alone make {held.max():.6g} counts, more than the brightness of "
        "their phase; lower them, or give its composition (compositions), which leaves the amount "
        "free.",
    )


def check_counts(counts: AbstractCounts) -> None:
    """Raise `InputError` where nothing was counted."""
    check(
        bool((np.asarray(counts.pixel_totals()) > 0).any()),
        "The image holds no counts at all; check the file, the region and the energy range.",
    )


def check_scale(problem: Problem) -> None:
    """Raise `InputError` for a regulariser that means nothing, as H can shrink and W grow."""
    if isinstance(problem.regulariser, NoRegulariser):
        return
    known = problem.fixed_weights
    pinned = known is not None and bool((known.mask & (known.values > 0)).any(0).all())
    check(
        pinned or not isinstance(problem.constraint, Unconstrained),
        "A regulariser on H without a constraint only shrinks H while W grows; add "
        "SumToOneAbundances() or SumToOneWeights(), or fix an entry of W in every phase.",
    )


def check_fixed(problem: Problem) -> None:
    """Raise `InputError` for known entries that contradict the constraint."""
    for fixed, active, rows, name in (
        (
            problem.fixed_weights,
            isinstance(problem.constraint, SumToOneWeights),
            problem.basis.composition_rows,
            "fixed_weights",
        ),
        (
            problem.fixed_abundances,
            isinstance(problem.constraint, SumToOneAbundances),
            None,
            "fixed_abundances",
        ),
    ):
        if fixed is None or not active:
            continue
        mask, values = np.asarray(fixed.mask), np.asarray(fixed.values, float)
        if rows is not None:
            mask, values = mask[rows], values[rows]
        sums, full = values.sum(0), mask.all(0)
        check(
            bool((sums <= 1 + 1e-6).all()),
            f"{name} contradicts the sum-to-one constraint: column {int(np.argmax(sums))} adds up "
            f"to {sums.max():.6g}, more than 1.",
        )
        bad = full & (np.abs(sums - 1) > 1e-6)
        check(
            not bad.any(),
            f"{name} contradicts the sum-to-one constraint: every entry of column "
            f"{int(np.argmax(bad))} is fixed and they do not add up to 1.",
        )
