"""Factorisation of an image that comes in batches of pixels, one in memory at a time."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._arrays import as_floats
from .._basis import Basis
from .._checks import InputError, check
from .._types import Abundances, Weights
from ..objective import (
    AbstractConstraint,
    AbstractCounts,
    AbstractRegulariser,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneShares,
    Unconstrained,
    as_counts,
    exposure_or_one,
)
from ..objective._alike import Alike
from ._abundance_newton import AbundanceNewton
from ._batched_passes import Passes
from ._batched_start import one_image
from ._binned import BinnedStart
from ._factorise import as_fixed, check_counts, check_fixed, check_phases, check_scale
from ._initialise import AbstractStart, GivenStart
from ._solver import RESULTS, AbstractSolver, Problem, check_limits


class BatchFactorisation(eqx.Module):
    """What `factorise_batches` returns.

    - `weights`: W in the gauge of the solver. `abundances`: H on the host, the pixels of all
        batches one after another.
    - `basis`: the G that they belong to.
    - `result`: a `RESULTS`; `RESULTS[result]` is the sentence.
    - `nll_steps`, `nll_trace`: after so many updates of W, at the end of each pass, the objective
        in nats (NLL and penalties), or during the warm-up a bound on it.
    - `steps`, `epochs`: updates of W, and complete passes over the batches.
    - `seconds`: wall time, with reading and compilation.
    - `remaining`: nats that the fit believes to be above the optimum.
    """

    weights: Weights
    abundances: Float[np.ndarray, "phase pixel"]
    basis: Basis
    result: RESULTS
    nll_steps: np.ndarray
    nll_trace: np.ndarray
    steps: int
    epochs: int
    seconds: float
    remaining: float

    @property
    def converged(self) -> bool:
        """Whether the result is `RESULTS.successful`."""
        return bool(self.result == RESULTS.successful)

    @property
    def nll(self) -> float:
        """The last value of the trace, in nats."""
        return float(self.nll_trace[-1])


def factorise_batches(
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    basis: Basis | Any,
    n_phases: int,
    *,
    solver: AbstractSolver = AbundanceNewton(),
    inner: int = 3,
    warm_up: int | None = 10,
    start: AbstractStart = BinnedStart(),
    constraint: AbstractConstraint = Unconstrained(),
    regulariser: AbstractRegulariser = NoRegulariser(),
    fixed_weights: Any = None,
    key: PRNGKeyArray | None = None,
    max_epochs: int = 200,
    tol: float = 0.1,
    max_seconds: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    throw: bool = False,
) -> BatchFactorisation:
    """`factorise` for an image that exceeds memory: batches of pixels, visited in turn.

    The first `warm_up` passes are incremental multiplicative updates. In a visit `inner` steps of
    `solver` move the abundances of the batch with W held, then W takes the closed-form minimum of
    a bound F on the objective, in which the other batches enter with what was last seen of them
    (in the first pass W waits for the last batch). The passes that follow hold W, sum up gradient
    and Hessian of the objective in W with H eliminated, and end in a step of Newton's method; a
    step that has not lowered the objective is taken back a pass later. F never rises but by
    rounding. With one
    batch, `inner=1`, `warm_up=None` and `solver=AbundanceUpdate()` this is `MultiplicativeUpdate`
    step by step. Equations and sources: docs/theory/solvers.md.

    Kept on the host are H, one number for each pixel, and a few of the size of W for each batch.
    Batches with the same number of pixels share compiled code: sparse counts are brought to common
    shapes where that costs at most 30 % more storage.

    - `batches`: what can be gone through again and again, in the same order: a list, a sequence
        that reads from a file (`load_batches`), or a function that returns a new iterator. Each
        holds some pixels as anything that `as_counts` takes.
    - `basis`: G as a `Basis` or an array (channel, column).
    - `solver`, `inner`: `AbundanceNewton()` or `AbundanceUpdate()`, and its steps in a visit. The
        passes of Newton's method use the former always.
    - `warm_up`: passes before those of Newton's method; `None`: all. All are in any case where sums
        over W meet fixed weights or a penalty.
    - `start`: where W starts. The pixels of each batch are first summed in bins of about 2000
        counts, which takes one more pass, and the start sees all bins as one image. `GivenStart`
        needs no such pass; its abundances, if any, run over the pixels of all batches. Otherwise
        every phase starts with the same share of each pixel.
    - `constraint`: with `SumToOneShares` the exposures are relative to the mean count of the first
        batch.
    - `regulariser`: one that does not tie pixels together.
    - `fixed_weights`: array of the shape of W with NaN where free.
    - `max_epochs`, `tol`, `max_seconds`: passes, nats, and seconds after which it ends, the last
        not before the first pass is done. What is left is told as in `solve`: by Newton's model,
        and during the warm-up by what the second half of all passes so far has won.
    - `progress(epoch, max_epochs, F)`: called on the host after each pass.
    - `throw`: raise `RuntimeError` with the `RESULTS` sentence unless the fit converged.

    Raises `InputError` for batches, phases, constraints or fixed entries that cannot be used.
    """
    began = time.perf_counter()
    check_limits(n_phases, max_epochs, tol, max_seconds)
    _check_options(batches, basis, solver, inner, warm_up, max_epochs, regulariser)
    basis = basis if isinstance(basis, Basis) else Basis.from_matrix(basis)
    fixed = as_fixed(fixed_weights, (basis.n_columns, n_phases), "fixed_weights")
    check(
        not isinstance(constraint, SumToOneAbundances) or constraint.brightness is None,
        "factorise_batches cannot keep the brightness of SumToOneAbundances; leave it out.",
    )
    source = _Source(batches, isinstance(constraint, SumToOneShares))
    if isinstance(constraint, SumToOneShares):
        constraint = SumToOneAbundances()

    def problem(counts: AbstractCounts) -> Problem:
        return Problem(counts, basis, constraint, regulariser, fixed)

    weights = _first_weights(source, problem, start, n_phases, jr.key(0) if key is None else key)
    first_maps = _FirstMaps(start, weights)
    passes = Passes(problem, solver, inner, warm_up, weights, first_maps)
    late = False
    for _ in range(max_epochs):
        passes.begin()
        for i, counts in enumerate(source.counts()):
            passes.visit(i, counts)
            del counts
            late = max_seconds is not None and time.perf_counter() - began > max_seconds
            if late and passes.epochs > 0:
                break
        else:
            if passes.epochs == 0:
                first_maps.check_all_used()
                check(
                    any((seen.numerator > 0).any() for seen in passes.seen),
                    "The batches hold no counts at all; check the file, the region and the energy "
                    "range.",
                )
            passes.end()
            if progress is not None:
                progress(passes.epochs, max_epochs, passes.trace[-1])
        if late or not passes.finite or passes.stuck or passes.remaining <= tol:
            break
    passes.note()
    out = BatchFactorisation(
        passes.weights,
        np.concatenate([seen.maps for seen in passes.seen], axis=1),
        basis,
        _result(passes, tol, late),
        np.array(passes.at),
        np.array(passes.trace),
        passes.steps,
        passes.epochs,
        time.perf_counter() - began,
        float(passes.remaining),
    )
    if throw and not out.converged:
        raise RuntimeError(RESULTS[out.result])
    return out


def _result(passes: Passes, tol: float, late: bool) -> RESULTS:
    if not passes.finite:
        return RESULTS.nonfinite
    if passes.remaining <= tol:
        return RESULTS.successful
    if passes.stuck:
        return RESULTS.rounding
    return RESULTS.max_seconds_reached if late else RESULTS.max_epochs_reached


def _first_weights(source, problem, start, n_phases, key) -> Weights:
    """W of the start, which sees the first batch if it is given and else all bins."""
    given = isinstance(start, GivenStart)
    counts = next(source.counts(), None) if given else one_image(source.counts())
    if counts is None:
        raise InputError("There are no batches; give at least one.")
    alone = problem(counts)
    check_phases(counts, alone.basis, n_phases, alone.constraint)
    if not given:
        check_counts(counts)
    check_fixed(alone)
    check_scale(alone)
    if given:
        start = _part(start, 0, counts.n_pixels)
    alone = eqx.tree_at(lambda p: p.regulariser, alone, NoRegulariser())
    return start(alone, n_phases, key)[0]


def _part(start: GivenStart, first: int, n_pixels: int) -> GivenStart:
    """The start of some pixels of all."""
    if start.abundances is None:
        return start
    held = start.abundances.shape[-1]
    check(
        first + n_pixels <= held,
        f"The start's H has {held} pixels, but the batches hold more.",
    )
    return GivenStart(start.weights, np.asarray(start.abundances)[:, first : first + n_pixels])


def _check_options(batches, basis, solver, inner, warm_up, max_epochs, regulariser) -> None:
    check(
        callable(batches) or (isinstance(batches, Iterable) and not isinstance(batches, Iterator)),
        "The batches are an iterator, which can be used only once, or cannot be gone through at "
        "all; give a list, or a function that returns a new iterator for every pass.",
    )
    check(
        isinstance(basis, Basis) or not callable(basis),
        "A G that follows W cannot be used with batches; give it as a Basis or an array.",
    )
    check(
        solver.holds_weights,
        f"{type(solver).__name__} moves W, which batches update by themselves; give "
        "AbundanceNewton() or AbundanceUpdate().",
    )
    check(inner >= 1, f"inner is {inner}; give at least 1.")
    check(
        warm_up is None or warm_up >= 0,
        f"warm_up is {warm_up}; give a number of passes, or None for no Newton steps.",
    )
    check(max_epochs >= 1, f"max_epochs is {max_epochs}; give at least 1.")
    check(
        not regulariser.couples_pixels,
        f"{type(regulariser).__name__} ties neighbouring pixels together, which batches cannot "
        "see; give a regulariser of single pixels such as LogSparsity, or none.",
    )


class _Source:
    """The batches as counts in common shapes, again and again."""

    def __init__(self, batches, relative: bool):
        self._batches, self._relative = batches, relative
        self._alike, self._mean, self._channels = Alike(), 0.0, 0
        self._sizes: list[int] | None = None

    def counts(self) -> Iterator[AbstractCounts]:
        sizes = []
        batches = self._batches() if callable(self._batches) else self._batches
        for i, item in enumerate(cast(Iterable, batches)):
            counts = as_counts(item)
            del item
            sizes.append(counts.n_pixels)
            self._channels = self._channels or counts.n_channels
            check(
                counts.n_channels == self._channels,
                f"Batch {i} has {counts.n_channels} channels but the first has {self._channels}; "
                "give all of them the same energy axis.",
            )
            known = self._sizes
            check(
                known is None or (i < len(known) and known[i] == sizes[i]),
                f"Batch {i} holds {sizes[i]} pixels, unlike in the first pass; give the same "
                "batches in the same order in every pass.",
            )
            yield self._alike(self._exposed(counts) if self._relative else counts)
            del counts
        check(
            self._sizes is None or len(sizes) == len(self._sizes),
            f"A pass brought {len(sizes)} batches, unlike the first; give the same batches in "
            "every pass.",
        )
        self._sizes = sizes

    def _exposed(self, counts: AbstractCounts) -> AbstractCounts:
        """The pixels' own counts as exposure, over the mean of the first batch that has any."""
        totals = np.asarray(counts.pixel_totals(), float)
        if self._mean == 0:
            self._mean = totals.mean()
        exposure = as_floats(totals / self._mean if self._mean > 0 else totals)
        return eqx.tree_at(lambda c: c.exposure, counts, exposure, is_leaf=lambda x: x is None)


