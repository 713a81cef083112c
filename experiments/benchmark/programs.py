"""What takes turns for the time per iteration: this program, scikit-learn and espm.

All start from the same G, W and H (scikit-learn, which has no G, from the same G W) and do plain
Poisson (Kullback-Leibler) multiplicative updates of both factors, without constraint and
regulariser. One sample is

- this program: `factorise` with two numbers of steps; the difference in time over the difference
  in steps. It includes the objective that `factorise` computes every ten steps;
- scikit-learn: `non_negative_factorization(solver="mu", tol=0)` with two numbers of iterations,
  likewise; with `tol=0` it never computes the objective;
- espm: from one pass of its loop to the next (see `espm_worker.py`), with the loss that it
  computes in every pass; the row "updates alone" leaves that out.

The first round is a warm-up and is dropped; compilation is timed apart. Numbers of threads are
what each program takes by default.
"""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.exceptions
from espm_program import EspmWorker, espm
from optimum import both_factors, exact_nll, problem_of
from plan import Plan
from scene import N_PHASES, Scene, Scenes
from sklearn.decomposition import non_negative_factorization
from timing import Program, measure, per_step, seconds, summarise

import esmpy_jax as ej


def this_program(scene: Scene, storage: str, few: int, many: int) -> Program:
    """`factorise` with the multiplicative update."""
    counts = ej.as_counts(scene.counts, scan_shape=scene.scan_shape, storage=storage)
    start = ej.GivenStart(*both_factors(scene))

    def call(steps):
        fit = ej.factorise(
            counts,
            scene.basis,
            N_PHASES,
            solver=ej.MultiplicativeUpdate(),
            start=start,
            max_steps=steps,
            tol=-1.0,
        )
        if fit.steps != steps:
            raise RuntimeError(f"The fit made {fit.steps} steps instead of {steps}.")
        return fit.weights, fit.abundances

    first = seconds(lambda: call(many))
    compiling = first - seconds(lambda: call(many))
    call(few)
    name = f"esmpy_jax, {storage}"
    return Program(lambda: {name: per_step(call, few, many)}, {name: compiling})


def scikit_learn(scene: Scene, storage: str, few: int, many: int) -> Program:
    """scikit-learn's NMF of the same counts, which finds the spectra themselves."""
    counts = scene.counts.astype(np.float32)
    if storage == "dense":
        counts = counts.toarray()
    endmembers = np.asarray(scene.basis.matrix, np.float64) @ scene.weights
    left = scene.abundances.T.astype(np.float32)
    right = endmembers.T.astype(np.float32)

    def call(steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=sklearn.exceptions.ConvergenceWarning)
            *_, n = non_negative_factorization(
                counts,
                W=left.copy(),
                H=right.copy(),
                n_components=N_PHASES,
                init="custom",
                solver="mu",
                beta_loss="kullback-leibler",
                tol=0.0,
                max_iter=steps,
            )
        if n != steps:
            raise RuntimeError(f"scikit-learn made {n} iterations instead of {steps}.")

    name = f"scikit-learn, {storage}"
    return Program(lambda: {name: per_step(call, few, many)})


def check_espm(worker: EspmWorker, scene: Scene, path: pathlib.Path) -> dict[str, float]:
    """The same updates on the same data end at the same likelihood, or the comparison is void."""
    answer = worker.run(scene, path, "float64", 8)
    problem = problem_of(scene)
    with jax.enable_x64(True):
        weights, abundances = (jnp.asarray(x) for x in (scene.weights, scene.abundances))
        fit = ej.factorise(
            problem.counts,
            np.asarray(scene.basis.matrix, np.float64),
            N_PHASES,
            solver=ej.MultiplicativeUpdate(),
            start=ej.GivenStart(weights, abundances),
            max_steps=answer["steps"],
            tol=-1.0,
        )
        ours = exact_nll(problem, fit.weights, fit.abundances)
        before = exact_nll(problem, weights, abundances)
    apart = abs(ours - answer["nll"])
    if apart > 1e-3 * (before - ours):
        raise RuntimeError(f"espm reaches the NLL {answer['nll']}, this program {ours}.")
    return {
        "steps": answer["steps"],
        "nats won by this program": before - ours,
        "nats apart": apart,
    }


def iterations(scenes: Scenes, plan: Plan, worker: EspmWorker | None) -> dict:
    """The section "iterations": seconds per iteration at every dose."""
    out = {"size": plan.size, "rounds": plan.rounds, "doses": []}
    for dose in plan.doses:
        scene, path = scenes.get(dose, plan.size)
        jax.clear_caches()  # so that the compilation of every program is seen
        more = 1 if scene.nonzero > 0.03 or plan.quick else 5
        made = [
            this_program(scene, "sparse", 10, 10 + 50 * more),
            scikit_learn(scene, "sparse", 2, 2 + 4 * more),
            this_program(scene, "dense", 10, 30),
            scikit_learn(scene, "dense", 1, 4),
        ]
        checked = None
        if worker is not None:
            checked = check_espm(worker, scene, path)
            made.append(espm(worker, scene, path, "float64", 3))
            if not plan.quick:
                made.append(espm(worker, scene, path, "float32", 3))
        found = measure(made, plan.rounds + 1)[1:]
        auto = ej.as_counts(scene.counts, scan_shape=scene.scan_shape)
        baseline = f"esmpy_jax, {'sparse' if auto.is_sparse else 'dense'}"
        out["doses"].append(
            scene.facts()
            | {
                "baseline": baseline,
                "compile seconds": {k: v for p in made for k, v in p.compile_seconds.items()},
                "the same updates as espm": checked,
                "rounds": found,
                "summary": summarise(found, baseline),
            }
        )
    return out
