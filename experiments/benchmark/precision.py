"""The section "precision": where float32 ends, seen in float64.

Newton's method runs from the same random start in both precisions, with a stopping test so strict
(`TOL`) that it is the precision that ends the run in float32. The likelihood of each end is
evaluated in float64 and compared with that of the optimum to which Newton steps in float64 polish
it. Two runs are in the same optimum if their polished likelihoods are within `SAME` nats.
"""

import statistics

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from optimum import exact_nll, polish, problem_of
from plan import Plan
from scene import N_PHASES, Scene, Scenes

import esmpy_jax as ej
from esmpy_jax.solve import RESULTS

TOL = 1e-3  # nats
SAME = 0.01  # nats


def one_start(scene: Scene, key: jax.Array) -> dict:
    """Both precisions from one start."""
    problem = problem_of(scene)
    start = ej.RandomStart()(problem, N_PHASES, key)
    ends = {}
    for dtype in ("float32", "float64"):
        factors = [np.asarray(x, dtype) for x in start]
        with jax.enable_x64(dtype == "float64"):
            fit = ej.factorise(
                problem.counts,
                np.asarray(problem.basis.matrix, dtype),
                N_PHASES,
                solver=ej.VariableProjectionNewton(),
                start=ej.GivenStart(*(jnp.asarray(x) for x in factors)),
                max_steps=255,
                tol=TOL,
            )
            if fit.weights.dtype != dtype:
                raise RuntimeError(f"The fit worked in {fit.weights.dtype}.")
            result, steps = RESULTS[fit.result], fit.steps
        found = exact_nll(problem, fit.weights, fit.abundances)
        best = polish(problem, fit.weights, fit.abundances, tol=1e-3 * TOL)
        ends[dtype] = {
            "nll": found,
            "polished": best,
            "gap": found - best,
            "steps": steps,
            "result": result,
        }
    apart = ends["float32"]["polished"] - ends["float64"]["polished"]
    return ends | {"optima apart": apart, "same optimum": abs(apart) < SAME}


def precision(scenes: Scenes, plan: Plan) -> dict:
    """The section at every dose."""
    doses = []
    for dose in plan.doses:
        scene, _ = scenes.get(dose, plan.small)
        starts = [one_start(scene, key) for key in jr.split(jr.key(1), plan.starts)]
        summary = {
            dtype: {
                "median gap": statistics.median(s[dtype]["gap"] for s in starts),
                "largest gap": max(s[dtype]["gap"] for s in starts),
                "median steps": statistics.median(s[dtype]["steps"] for s in starts),
                "converged": sum(s[dtype]["result"] == RESULTS[RESULTS.successful] for s in starts),
            }
            for dtype in ("float32", "float64")
        }
        doses.append(
            scene.facts()
            | {
                "starts": starts,
                "summary": summary,
                "same optimum": sum(s["same optimum"] for s in starts),
            }
        )
    return {"size": plan.small, "doses": doses}
