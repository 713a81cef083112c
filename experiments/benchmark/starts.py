"""The section "starts": four starts of the binned fit one after another, and at once by `vmap`.

Both run the default's solver on the scene of the lowest dose binned by 8 pixels along each axis,
from three vertex starts and a random one; the first call of each compiles.
"""

import jax
import jax.numpy as jnp
from plan import Plan
from scene import N_PHASES, Scenes
from timing import seconds, shortest

import esmpy_jax as ej
from esmpy_jax.objective import SumToOneAbundances, bin_counts, relative_to_counts
from esmpy_jax.solve import Problem, solve, solve_batch

KINDS = (ej.VertexStart(1.0), ej.VertexStart(1.5), ej.VertexStart(2.0), ej.RandomStart())
FACTOR = 8


def starts(scenes: Scenes, plan: Plan) -> dict:
    """Seconds of the first and of later calls, both ways."""
    scene, _ = scenes.get(plan.doses[0], plan.size)
    counts = ej.as_counts(scene.counts, scan_shape=scene.scan_shape)
    counts = bin_counts(relative_to_counts(counts), FACTOR)
    penalty = ej.LogSparsity(0.25)
    problem = Problem(counts, scene.basis, SumToOneAbundances(), penalty)
    made = [kind(problem, N_PHASES, jax.random.key(0)) for kind in KINDS]
    together = [jnp.stack(factors) for factors in zip(*made, strict=True)]
    solver = ej.VariableProjectionNewton()
    limits = {"max_steps": 300, "tol": 0.1}
    calls = {
        "one after another": lambda: [
            solve(problem, solver, *factors, **limits).weights for factors in made
        ],
        "at once": lambda: [
            fit.weights for fit in solve_batch(problem, solver, *together, **limits)
        ],
    }
    rows = {}
    for name, call in calls.items():
        jax.clear_caches()
        rows[name] = {"first call": seconds(call), "later calls": shortest(call, plan.repeats)}
    return {"bins": counts.n_pixels, "starts": len(made), "rows": rows}
