"""Which phase of a start is which of those that something is known of."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import as_floats
from ..solve import AbstractStart, GivenStart
from ..solve._initialise import mean_weights

_STEPS = 100  # of the fit of a spectrum


class MatchedStart(AbstractStart):
    """A start whose phases take the places where entries of W at zero suit them best.

    `start` knows nothing of the fixed entries. Each of its spectra is fitted (Poisson) by the
    columns that each place allows, and the assignment with the least sum of deviances is taken,
    with those fits as W.
    """

    start: AbstractStart

    def __call__(self, problem, n_phases, key):
        from scipy.optimize import linear_sum_assignment

        fixed = problem.fixed_weights
        if fixed is None:
            return self.start(problem, n_phases, key)
        free = eqx.tree_at(lambda p: p.fixed_weights, problem, None, is_leaf=lambda x: x is None)
        weights, maps = self.start(free, n_phases, key)
        allowed = as_floats(~(np.asarray(fixed.mask) & (np.asarray(fixed.values) == 0)))
        fits, costs = _fits(problem.basis, problem.basis.endmembers(weights), allowed)
        place, phase = linear_sum_assignment(np.asarray(costs, np.float64))
        own = np.asarray(fits)[place, phase].T  # (column, place)
        return GivenStart(own, np.asarray(maps)[phase])(problem, n_phases, key)


@eqx.filter_jit
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
