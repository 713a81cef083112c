"""How long each solver needs until it is within one nat of the optimum that it ends in.

In two parts. **Search**: the solver steps in float32 from the scene's W and H, in compiled
stretches, and after each the likelihood of its factors is evaluated in float64, since float32
does not resolve a nat of a likelihood of millions. From time to time its factors are polished by
Newton steps in float64; once they are within a nat of what that finds, this is their optimum, and
the first stretch that ended within a nat of it gives the number of steps. **Time**: `factorise`
makes that many steps, once with everything still to be compiled and then in turns with the
others. A search that took longer than `Plan.once` is not repeated; its own time is given.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scene import Scene

import esmpy_jax as ej
from esmpy_jax.solve import Problem, solve


def both_factors(scene: Scene) -> tuple[jax.Array, jax.Array]:
    """W and H of the start, in the precision of the fit."""
    return jnp.asarray(scene.weights, float), jnp.asarray(scene.abundances, float)


def problem_of(scene: Scene) -> Problem:
    """The plain likelihood of the scene's counts, in the storage chosen by the program."""
    counts = ej.as_counts(scene.counts, scan_shape=scene.scan_shape)
    return Problem(counts, scene.basis, ej.Unconstrained(), ej.NoRegulariser())


def in_float64(problem: Problem) -> Problem:
    """The same problem with G as 64-bit numbers; call it where they are enabled."""
    matrix = jnp.asarray(np.asarray(problem.basis.matrix), jnp.float64)
    return eqx.tree_at(lambda p: p.basis.matrix, problem, matrix)


_nll = eqx.filter_jit(ej.poisson_nll)


def exact_nll(problem: Problem, weights: jax.Array, abundances: jax.Array) -> float:
    """The likelihood of factors of any precision, evaluated in float64."""
    factors = np.asarray(weights, np.float64), np.asarray(abundances, np.float64)
    with jax.enable_x64(True):
        exact = in_float64(problem)
        return float(_nll(exact.counts, exact.basis, *(jnp.asarray(x) for x in factors)))


def polish(problem: Problem, weights: jax.Array, abundances: jax.Array, tol: float = 1e-3) -> float:
    """The likelihood of the optimum that Newton steps in float64 reach from these factors."""
    factors = np.asarray(weights, np.float64), np.asarray(abundances, np.float64)
    with jax.enable_x64(True):
        fit = solve(
            in_float64(problem),
            ej.VariableProjectionNewton(warm_up=0),
            *(jnp.asarray(x) for x in factors),
            max_steps=255,
            tol=tol,
        )
        return exact_nll(problem, fit.weights, fit.abundances)


@eqx.filter_jit
def _begin(problem, solver, weights, abundances):
    return weights, abundances, solver.init(problem, weights, abundances)


@eqx.filter_jit
def _advance(problem, solver, carry, steps):
    return jax.lax.fori_loop(0, steps, lambda _, c: solver.step(problem, *c), carry)


@dataclasses.dataclass
class Search:
    """What a search found.

    - `steps`, `seconds`: until within a nat of `optimum`, or all that were made where not `within`.
    - `compiling`: seconds of the first call, without any step.
    - `optimum`: likelihood of the polished end. `above`: of the factors after `steps`, above it.
    """

    steps: int
    seconds: float
    compiling: float
    within: bool
    optimum: float
    above: float


def search(
    problem: Problem,
    solver: ej.AbstractSolver,
    weights: jax.Array,
    abundances: jax.Array,
    *,
    cap: float,
    max_steps: int,
    known: list[float],
) -> Search:
    """Step until within a nat of the optimum, or for `cap` seconds.

    Stretches are a fiftieth of the steps made so far, so that their number is known to 2 %. The
    factors are polished once the second half of the steps has won less than two nats, or
    the solver believes that less than half a nat is left, or an optimum that is `known` is near.
    """
    began = time.perf_counter()
    carry = _begin(problem, solver, weights, abundances)
    carry = jax.block_until_ready(_advance(problem, solver, carry, jnp.array(0)))
    compiling = time.perf_counter() - began
    steps, clock, nll = [0], [0.0], [exact_nll(problem, weights, abundances)]
    optimum, next_try = None, 0
    while True:
        made, last = steps[-1], nll[-1]
        over = clock[-1] > cap or made >= max_steps
        settled = made >= 8 and np.interp(made / 2, steps, nll) - last < 2
        told = float(solver.predicted_decrease(carry[2])) < 0.5
        near = any(abs(last - other) < 1 for other in known)
        if over or (made >= next_try and (settled or told or near)):
            optimum = polish(problem, *carry[:2])
            if over or last - optimum <= 1:
                break
            next_try = 1.3 * made
        stretch = max(1, min(made // 50, max_steps - made))
        began = time.perf_counter()
        carry = jax.block_until_ready(_advance(problem, solver, carry, jnp.array(stretch)))
        clock.append(clock[-1] + time.perf_counter() - began)
        steps.append(made + stretch)
        nll.append(exact_nll(problem, *carry[:2]))
    above = np.asarray(nll) - optimum
    within = bool(above[-1] <= 1)
    at = int(np.argmax(above <= 1)) if within else len(above) - 1
    return Search(steps[at], clock[at], compiling, within, optimum, float(above[at]))
