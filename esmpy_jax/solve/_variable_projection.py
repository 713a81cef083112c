"""Newton's method on W with H projected out."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._types import Abundances, Scalar, Weights
from ..objective import NoRegulariser, SumToOneAbundances, SumToOneWeights
from ._abundance_newton import local_model, newton_steps, series_limit
from ._multiplicative import MultiplicativeUpdate
from ._pixel_quadratics import product, projected_inverse
from ._reduced import reduce_to_weights
from ._solver import AbstractSolver, Problem


class _State(eqx.Module):
    damping: Scalar  # of Levenberg, relative to the metric of the multiplicative update
    predicted: Scalar  # decrease in nats that the last step believed to be left
    decrease: Scalar  # nats won by the last step
    losses: Float[Array, " pixel"]  # at the current W and H
    penalty: Scalar
    warm: Bool[Array, ""]  # whether the multiplicative steps have been made


class _Trial(eqx.Module):
    weights: Weights
    abundances: Abundances
    losses: Float[Array, " pixel"]
    penalty: Scalar
    damping: Scalar
    decrease: Scalar
    number: Array
    accepted: Bool[Array, ""]


class VariableProjectionNewton(AbstractSolver[_State]):
    """Levenberg–Newton steps on W, in which H follows W to second order.

    With H at its minimum for each W, the objective is a function of W alone; its Hessian is the
    Schur complement `L - sum_p C_p K_p C_pᵀ` of the joint one, where K_p inverts pixel p's own
    block on its free entries. Some ten steps replace thousands of multiplicative updates, because
    W and H, which those move in turn, are strongly coupled (Golub & Pereyra, SIAM J. Numer. Anal.
    10 (1973) 413, for the idea). A step is kept only if it lowers the objective; where none does, a
    multiplicative update is made instead.

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
        return _State(
            jnp.full((), 0.1, dtype),
            jnp.full((), jnp.inf, dtype),
            jnp.full((), jnp.inf, dtype),
            problem.losses(weights, abundances),
            problem.penalty(abundances),
            jnp.array(self.warm_up == 0),
        )

    def step(self, problem, weights, abundances, state):
        if not _only_scale(problem):
            new = _multiplicative(problem, weights, abundances, 1)
            return *new, _renewed(problem, *new, state, jnp.full_like(state.predicted, jnp.nan))
        return jax.lax.cond(
            state.warm,
            lambda: self._newton(problem, weights, abundances, state),
            lambda: self._warm(problem, weights, abundances, state),
        )

    def predicted_decrease(self, state):
        return state.predicted

    def _warm(self, problem, weights, abundances, state):
        new = _multiplicative(problem, weights, abundances, self.warm_up)
        return *new, _renewed(problem, *new, state, jnp.full_like(state.predicted, jnp.inf))

    def _newton(self, problem, weights, abundances, state):
        endmembers = problem.basis.endmembers(weights)
        model, _ = local_model(problem, endmembers, abundances)
        best = model.minimum(abundances)
        change = best - abundances
        inverse = projected_inverse(model.matrix, model.free & (best > 0), model.summed)
        from_pixels = model.decrease(change).sum()
        scale_free = _scale_free(problem, weights)
        reduced = reduce_to_weights(
            problem, endmembers, weights, abundances, change, inverse, scale_free
        )

        def attempt(trial):
            move, model_decrease = reduced.step(trial.damping)
            new = jnp.maximum(weights + move, 0.0)
            follow = change - product(inverse, reduced.coupling(move))
            maps = model.floored(abundances, follow)
            new, maps = _rescaled(problem, new, maps, scale_free)
            spectra = problem.basis.endmembers(new)
            maps = newton_steps(problem, spectra, maps, self.inner)
            losses, penalty = problem.losses(new, maps), problem.penalty(maps)
            decrease = (state.losses - losses).sum() + (state.penalty - penalty)
            accepted = decrease > 0
            predicted = from_pixels + model_decrease
            gain = jnp.minimum(decrease / jnp.maximum(predicted, 1e-30), 1.0)
            easier = jnp.clip(1 - (2 * gain - 1) ** 3, 0.1, 4.0)
            harder = jnp.where(trial.number < 2, 5.0, 20.0)
            damping = trial.damping * jnp.where(accepted, easier, harder)
            return _Trial(
                new,
                maps,
                losses,
                penalty,
                jnp.clip(damping, 1e-9, 1e3).astype(losses.dtype),
                decrease,
                trial.number + 1,
                accepted,
            )

        none = _Trial(
            weights,
            abundances,
            state.losses,
            state.penalty,
            state.damping,
            jnp.zeros_like(state.decrease),
            jnp.array(0),
            jnp.array(False),
        )
        last = jax.lax.while_loop(lambda t: ~t.accepted & (t.number < self.trials), attempt, none)
        predicted = from_pixels + reduced.step(jnp.zeros_like(last.damping))[1]
        if not isinstance(problem.regulariser, NoRegulariser):
            predicted = series_limit(predicted, last.decrease, state.decrease)

        def keep():
            kept = _State(
                last.damping, predicted, last.decrease, last.losses, last.penalty, state.warm
            )
            return last.weights, last.abundances, kept

        def instead():
            new = _multiplicative(problem, weights, abundances, 1)
            renewed = _renewed(problem, *new, state, predicted)
            return *new, eqx.tree_at(lambda s: s.damping, renewed, last.damping)

        return jax.lax.cond(last.accepted, keep, instead)


def _multiplicative(problem, weights, abundances, steps):
    solver = MultiplicativeUpdate()
    return jax.lax.fori_loop(
        0, steps, lambda _, wh: solver.step(problem, *wh, None)[:2], (weights, abundances)
    )


def _renewed(problem, weights, abundances, state, predicted):
    losses, penalty = problem.losses(weights, abundances), problem.penalty(abundances)
    return _State(
        state.damping,
        predicted,
        (state.losses - losses).sum() + (state.penalty - penalty),
        losses,
        penalty,
        jnp.array(True),
    )


def _only_scale(problem: Problem) -> bool:
    """Whether a sum over W, if there is one, only fixes a scale that nothing else asks for."""
    return not isinstance(problem.constraint, SumToOneWeights) or (
        isinstance(problem.regulariser, NoRegulariser)
        and problem.fixed_weights is None
        and problem.fixed_abundances is None
    )


def _scale_free(problem: Problem, weights: Weights) -> Bool[Array, " phase"]:
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


def _rescaled(problem, weights, abundances, scale_free):
    """Spectra that sum to one (or composition rows that do) where the scale is free."""
    sums = problem.basis.column_sums * weights
    if isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        sums = jnp.where(rows, weights, 0.0)
    scale = jnp.where(scale_free, sums.sum(0), 1.0)
    scale = jnp.where(scale > 0, scale, 1.0)
    return weights / scale[None, :], abundances * scale[:, None]
