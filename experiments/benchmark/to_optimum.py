"""The section "optimum": seconds until within one nat of the optimum; see `optimum.py`."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable

import jax
import numpy as np
from espm_program import EspmWorker, espm
from optimum import both_factors, exact_nll, problem_of, search
from plan import Plan
from scene import N_PHASES, Scene, Scenes
from timing import Program, measure, seconds, summarise

import esmpy_jax as ej
from esmpy_jax.solve import Problem

NEWTON, PLAIN = "VariableProjectionNewton", "MultiplicativeUpdate"
BINNED = f"{NEWTON} after a binned fit"
ESPM = "espm, float64"


def binned_start(scene: Scene, problem: Problem) -> ej.BinnedStart:
    """A binned fit from the same W and from the mean of the same H over the pixels of each bin."""
    weights, abundances = both_factors(scene)
    factor = ej.BinnedStart().bin_factor(problem.counts)
    shape = scene.scan_shape
    small = tuple(-(-s // factor) for s in shape)
    to_bin = np.ravel_multi_index(tuple(i // factor for i in np.indices(shape)), small).ravel()
    size = np.bincount(to_bin)
    means = np.stack([np.bincount(to_bin, weights=row) / size for row in np.asarray(abundances)])
    return ej.BinnedStart(factor=factor, inner=ej.GivenStart(weights, means), restarts=1)


@dataclasses.dataclass
class Route:
    """One way to an optimum: a solver and where it starts."""

    name: str
    solver: ej.AbstractSolver
    start: ej.AbstractStart
    cap: float


def routes(scene: Scene, problem: Problem, plan: Plan) -> list[Route]:
    """The binned route first, as it shares compiled code with the plain Newton route."""
    given = ej.GivenStart(*both_factors(scene))
    made = []
    if plan.binned:
        binned = binned_start(scene, problem)
        made.append(Route(BINNED, ej.VariableProjectionNewton(), binned, plan.cap))
    for name in plan.solvers:
        cap = plan.plain_cap if name == PLAIN else plan.cap
        made.append(Route(name, getattr(ej, name)(), given, cap))
    return made


def to_optimum(scenes: Scenes, plan: Plan, worker: EspmWorker | None) -> dict:
    """The section at every dose."""
    doses = [_at_dose(*scenes.get(dose, plan.size), plan, worker) for dose in plan.doses]
    return {"size": plan.size, "rounds": plan.optimum_rounds, "doses": doses}


def _at_dose(scene: Scene, path: pathlib.Path, plan: Plan, worker: EspmWorker | None) -> dict:
    problem = problem_of(scene)
    made = routes(scene, problem, plan)
    rows: dict[str, dict] = {}
    known: list[float] = []
    for route in made:
        start = route.start(problem, N_PHASES, jax.random.key(0))
        found = search(
            problem, route.solver, *start, cap=route.cap, max_steps=plan.max_steps, known=known
        )
        known.append(found.optimum)
        rows[route.name] = dataclasses.asdict(found) | {"repeated": False}
        word = "" if found.within else f"not within a nat, {found.above:.3g} above"
        print(f"  {route.name}: {found.steps} steps, {found.seconds:.3g} s {word}", flush=True)
    best = min(known)
    for row in rows.values():
        row["above the best optimum"] = row["optimum"] - best

    short = [r for r in made if rows[r.name]["seconds"] < plan.once]
    rounds, first, ends = _timed(problem, short, rows, plan, worker, scene, path)
    for name in (r.name for r in short):
        rows[name]["repeated"] = True
        rows[name]["first"] = first[name]
        rows[name]["above after factorise"] = ends[name] - rows[name]["optimum"]
    for route in made:
        row = rows[route.name]
        if not row["repeated"]:
            row["first"] = row["compiling"] + row["seconds"]
            rounds[0][route.name] = row["seconds"]
    if worker is not None:
        plain = rows[PLAIN]
        for found in rounds:
            found[ESPM] *= plain["steps"]
        rows[ESPM] = dict(plain) | {"repeated": True, "first": _median(rounds, ESPM)}
    return scene.facts() | {
        "bin factor": ej.BinnedStart().bin_factor(problem.counts),
        "baseline": plan.solvers[0],
        "rows": rows,
        "rounds": rounds,
        "summary": summarise(rounds, plan.solvers[0]),
    }


def _timed(problem, short, rows, plan, worker, scene, path):
    """Rounds of compiled runs, the first run of each route, and where the runs end."""
    programs, first = [], {}
    seen, flushed = [], []
    jax.clear_caches()
    for route in short:
        if type(route.solver) in seen:  # or it would find some of its code compiled
            jax.clear_caches()
            seen, flushed = [], list(programs)
        seen.append(type(route.solver))
        run = runner(problem, route, rows[route.name]["steps"])
        first[route.name] = seconds(lambda run=run: run())
        programs.append(Program(lambda run=run, name=route.name: {name: seconds(run)}))
    for program in flushed:
        program.sample()
    if worker is not None:
        both = espm(worker, scene, path, "float64", 3)
        programs.append(Program(lambda: {ESPM: both.sample()[ESPM]}))
    rounds = measure(programs, plan.optimum_rounds)
    ends = {r.name: exact_nll(problem, *runner(problem, r, rows[r.name]["steps"])()) for r in short}
    return rounds, first, ends


def runner(problem: Problem, route: Route, steps: int) -> Callable[[], tuple]:
    """`factorise` with so many steps, from a start that it makes itself."""

    def run():
        fit = ej.factorise(
            problem.counts,
            problem.basis,
            N_PHASES,
            solver=route.solver,
            start=route.start,
            max_steps=steps,
            tol=-1.0,
        )
        return fit.weights, fit.abundances

    return run


def _median(rounds, name):
    return statistics.median(r[name] for r in rounds if name in r)
