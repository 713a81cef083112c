"""Which phase of a start is which of those that something is known of."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import as_floats
from .._seldom import seldom_run
from ..objective import AbstractConstraint
from ..objective._constraints import brightness_of_each
from ..solve import AbstractStart, GivenStart
from ..solve._initialise import mean_weights

_STEPS = 100  # of the fit of a spectrum


def matched(
    start: AbstractStart, fixed_weights: Any, constraint: AbstractConstraint
) -> AbstractStart:
    """The start, as a `MatchedStart` where something is known of single phases."""
    known = fixed_weights is not None or brightness_of_each(constraint) is not None
    return MatchedStart(start) if known else start


class MatchedStart(AbstractStart):
    """A start whose phases take the places where what is known suits them best.

    `start` knows nothing of the fixed entries. Each of its spectra is fitted (Poisson) by the
    columns that each place allows, and the assignment with the least sum of deviances is taken,
    with those fits as W. So are its counts by the brightness of each place, where that is known.
    """

    start: AbstractStart

    def __call__(self, problem, n_phases, key):
        from scipy.optimize import linear_sum_assignment

        fixed, bright = problem.fixed_weights, brightness_of_each(problem.constraint)
        if fixed is None and bright is None:
            return self.start(problem, n_phases, key)
        free = eqx.tree_at(lambda p: p.fixed_weights, problem, None, is_leaf=lambda x: x is None)
        weights, maps = self.start(free, n_phases, key)
        allowed = np.ones(weights.shape, bool)
        if fixed is not None:
            allowed = ~(np.asarray(fixed.mask) & (np.asarray(fixed.values) == 0))
        spectra = problem.basis.endmembers(weights)
        fits, costs = _fits(problem.basis, spectra, as_floats(allowed))
        costs = np.asarray(costs, np.float64)
        if bright is not None:
            ratio = np.asarray(bright)[:, None] / np.maximum(np.asarray(spectra.sum(0)), 1e-12)
            costs = costs + ratio - 1 - np.log(ratio)  # deviance per count
        place, phase = linear_sum_assignment(costs)
        own = np.asarray(fits)[place, phase].T  # (column, place)
        return GivenStart(own, np.asarray(maps)[phase])(problem, n_phases, key)


@seldom_run
def _fits(basis, spectra, allowed):
    """W of each spectrum in each place (place, phase, column), and the deviance in nats."""

    def one(matrix, columns, spectrum):
        total = spectrum.sum()  # nothing at all for a phase that starts empty
        counts = jnp.where(total > 0, spectrum / jnp.where(total > 0, total, 1.0), 0.0)
        own = matrix * columns[None, :]
        weights = mean_weights(own, counts, _STEPS) * columns
        model = jnp.maximum(jnp.matmul(own, weights, precision="highest"), 1e-12)
        logs = jnp.where(counts > 0, counts * jnp.log(jnp.maximum(counts, 1e-30) / model), 0.0)
        return weights * total, (logs - counts + model).sum()

    of_phases = jax.vmap(one, in_axes=(None, None, 1))
    axes = (0 if basis.depends_on_phase else None, 1, None)
    return jax.vmap(of_phases, in_axes=axes)(basis.matrix, allowed, spectra)
