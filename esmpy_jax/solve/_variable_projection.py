"""Newton's method on W with H projected out."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._types import Abundances, Scalar, Weights
from ..objective import NoRegulariser, SumToOneAbundances, SumToOneWeights, pixel_losses
from ._abundance_newton import local_model, newton_steps, series_limit
from ._multiplicative import MultiplicativeUpdate
from ._pixel_quadratics import product, projected_inverse
from ._reduced import reduce_to_weights
from ._solver import AbstractSolver, Problem


class _State(eqx.Module):
    damping: Scalar  # of Levenberg, relative to the metric of the multiplicative update
    predicted: Scalar  # decrease in nats that the last step believed to be left
    decrease: Scalar  # nats won by the last Newton step
    due: Int[Array, ""]  # multiplicative updates before the next Newton step


class _Trial(eqx.Module):
    weights: Weights
    abundances: Abundances
    damping: Scalar
    undamped: Scalar  # nats that the model would win without damping
    decrease: Scalar
    number: Int[Array, ""]
    accepted: Bool[Array, ""]


class VariableProjectionNewton(AbstractSolver[_State]):
    """Levenberg–Newton steps on W, in which H follows W to second order.

    With H at its minimum for each W, the objective is a function of W alone; its Hessian is the
    Schur complement `L - sum_p C_p K_p C_pᵀ` of the joint one, where K_p inverts pixel p's own
    block on its free entries. Some ten steps replace thousands of multiplicative updates, because
    W and H, which those move in turn, are strongly coupled (Golub & Pereyra, SIAM J. Numer. Anal.
    10 (1973) 413, for the idea). A step is kept only if it lowers the objective; where none does,
    the next one begins with a multiplicative update.

    Handles sum-to-one on H, sum-to-one on W where that only fixes the scale, fixed entries, a G
    that depends on the phase, and any regulariser (by its separable surrogate, so that coupled
    pixels converge more slowly). With sum-to-one on W beside fixed entries or a regulariser every
    step is multiplicative.

    - `warm_up`: multiplicative updates before the first Newton step.
    - `inner`: Newton steps on H after each step of W.
    - `trials`: dampings tried in a step.
    """

    check_every = 1
    warm_up: int = 50
    inner: int = 2
    trials: int = 6

    def init(self, problem, weights, abundances):
        dtype = abundances.dtype
        infinite = jnp.full((), jnp.inf, dtype)
        return _State(jnp.full((), 0.1, dtype), infinite, infinite, jnp.array(self.warm_up))

    def step(self, problem, weights, abundances, state):
        multiplicative = MultiplicativeUpdate()
        newton = only_scale(problem)
        weights, abundances = jax.lax.fori_loop(
            0,
            state.due if newton else 1,
            lambda _, wh: multiplicative.step(problem, wh[0], wh[1], None)[:2],
            (weights, abundances),
        )
        if newton:
            return self._newton(problem, weights, abundances, state)
        unknown = jnp.full_like(state.predicted, jnp.nan)
        return weights, abundances, eqx.tree_at(lambda s: s.predicted, state, unknown)

    def predicted_decrease(self, state):
        return state.predicted

    def _newton(self, problem, weights, abundances, state):
        endmembers = problem.basis.endmembers(weights)
        losses = pixel_losses(problem.counts, endmembers, abundances)
        penalty = problem.penalty(abundances)
        model, _ = local_model(problem, endmembers, abundances)
        best = model.minimum(abundances)
        change = best - abundances
        inverse = projected_inverse(model.matrix, model.free & (best > 0), model.summed)
        from_pixels = model.decrease(change).sum()
        scale_free = free_scales(problem, weights)
        reduced = reduce_to_weights(
            problem, endmembers, weights, abundances, change, inverse, scale_free
        )

        def attempt(trial):
            none = jnp.zeros_like(trial.damping)
            moves, from_model = jax.vmap(reduced.step)(
                jnp.stack([trial.damping, none, none]),
                jnp.stack([reduced.away, reduced.away, reduced.gradient]),
            )
            new = jnp.maximum(weights + moves[0], 0.0)
            follow = change - product(inverse, reduced.coupling(moves[0]))
            maps = model.floored(abundances, follow)
            new, maps = _rescaled(problem, new, maps, scale_free)
            spectra = problem.basis.endmembers(new)
            maps = newton_steps(problem, spectra, maps, self.inner)
            decrease = (losses - pixel_losses(problem.counts, spectra, maps)).sum()
            decrease = decrease + (penalty - problem.penalty(maps))
            accepted = (decrease > 0) & composed(problem, new)
            predicted, undamped, plain = from_pixels + from_model
            gain = jnp.minimum(decrease / jnp.maximum(predicted, 1e-30), 1.0)
            easier = jnp.clip(1 - (2 * gain - 1) ** 3, 0.1, 4.0)
            harder = jnp.where(trial.number < 2, 5.0, 20.0)
            damping = trial.damping * jnp.where(accepted, easier, harder)
            damping = jnp.clip(damping, 1e-9, 1e3).astype(decrease.dtype)
            number = trial.number + 1
            undamped = jnp.where(accepted, undamped, plain)  # a saddle that cannot be left is none
            return _Trial(new, maps, damping, undamped, decrease, number, accepted)

        none = jnp.zeros_like(state.decrease)
        trial = jax.lax.while_loop(
            lambda t: ~t.accepted & (t.number < self.trials),
            attempt,
            _Trial(weights, abundances, state.damping, none, none, jnp.array(0), jnp.array(False)),
        )
        predicted = jnp.abs(trial.undamped)  # below zero where bounds cut the step off
        if not isinstance(problem.regulariser, NoRegulariser):
            predicted = series_limit(predicted, trial.decrease, state.decrease)
        kept = trial.accepted
        return (
            jnp.where(kept, trial.weights, weights),
            jnp.where(kept, trial.abundances, abundances),
            _State(trial.damping, predicted, trial.decrease, jnp.where(kept, 0, 1)),
        )


def only_scale(problem: Problem) -> bool:
    """Whether a sum over W, if there is one, only fixes a scale that nothing else asks for."""
    return not isinstance(problem.constraint, SumToOneWeights) or (
        isinstance(problem.regulariser, NoRegulariser)
        and problem.fixed_weights is None
        and problem.fixed_abundances is None
    )


def free_scales(problem: Problem, weights: Weights) -> Bool[Array, " phase"]:
    """In which phases a factor can pass from W to H without changing anything."""
    n_phases = weights.shape[1]
    if (
        isinstance(problem.constraint, SumToOneAbundances)
        or not isinstance(problem.regulariser, NoRegulariser)
        or problem.fixed_abundances is not None
    ):
        return jnp.zeros(n_phases, bool)
    fixed = problem.fixed_weights
    if fixed is None:
        return jnp.ones(n_phases, bool)
    return ~(fixed.mask & (fixed.values > 0)).any(0)


def composed(problem, weights):
    """Whether every phase whose composition rows sum to one still has a composition."""
    if not isinstance(problem.constraint, SumToOneWeights):
        return jnp.array(True)
    rows = jnp.asarray(problem.basis.composition_rows)[:, None]
    return (jnp.where(rows, weights, 0.0).sum(0) > 0).all()


def _rescaled(problem, weights, abundances, scale_free):
    """Spectra that sum to one (or composition rows that do) where the scale is free."""
    sums = problem.basis.column_sums * weights
    if isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        sums = jnp.where(rows, weights, 0.0)
    scale = jnp.where(scale_free, sums.sum(0), 1.0)
    scale = jnp.where(scale > 0, scale, 1.0)
    return weights / scale[None, :], abundances * scale[:, None]