class _FirstMaps:
    """H of one batch after the other in the first pass."""

    def __init__(self, start: AbstractStart, weights: Weights):
        self._start, self._weights, self._offset = start, weights, 0

    def __call__(self, problem: Problem) -> Abundances:
        n = problem.counts.n_pixels
        first, self._offset = self._offset, self._offset + n
        if not isinstance(self._start, GivenStart) or self._start.abundances is None:
            return _even(problem, self._weights)
        start = _part(self._start, first, n)
        return start(problem, self._weights.shape[1], jr.key(0))[1]

    def check_all_used(self) -> None:
        """Raise `InputError` unless the given H has run out."""
        given = self._start.abundances if isinstance(self._start, GivenStart) else None
        held = self._offset if given is None else given.shape[-1]
        check(
            held == self._offset,
            f"The start's H has {held} pixels, but the batches hold {self._offset}.",
        )


@eqx.filter_jit
def _even(problem, weights):
    """Abundances with which every phase has the same share of each pixel's counts."""
    sums = (problem.basis.column_sums * weights).sum(0)
    totals = problem.counts.pixel_totals()
    exposure = exposure_or_one(problem.counts)[0]
    per_exposure = totals / jnp.where(exposure > 0, exposure, 1.0)
    per_exposure = jnp.maximum(per_exposure, 1e-3 * per_exposure.mean())  # empty pixels
    if isinstance(problem.constraint, SumToOneAbundances):
        return jnp.full((len(sums), len(totals)), 1.0 / len(sums))
    return per_exposure[None, :] / (len(sums) * jnp.where(sums > 0, sums, 1.0)[:, None])
