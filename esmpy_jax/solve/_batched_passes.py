"""Passes over batches: what is kept of each, and how W moves.

The multiplicative update of W is a step of expectation maximisation, whose statistics are sums
over pixels. With those of every batch b kept, `N_b = W * Gᵀ (Y_b / X_b) H_bᵀ` of shape
(column, phase) and `d_b = H_b e_b` of shape (phase), the function

    F = sum_b [L_b(W_b, H_b) + sum(s d_b (W - W_b)) - sum(N_b log(W / W_b))],   s = Gᵀ 1,

bounds the objective from above; W_b is the W at which batch b was last visited, and L_b its
objective. A visit moves H_b to where L_b is lower, with W held, and brings N_b, d_b and W_b up to
date; both lower F, and so does the W that minimises it, `sum_b N_b / (s sum_b d_b)`. This is
incremental expectation maximisation (Neal & Hinton, in: Learning in Graphical Models (1998) 355).

In a pass of Newton's method W is held, the gradient and the Hessian of the objective in W with H
eliminated are summed up over the batches, and W makes a step at the end. The next pass tells
whether the objective fell; if not, W and H go back and the step is made shorter.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import as_floats, as_ints
from .._types import Weights
from ..objective import AbstractCounts, NoRegulariser, SumToOneWeights
from ._abundance_newton import AbundanceNewton, local_model, second_opinion, series_limit
from ._pixel_quadratics import projected_inverse
from ._reduced import WeightSums, weight_model, weight_sums
from ._solver import AbstractSolver, Problem
from ._updates import doses, minimise_weights
from ._variable_projection import composed, free_scales, only_scale

#: Newton steps that may fail in a row before a pass of multiplicative updates.
_TRIALS = 3

#: Passes in a row without a lower bound after which rounding is taken to be the reason.
_IDLE = 2 * _TRIALS + 2


class _Seen:
    """What is kept of a batch; sums in 64 bits, as they are compared over passes."""

    def __init__(self, made, weights: np.ndarray):
        maps, losses, penalty, numerator, dose = made
        self.maps, self.losses, self.penalty = np.asarray(maps), np.asarray(losses), float(penalty)
        self.numerator, self.dose = np.asarray(numerator, np.float64), np.asarray(dose, np.float64)
        self.weights = weights

    def objective(self) -> float:
        return float(self.losses.sum(dtype=np.float64)) + self.penalty

    def fall_to(self, other: "_Seen") -> float:
        """By how much the objective of the batch is lower now; differences come before sums."""
        losses = (self.losses.astype(np.float64) - other.losses).sum()
        return float(losses) + (self.penalty - other.penalty)


class _Model:
    """The quadratic model of the objective around a W, and the step that it suggests."""

    def __init__(self, problem: Problem, weights: Weights, sums: list[Any], from_pixels: float):
        total = WeightSums(*(as_floats(sum(parts)) for parts in zip(*sums, strict=True)))
        self.made = _model(problem, weights, total)
        self.from_pixels = from_pixels


class Passes:
    """W, what is known of every batch, and the bound F on the objective.

    - `problem`: of some counts. `first_maps`: H of a batch in the first pass, from its problem.
    - `warm_up`: passes of multiplicative updates before those of Newton's method; `None`: all.
    """

    def __init__(
        self,
        problem: Callable[[AbstractCounts], Problem],
        solver: AbstractSolver,
        inner: int,
        warm_up: int | None,
        weights: Weights,
        first_maps: Callable[[Problem], Any],
    ):
        self._problem, self._solver, self._inner = problem, solver, as_ints(inner)
        self._warm_up, self._first_maps = warm_up, first_maps
        self.seen: list[_Seen] = []
        self.weights, self._w = weights, np.asarray(weights, np.float64)
        self._like: Any = None  # what W needs of the problem; its counts are None
        self._won, self._bound = 0.0, np.nan
        self.epochs = self.steps = 0
        self._wins: list[float] = []
        self.at: list[int] = []
        self.trace: list[float] = []
        self.remaining = np.inf
        self._idle = 0
        # of Newton's method
        self._trial: tuple[Weights, np.ndarray, np.ndarray, float] | None = None
        self._made: list[_Seen] = []
        self._sums: list[Any] = []
        self._gains: list[float] = []
        self._model: Any = None
        self._damping, self._refused, self._falls = 0.1, 0, (np.inf, np.inf)
        self._believed = np.inf

    @property
    def finite(self) -> bool:
        """Whether F and W are."""
        return bool(np.isfinite(self.trace[-1:]).all() and np.isfinite(self._w).all())

    @property
    def stuck(self) -> bool:
        """Whether nothing has lowered F for many passes."""
        return self._idle >= _IDLE

    # ---- passes

    def begin(self) -> None:
        """Decide what the next pass is for."""
        self._made, self._sums, self._gains = [], [], []
        if self._trial is None and self._newton():
            self._trial = self.weights, self._w, np.ones(self._w.shape[1]), np.nan

    def _newton(self) -> bool:
        if self._warm_up is None or self.epochs < max(self._warm_up, 1):
            return False
        if not only_scale(self._like):
            return False
        if self._refused > _TRIALS:
            self._refused, self._model = 0, None
            return False
        return True

    def visit(self, i: int, counts: AbstractCounts) -> None:
        """Move H of batch i and look at it, and move W unless it waits for the others."""
        problem = self._problem(counts)
        if self._trial is not None:
            weights, w, scale, _ = self._trial
            maps = as_floats(self.seen[i].maps * scale[:, None])
            made, sums, gain = _visit_newton(problem, self._inner, weights, maps)
            self._made.append(_Seen(made, w))
            self._sums.append([np.asarray(x, np.float64) for x in jax.tree.leaves(sums)])
            self._gains.append(float(gain))
            return
        first = self.epochs == 0
        maps = self._first_maps(problem) if first else as_floats(self.seen[i].maps)
        new = _Seen(_visit(problem, self._solver, self._inner, self.weights, maps), self._w)
        if first:
            self._like = eqx.tree_at(lambda p: p.counts, problem, None)
            self.seen.append(new)
            return
        old, self.seen[i] = self.seen[i], new
        self._won += old.fall_to(new) + self._rise([old], old.weights, self._w)
        self._multiply()

    def end(self) -> None:
        """Close a pass: move W if it has waited, and write down how far F has come."""
        if self.epochs == 0:
            self._bound = sum(seen.objective() for seen in self.seen)
            self._multiply()
        if self._trial is not None:
            self._judge()
        self.epochs += 1
        lower = not self._wins or self._won > self._wins[-1]
        self._idle = 0 if lower else self._idle + 1
        self._wins.append(self._won)
        self.note()
        last = len(self._wins) - 1
        if self._model is None:
            enough = last >= 4
            self.remaining = self._wins[last] - self._wins[last // 2] if enough else np.inf

    def note(self) -> None:
        """Write down F and the updates made so far, unless that has been done."""
        if not self.at or self.steps > self.at[-1] or len(self.trace) < self.epochs:
            self.at.append(self.steps)
            self.trace.append(self._bound - self._won)

    # ---- multiplicative updates

    def _multiply(self) -> None:
        numerator = as_floats(sum(s.numerator for s in self.seen))
        dose = as_floats(sum(s.dose for s in self.seen))
        made = _minimise(self._like, numerator, dose, self.weights)
        before, self.weights, self._w = self._w, made, np.asarray(made, np.float64)
        self._won -= self._rise(self.seen, before, self._w)
        self.steps += 1

    def _rise(self, seen, before, after) -> float:
        """By how much F rises between two W through what is known of some batches."""
        dose, numerator = sum(s.dose for s in seen), sum(s.numerator for s in seen)
        sums = np.asarray(self._like.basis.column_sums, np.float64)
        counted = (numerator > 0) & (before > 0) & (after > 0)  # others have rounded to nothing
        ratio = np.where(counted, after, 1.0) / np.where(counted, before, 1.0)
        rise = (sums * dose * (after - before)).sum() - (numerator * np.log(ratio)).sum()
        return float(rise)

    # ---- Newton's method

    def _judge(self) -> None:
        """Keep the step of W that this pass has tried if the objective fell, and make the next."""
        assert self._trial is not None
        weights, w, _, predicted = self._trial
        pairs = list(zip(self.seen, self._made, strict=True))
        won = sum(old.fall_to(new) + self._rise([old], old.weights, self._w) for old, new in pairs)
        same = w is self._w
        kept = bool(same or (won > 0 and composed(self._like, weights)))
        if not same:
            self._damp(float(won) / max(predicted, 1e-30), kept)
        if kept:
            self.seen, self._won = self._made, self._won + won
            self.weights, self._w = weights, w
            self.steps += not same
            self._refused = 0
            self._falls = won, self._falls[0]
            self._model = _Model(self._like, weights, self._sums, sum(self._gains))
        else:
            self._refused += 1
        self._propose(kept)

    def _damp(self, gain: float, kept: bool) -> None:
        easier = float(np.clip(1 - (2 * min(gain, 1.0) - 1) ** 3, 0.1, 4.0))
        harder = 5.0 if self._refused < 2 else 20.0
        self._damping = float(np.clip(self._damping * (easier if kept else harder), 1e-9, 1e3))

    def _propose(self, kept: bool) -> None:
        model = self._model
        made = _step(self._like, model.made, self.weights, as_floats(self._damping))
        weights, scale, wins = made
        damped, undamped, plain = np.asarray(wins, np.float64) + model.from_pixels
        self._trial = (
            weights,
            np.asarray(weights, np.float64),
            np.asarray(scale, np.float64),
            float(damped),
        )
        believed = abs(float(undamped if kept else plain))
        won, won_before = self._falls
        if not isinstance(self._like.regulariser, NoRegulariser) and np.isfinite(won_before):
            believed = float(
                series_limit(as_floats(believed), as_floats(won), as_floats(won_before))
            )
        parts = believed, won if kept and np.isfinite(won) else 0.0, self._believed, won_before
        believed_now, won_now, believed_before, won_before = map(as_floats, parts)
        self.remaining = float(second_opinion(believed_now, won_now, believed_before, won_before))
        self._believed = believed
        if self._refused > _TRIALS:
            self._trial = None


def _moved(problem, solver, inner, weights, maps):
    """H after some steps with W held, its losses and penalty, and the statistics of W."""

    def one(_, carry):
        _, maps, state = solver.step(problem, weights, *carry)
        return maps, state

    maps, _ = jax.lax.fori_loop(0, inner, one, (maps, solver.init(problem, weights, maps)))
    counts, basis = problem.counts, problem.basis
    ratio = counts.channel_pass(basis.endmembers(weights), maps)
    numerator = weights * basis.back_project(ratio)
    losses, penalty = problem.losses(weights, maps), problem.penalty(maps)
    return maps, losses, penalty, numerator, doses(counts, maps)


@eqx.filter_jit
def _visit(problem, solver, inner, weights, maps):
    return _moved(problem, solver, inner, weights, maps)


@eqx.filter_jit
def _visit_newton(problem, inner, weights, maps):
    """As `_visit`, with the sums of the model of W and what H alone would still win."""
    made = _moved(problem, AbundanceNewton(), inner, weights, maps)
    maps, endmembers = made[0], problem.basis.endmembers(weights)
    model, _ = local_model(problem, endmembers, maps)
    best = model.minimum(maps)
    change = best - maps
    inverse = projected_inverse(model.matrix, model.free & (best > 0), model.summed)
    sums, _, _ = weight_sums(problem, endmembers, weights, maps, change, inverse)
    return made, sums, model.decrease(change).sum()


@eqx.filter_jit
def _minimise(problem, numerator, dose, weights):
    constraint, fixed = problem.constraint, problem.fixed_weights
    return minimise_weights(
        problem.basis, numerator, dose, weights, constraint=constraint, fixed=fixed
    )


@eqx.filter_jit
def _model(problem, weights, sums):
    scales = free_scales(problem, weights)
    return weight_model(problem.basis, problem.fixed_weights, weights, sums, scales)


@eqx.filter_jit
def _step(problem, model, weights, damping):
    """The next W, the scale that passes to H, and the decreases that the model expects."""
    none = jnp.zeros_like(damping)
    moves, wins, _ = jax.vmap(model.step)(
        jnp.stack([damping, none, none]),
        jnp.stack([model.away, model.away, model.gradient]),
    )
    new, scale = jnp.maximum(weights + moves[0], 0.0), jnp.ones(weights.shape[1])
    if isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        sums = jnp.where(rows, new, 0.0).sum(0)
        scale = jnp.where(sums > 0, sums, 1.0)
        new = new / scale[None, :]
    return new, scale, wins
