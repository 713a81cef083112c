"""Several fits in one compiled program: starts, bootstraps, strengths of a regulariser."""

import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check
from ._solver import (
    AbstractSolver,
    Factorisation,
    Problem,
    advance,
    as_factorisation,
    check_limits,
    start_state,
    trace_room,
)

#: Name of the axis of fits that are mapped by `vmap`.
_AXIS = "fit"


def solve_batch(
    problems: Problem | Sequence[Problem],
    solver: AbstractSolver,
    weights: Float[Array, "fit column phase"],
    abundances: Float[Array, "fit phase pixel"],
    *,
    max_steps: int,
    tol: float = 0.1,
    batch_size: int | None = None,
    memory_gb: float = 2.0,
    resume: bool = False,
) -> list[Factorisation]:
    """`solve` for several fits of the same shapes, in one compiled program.

    - `problems`: one for all fits, or one for each. Arrays that are the same object in all of them
        are held once, the others are stacked; so make them with `dataclasses.replace`, and
        bootstraps with `resample`.
    - `weights`, `abundances`: where each fit starts.
    - `max_steps`, `tol`, `resume`: see `solve`. A fit that is done changes no more, whatever the
        others do.
    - `batch_size`: how many fits go side by side, by `vmap`; one such group follows another. 1 is
        one fit after another. `None` takes as many as fit into `memory_gb` by `fit_bytes`, in
        groups of about equal size.

    Each result is that of `solve` up to rounding, except for `seconds`, which are those of the
    whole batch. Fits side by side run as long as the slowest of them, and both sides of a choice
    that the solver makes for each fit are computed for all.

    Raises `InputError` where the problems differ in shape or kind, or do not fit the starts.
    """
    began = time.perf_counter()
    n_fits = len(weights)
    several = [problems] * n_fits if isinstance(problems, Problem) else list(problems)
    check(n_fits >= 1, "A batch needs at least one start.")
    check_limits(weights.shape[-1], max_steps, tol, None)
    check(
        len(several) == n_fits,
        f"There are {len(several)} problems but {n_fits} starts; give one start for each.",
    )
    check(batch_size is None or batch_size >= 1, f"batch_size is {batch_size}; give at least 1.")
    shared, own = _shared_and_own(several)
    if batch_size is None:
        batch_size = int(memory_gb * 2**30 // fit_bytes(several[0], weights.shape[-1], own))
    states = _run(
        shared,
        own,
        solver,
        weights,
        abundances,
        _groups(n_fits, max(batch_size, 1)),
        trace_room(solver, max_steps),
        jnp.array(max_steps),
        jnp.array(tol, float),
        resume,
    )
    seconds = time.perf_counter() - began
    return [
        as_factorisation(problem, solver, state, state.result, seconds)
        for problem, state in zip(several, _unstacked(states, n_fits), strict=True)
    ]


@eqx.filter_jit
def _run(shared, own, solver, weights, abundances, groups, room, max_steps, tol, resume):
    """The final states of all fits; the groups go one after another, a group side by side."""
    side_by_side = groups.shape[1] > 1

    def one(i):
        own_i, w, h = jax.tree.map(lambda x: x[i], (own, weights, abundances))
        problem = eqx.combine(shared, own_i)
        state = start_state(problem, solver, w, h, room, resume)
        state = advance(problem, solver, state, max_steps, tol, _AXIS if side_by_side else None)
        return eqx.tree_at(lambda s: s.solver_state, state, None, is_leaf=lambda x: x is None)

    if side_by_side:
        states = jax.lax.map(jax.vmap(one, axis_name=_AXIS), groups)
        states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states)
    else:
        states = jax.lax.map(one, groups[:, 0])
    return jax.tree.map(lambda x: x[: len(weights)], states)


def fit_bytes(problem: Problem, n_phases: int, own: Any = None) -> int:
    """An estimate of the memory that one more fit side by side takes.

    The size of a number times `pixel × phase × (2 column + 6 phase + 30)`, which is what a Newton
    step on W holds at once and several times what a multiplicative step does; for dense counts
    also four arrays of the size of a tile of them, and the arrays of `own`, of which each fit has
    one entry.
    """
    counts, n_columns = problem.counts, problem.basis.n_columns
    numbers = counts.n_pixels * n_phases * (2 * n_columns + 6 * n_phases + 30)
    if not counts.is_sparse:
        numbers += 4 * min(counts.n_pixels, 256) * counts.n_channels
    arrays = jax.tree.leaves(own)
    return numbers * problem.basis.matrix.dtype.itemsize + sum(x.nbytes // len(x) for x in arrays)


def _shared_and_own(problems):
    """A problem of the arrays that all have in common, and one of the others, stacked."""
    leaves, kinds = zip(*map(jax.tree.flatten, problems), strict=True)
    check(
        all(kind == kinds[0] for kind in kinds),
        "The problems of a batch differ in kind; constraint, regulariser, scan shape, columns and "
        "storage of the counts must be the same in all.",
    )
    shared, own = [], []
    for arrays in zip(*leaves, strict=True):
        same = all(x is arrays[0] for x in arrays)
        shapes = {x.shape for x in arrays}
        check(
            len(shapes) == 1,
            f"The problems of a batch hold arrays of different shapes, {sorted(shapes)[:2]}; "
            "counts must share their structure, as those of `resample` do, or be dense.",
        )
        shared.append(arrays[0] if same else None)
        own.append(None if same else jnp.stack(arrays))
    return jax.tree.unflatten(kinds[0], shared), jax.tree.unflatten(kinds[0], own)


def _groups(n_fits, width):
    """Numbers of the fits in groups of equal size; the last is filled up with the last fit."""
    n_groups = -(-n_fits // width)
    width = -(-n_fits // n_groups)
    return jnp.minimum(jnp.arange(n_groups * width), n_fits - 1).reshape(n_groups, width)


def _unstacked(states, n_fits):
    """One state for each fit; W, H and the result stay on the device."""
    large = lambda s: (s.weights, s.abundances, s.result)  # noqa: E731
    states = eqx.tree_at(large, jax.device_get(states), large(states))
    return [jax.tree.map(lambda x, i=i: x[i], states) for i in range(n_fits)]
