"""Newton's method on W with H projected out."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._types import Abundances, Scalar, Weights
from ..objective import NoRegulariser, SumToOneAbundances, SumToOneWeights
from ._abundance_newton import (
    LocalModel,
    second_opinion,
    series_limit,
    settled_abundances,
    unknown_model,
)
from ._multiplicative import MultiplicativeUpdate
from ._pixel_quadratics import product, projected_inverse
from ._reduced import Reduced, no_reduction, reduce_to_weights
from ._solver import AbstractSolver, Problem
from ._updates import equally_bright


class _Point(eqx.Module):
    """W and H with the objective around them, as far as it is known."""

    weights: Weights
    abundances: Abundances
    excess: Float[Array, " pixel"]
    penalty: Scalar
    model: LocalModel  # of H
    best: Abundances  # the minimum of the model


class _State(eqx.Module):
    damping: Scalar  # of Levenberg, relative to the metric of the multiplicative update
    believed: Scalar  # nats that the last step believed to be left
    predicted: Scalar  # the larger of that and of what the step before believed
    decrease: Scalar  # nats won by the last Newton step
    due: Int[Array, ""]  # multiplicative updates before the next step
    known: Bool[Array, ""]  # whether the objective around W and H is
    seen: Bool[Array, ""]  # whether excess and penalty are those at W and H
    excess: Float[Array, " pixel"]
    penalty: Scalar
    model: LocalModel
    best: Abundances


class _Trial(eqx.Module):
    point: _Point
    damping: Scalar
    left: Scalar  # nats that are believed to be left, without the step
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
    the next one begins with a multiplicative update. The first step makes the warm-up and settles
    H. What is left is the larger of what the last two steps believed, as one of them alone may
    take a shoulder for an optimum.

    Handles sum-to-one on H, sum-to-one on W where that only fixes the scale, fixed entries, a G
    that depends on the phase, and any regulariser (by its separable surrogate, so that coupled
    pixels converge more slowly). With sum-to-one on W beside fixed entries or a regulariser every
    step is multiplicative.

    - `warm_up`: multiplicative updates before the first Newton step.
    - `inner`: Newton steps on H after each step of W.
    - `trials`: dampings tried in a step.
    """

    keeps_brightness = True
    check_every = 1
    warm_up: int = 50
    inner: int = 2
    trials: int = 6

    def init(self, problem, weights, abundances):
        return self._start(problem, weights, abundances, self.warm_up)

    def resume(self, problem, weights, abundances):
        return self._start(problem, weights, abundances, 0)

    def _start(self, problem, weights, abundances, due):
        dtype = abundances.dtype
        infinite = jnp.full((), jnp.inf, dtype)
        return _State(
            jnp.full((), 0.1, dtype),
            infinite,
            infinite,
            infinite,
            jnp.full((), due, int),
            jnp.zeros((), bool),
            jnp.zeros((), bool),
            jnp.zeros_like(abundances[0]),
            jnp.zeros((), dtype),
            unknown_model(problem, abundances),
            abundances,
        )

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
        unknown = jnp.full_like(state.predicted, jnp.nan), jnp.zeros((), bool)
        return weights, abundances, eqx.tree_at(lambda s: (s.predicted, s.seen), state, unknown)

    def predicted_decrease(self, state):
        return state.predicted

    def excess(self, problem, weights, abundances, state):
        look = super().excess  # at the start, and where no step could be made
        return jax.lax.cond(
            state.seen,
            lambda: (state.excess, state.penalty),
            lambda: look(problem, weights, abundances, state),
        )

    def _newton(self, problem, weights, abundances, state):
        """A step of W; where nothing is known yet around it, only H moves and the model is made."""
        known, scale_free = state.known, free_scales(problem, weights)
        here = _Point(weights, abundances, state.excess, state.penalty, state.model, state.best)
        change = here.best - abundances
        inverse = projected_inverse(
            here.model.matrix, here.model.free & (here.best > 0), here.model.summed
        )
        from_pixels = here.model.decrease(change).sum()
        reduced = jax.lax.cond(
            known,
            lambda: _reduced(problem, here, change, inverse, scale_free),
            lambda: no_reduction(problem, weights, abundances),
        )

        def attempt(trial):
            dampings = jnp.stack([trial.damping, jnp.zeros_like(trial.damping)])
            moves, from_model, slopes = jax.vmap(reduced.step, (0, None))(dampings, reduced.away)
            move = jnp.where(known, moves[0], 0.0)
            new = jnp.maximum(weights + move, 0.0)
            follow = jnp.where(known, change - product(inverse, reduced.coupling(move)), 0.0)
            new, maps = _rescaled(problem, new, here.model.floored(abundances, follow), scale_free)
            spectra = problem.basis.endmembers(new)
            maps, model, best = settled_abundances(problem, spectra, maps, self.inner)
            point = _Point(new, maps, problem.excess(new, maps), problem.penalty(maps), model, best)
            decrease = (here.excess - point.excess).sum() + (here.penalty - point.penalty)
            decrease = jnp.where(known, decrease, jnp.inf)
            rounding = 4 * jnp.finfo(decrease.dtype).eps * jnp.linalg.norm(point.excess)
            accepted = (decrease > rounding) & composed(problem, new)
            predicted, undamped = from_pixels + from_model
            gain = jnp.minimum(decrease / jnp.maximum(predicted, 1e-30), 1.0)
            easier = jnp.clip(1 - (2 * gain - 1) ** 3, 0.1, 4.0)
            harder = jnp.where(trial.number < 2, 5.0, 20.0)
            # a decrease that drowns in rounding asks for a longer step, a rise for a shorter one
            refused = jnp.where(jnp.abs(decrease) <= rounding, 1 / 30, harder)
            damping = trial.damping * jnp.where(accepted, easier, refused)
            damping = jnp.where(known, jnp.clip(damping, 1e-9, 1e3), trial.damping)
            slope = slopes[0] + 2 * from_pixels
            refuted = jnp.maximum(trial.left, _along(slope, decrease))
            return _Trial(
                _where(accepted, point, here),
                damping.astype(decrease.dtype),
                jnp.where(accepted, jnp.abs(undamped), refuted),
                decrease,
                trial.number + 1,
                accepted,
            )

        none = jnp.zeros_like(state.decrease)
        zero, no = jnp.zeros((), int), jnp.zeros((), bool)
        trial = jax.lax.while_loop(
            lambda t: ~t.accepted & (t.number < self.trials),
            attempt,
            _Trial(here, state.damping, none, none, zero, no),
        )
        believed = jnp.where(jnp.isfinite(trial.left), trial.left, jnp.inf)
        if not isinstance(problem.regulariser, NoRegulariser):
            believed = series_limit(believed, trial.decrease, state.decrease)
        won = jnp.where(trial.accepted, trial.decrease, 0.0)
        predicted = second_opinion(believed, won, state.believed, state.decrease)
        kept, end = trial.accepted, trial.point
        due = jnp.where(kept, 0, 1).astype(state.due.dtype)
        return (
            end.weights,
            end.abundances,
            _State(
                trial.damping,
                jnp.where(known, believed, state.believed),
                jnp.where(known, predicted, state.predicted),
                trial.decrease,
                due,
                kept,
                kept | known,
                end.excess,
                end.penalty,
                end.model,
                end.best,
            ),
        )


def _reduced(problem, point, change, inverse, scale_free) -> Reduced:
    endmembers = problem.basis.endmembers(point.weights)
    return reduce_to_weights(
        problem, endmembers, point.weights, point.abundances, change, inverse, scale_free
    )


def _along(slope, decrease):
    """The most that a step wins when shortened: the parabola of its slope and its end.

    What the quadratic model still promises where none of its steps comes true is not believed.
    """
    bent = jnp.maximum(slope - decrease, 0.5 * slope)
    tiny = jnp.finfo(slope.dtype).tiny
    return jnp.where(slope > 0, 0.25 * slope * (slope / jnp.maximum(bent, tiny)), 0.0)


def _where(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


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
    """Spectra that sum to one (or composition rows that do) where the scale is free.

    Also exactly as bright as asked: steps keep that, but for what is cut off at zero.
    """
    weights = equally_bright(problem.basis, weights, problem.constraint, problem.fixed_weights)
    sums = problem.basis.column_sums * weights
    if isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        sums = jnp.where(rows, weights, 0.0)
    scale = jnp.where(scale_free, sums.sum(0), 1.0)
    scale = jnp.where(scale > 0, scale, 1.0)
    return weights / scale[None, :], abundances * scale[:, None]
