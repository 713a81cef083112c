"""The binned warm start: fit the image binned in space, carry W over, upsample H."""

import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._arrays import on_device
from .._checks import InputError, check
from .._seldom import seldom_run
from ..objective import AbstractCounts, AbstractRegulariser, NoRegulariser, bin_counts
from ._batch import solve_batch
from ._initialise import AbstractStart, RandomStart, in_gauge
from ._solver import AbstractSolver, Problem
from ._variable_projection import VariableProjectionNewton


class BinnedStart(AbstractStart):
    """Fits the image binned `factor` × `factor`, from several starts, and keeps the best.

    At few counts per pixel the likelihood has many local optima; the binned one has far fewer and
    is cheap. H is repeated over each bin with at least `floor` of a pixel for every phase, so that
    no phase is excluded from a pixel before its own counts are looked at.

    - `factor`: pixels per bin along each axis; `None` takes the smallest power of two that puts
        `counts_per_bin` in a bin while leaving at least 8 bins along each axis.
    - `inner`, `restarts`: start of the binned fit, and how many keys to try.
    - `solver`, `regulariser`, `max_steps`, `tol`: of the binned fit.
    - `batch_size`: how many restarts go side by side; see `solve_batch`. On a CPU the few Newton
        steps that each needs are made sooner one fit after another.
    """

    factor: int | None = None
    counts_per_bin: float = 2000.0
    inner: AbstractStart = RandomStart()
    restarts: int = 3
    solver: AbstractSolver = VariableProjectionNewton()
    regulariser: AbstractRegulariser = NoRegulariser()
    max_steps: int = 2000
    tol: float = 0.1
    floor: float = 0.02
    batch_size: int | None = 1

    def __check_init__(self):
        if self.restarts < 1:
            raise ValueError("BinnedStart.restarts must be at least 1.")

    def bin_factor(self, counts: AbstractCounts) -> int:
        """The factor used for an image."""
        return choose_factor(counts, self.factor, self.counts_per_bin)

    def __call__(self, problem, n_phases, key):
        factor = self.bin_factor(problem.counts)
        check(
            problem.fixed_abundances is None or factor == 1,
            "Fixed abundances cannot be binned; use another start with them.",
        )
        binned = Problem(
            bin_counts(problem.counts, factor),
            problem.basis,
            problem.constraint,
            self.regulariser,
            problem.fixed_weights,
            problem.fixed_abundances,
        )
        starts = [self.inner(binned, n_phases, sub) for sub in jr.split(key, self.restarts)]
        fits = solve_batch(
            binned,
            self.solver,
            *(jnp.stack(factors) for factors in zip(*starts, strict=True)),
            max_steps=self.max_steps,
            tol=self.tol,
            batch_size=self.batch_size,
        )
        best = min(fits, key=lambda fit: fit.nll if np.isfinite(fit.nll) else np.inf)
        if not np.isfinite(best.nll):
            raise InputError(
                "The binned start met values that are not finite; check G for zeros and NaN."
            )
        maps = upsample(
            best.abundances, binned.counts.scan_shape, problem.counts.scan_shape, factor
        )
        shares = maps * (problem.basis.column_sums * best.weights).sum(0)[:, None]
        shares = jnp.maximum(shares, self.floor * shares.sum(0, keepdims=True))
        return in_gauge(problem, best.weights, shares)


def upsample(abundances, small_shape, shape, factor, floor=0.0):
    """Repeat each bin's abundances over its pixels, none below a share `floor` of their sum."""
    index = np.ravel_multi_index(tuple(i // factor for i in np.indices(shape)), small_shape)
    return _repeated(abundances, on_device(index.ravel().astype(np.int32)), floor)


@seldom_run
def _repeated(abundances, index, floor):
    maps = jnp.take(abundances, index, axis=1)
    return jnp.maximum(maps, floor * maps.sum(0, keepdims=True))


def choose_factor(
    counts: AbstractCounts,
    factor: int | None,
    counts_per_bin: float,
    max_bins: int | None = None,
    scan_shape: tuple[int, ...] | None = None,
) -> int:
    """`factor` if given, else the smallest power of two that fills the bins but not too many.

    At least 8 bins are left along each axis longer than one pixel. `scan_shape` is given where the
    scan lies in a larger grid.
    """
    if factor is not None:
        check(factor >= 1, f"The binning factor of the start is {factor}; give at least 1.")
        return factor
    shape = counts.scan_shape if scan_shape is None else scan_shape
    total = float(np.asarray(counts.pixel_totals(), float).sum())
    per_pixel = max(total / math.prod(shape), 1e-9)
    axes = [s for s in shape if s > 1] or [1]
    factor = 1
    while min(axes) // (2 * factor) >= 8:
        bins = np.prod([-(-s // factor) for s in axes])
        filled = per_pixel * factor ** len(axes) >= counts_per_bin
        if filled and (max_bins is None or bins <= max_bins):
            break
        factor *= 2
    return factor
