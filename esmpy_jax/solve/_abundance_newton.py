"""Newton's method for the abundances, pixel by pixel, with W held."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import Abundances, Endmembers, Scalar
from ..objective import SumToOneAbundances, exposure_or_one
from ._pixel_quadratics import bounded_minimum, product, symmetric
from ._solver import AbstractSolver, Problem


class LocalModel(eqx.Module):
    """The objective around the abundances of each pixel, as `g'd + d'A d / 2`."""

    gradient: Float[Array, "phase pixel"]
    matrix: Float[Array, "phase phase pixel"]
    free: Bool[Array, "phase pixel"]
    summed: bool = eqx.field(static=True)

    def minimum(self, abundances: Abundances) -> Abundances:
        """The abundances that minimise the model with all bounds and sums kept."""
        return bounded_minimum(self.matrix, self.gradient, abundances, self.free, self.summed)

    def decrease(self, change: Float[Array, "phase pixel"]) -> Float[Array, " pixel"]:
        """By how much a change lowers the model, in nats."""
        return -(change * (self.gradient + 0.5 * product(self.matrix, change))).sum(0)


def local_model(problem: Problem, endmembers: Endmembers, abundances: Abundances) -> LocalModel:
    """Exact gradient and curvature of the likelihood; the regulariser by its surrogate."""
    counts = problem.counts
    first, second = counts.pixel_moments(endmembers, abundances)
    maps = abundances.reshape(-1, *counts.scan_shape)
    curvature, linear = (x.reshape(abundances.shape) for x in problem.regulariser.surrogate(maps))
    gradient = endmembers.sum(0)[:, None] * exposure_or_one(counts) - first
    fixed = problem.fixed_abundances
    return LocalModel(
        gradient + linear + curvature * abundances,
        symmetric(second, curvature),
        jnp.ones(abundances.shape, bool) if fixed is None else ~fixed.mask,
        isinstance(problem.constraint, SumToOneAbundances),
    )


def newton_abundances(
    problem: Problem, endmembers: Endmembers, abundances: Abundances
) -> tuple[Abundances, Scalar]:
    """One step that lowers the objective in every pixel, and the decrease that it predicted.

    The step d minimises the local model. With tau the largest share by which it lowers the model
    of any count, the likelihood along d is bounded by its self-concordance: the whole step is safe
    where tau <= 1/2 and `1 / (1 + tau)` of it elsewhere, so that no line search is needed.
    (-log(1 + u) + u <= 0.78 u² for u >= -1/2, and d'A d <= -g'd at the minimum of the model.)
    """
    model = local_model(problem, endmembers, abundances)
    best = model.minimum(abundances)
    change = best - abundances
    tau = problem.counts.steepest_drop(endmembers, abundances, change)
    share = jnp.where(tau <= 0.5, 1.0, 1.0 / (1.0 + tau))[None, :]
    new = jnp.where(share == 1, best, abundances + share * change)
    return new, model.decrease(change).sum()


class _State(eqx.Module):
    predicted: Scalar  # nats, of the last step


class AbundanceNewton(AbstractSolver[_State]):
    """Newton steps on H with W held: a handful where the multiplicative update needs hundreds.

    Every pixel has its own small quadratic problem with bounds and sum. A regulariser enters by
    its separable surrogate, which keeps the steps monotone.
    """

    holds_weights = True
    check_every = 1

    def init(self, problem, weights, abundances):
        return _State(jnp.full((), jnp.inf, abundances.dtype))

    def step(self, problem, weights, abundances, state):
        endmembers = problem.basis.endmembers(weights)
        abundances, predicted = newton_abundances(problem, endmembers, abundances)
        return weights, abundances, _State(predicted)

    def predicted_decrease(self, state):
        return state.predicted


def newton_steps(
    problem: Problem, endmembers: Endmembers, abundances: Abundances, steps: int
) -> Abundances:
    """Several steps with the same spectra."""
    return jax.lax.fori_loop(
        0, steps, lambda _, h: newton_abundances(problem, endmembers, h)[0], abundances
    )
