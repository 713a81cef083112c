"""Fits on several devices or in several processes, started by test_sharding.py.

`python sharded_runs.py devices FOLDER` wants four devices; `python sharded_runs.py process FOLDER
PORT ID` is one of two processes with two devices. Both write what they found as .npz into FOLDER.
"""

import itertools
import pathlib
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from factor_problems import N_CHANNELS, N_COLUMNS, N_PHASES, STORAGES, Example

from esmpy_jax import sharding
from esmpy_jax.io import load
from esmpy_jax.objective import (
    LaplacianSmoothness,
    NoRegulariser,
    SumToOneAbundances,
    Unconstrained,
    as_counts,
    poisson_nll,
)
from esmpy_jax.solve import BinnedStart, MultiplicativeUpdate, Problem, factorise

STEPS = 10
SCANS = {"even": (4, 6), "uneven": (5, 5)}  # divided by 4 devices or not
CASES = [
    ("even", "sparse", 1),
    ("even", "dense", 2),
    ("uneven", "sparse", 2),
    *itertools.product(SCANS, STORAGES, [4]),
]
SMOOTH = [("even", "sparse", 4), ("uneven", "dense", 4)]
PROCESS_CASES = [("even", "dense", ["smooth"]), ("uneven", "sparse", ["plain"])]
N_PROCESSES = 2


def problem(scan):
    """Counts of some hundred a pixel and a start near the truth; uneven scans have an exposure."""
    rng = np.random.default_rng(len(scan))
    n_pixels = int(np.prod(SCANS[scan]))
    matrix = rng.random((N_CHANNELS, N_COLUMNS)) ** 4 + 0.01
    weights = rng.random((N_COLUMNS, N_PHASES)) * 40 + 1
    abundances = rng.dirichlet(np.ones(N_PHASES), n_pixels).T
    out = Example(np.zeros((n_pixels, 1)), matrix, weights, abundances, SCANS[scan])
    if scan == "uneven":
        out.exposure = rng.uniform(0.3, 3.0, n_pixels)
    out.y = rng.poisson(out.model().T)
    out.y[3] = 0
    out.abundances = (abundances + 0.2) / (1 + 0.2 * N_PHASES)
    out.weights = weights * rng.uniform(0.5, 1.5, weights.shape)
    return out


def as_problem(counts, basis, kind):
    if kind == "smooth":
        return Problem(counts, basis, SumToOneAbundances(), LaplacianSmoothness(3.0))
    return Problem(counts, basis, Unconstrained(), NoRegulariser())


@eqx.filter_jit
def stepped(problem, weights, abundances):
    """W and H after `STEPS` steps: the place where the tests say how long a fit runs."""

    def step(_, factors):
        return MultiplicativeUpdate().step(problem, *factors, None)[:2]

    return jax.lax.fori_loop(0, STEPS, step, (weights, abundances))


def fitted(counts, example, kind):
    """W and H after `STEPS` steps from the example's own factors."""
    factors = jnp.asarray(example.weights, float), jnp.asarray(example.abundances, float)
    return stepped(as_problem(counts, example.basis(), kind), *factors)


def all_passes(counts, example):
    """Every pass at the example's factors, and the gradient of the NLL in G."""
    args = jnp.asarray(example.endmembers(), float), jnp.asarray(example.abundances, float)
    out = {n: getattr(counts, n)(*args) for n in ("pixel_pass", "channel_pass", "log_pass")}
    out |= {"excess_pass": counts.excess_pass(*args), "dense": counts.to_dense()}
    out |= {"sum_spectrum": counts.sum_spectrum(), "pixel_totals": counts.pixel_totals()}
    out |= {"saturated_pass": counts.saturated_pass()}
    basis, weights = example.basis(), jnp.asarray(example.weights, float)

    def nll(matrix):
        moved = eqx.tree_at(lambda b: b.matrix, basis, matrix)
        return poisson_nll(counts, moved, weights, args[1])

    return out | {"gradient": jax.jit(jax.grad(nll))(basis.matrix)}


def whole_fit(counts, example):
    """`factorise` from a binned start; by steps that do not amplify rounding, to be compared."""
    solver = MultiplicativeUpdate()
    start = BinnedStart(restarts=1, max_steps=STEPS, solver=solver)
    fit = factorise(counts, example.basis(), N_PHASES, solver=solver, start=start, max_steps=STEPS)
    return fit.weights, fit.abundances


def collectives(counts, example):
    """(operation, elements) of every communication in the compiled fit."""
    args = jnp.asarray(example.weights, float), jnp.asarray(example.abundances, float)
    given = as_problem(counts, example.basis(), "plain")
    lowered = stepped.lower(given, *args)  # pyright: ignore[reportFunctionMemberAccess]
    text = lowered.lowered.compile().as_text()
    names = r"all-\w+(?:-\w+)?|reduce-scatter|collective-\w+(?:-\w+)?"
    for shapes, name in re.findall(rf"= (\(?\w+\[.*?) ({names})\(", text):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            yield name, int(np.prod([int(n) for n in shape.split(",") if n]))


def devices(folder):
    """Every scan and storage on a mesh of 4 devices, and some on 1 or 2."""
    found = {}
    for scan, storage, size in CASES:
        mesh = sharding.pixel_mesh(jax.devices()[:size])
        example, case = problem(scan), f"{scan}/{storage}/{size}"
        counts = sharding.shard(example.counts(storage), mesh)
        factors = fitted(counts, example, "plain")
        found[f"{case}/plain/W"], found[f"{case}/plain/H"] = factors
        found[f"{case}/part"] = sharding.local_part(factors[1], mesh)
        found[f"{case}/whole"] = factors[1].is_fully_replicated
        sent = list(collectives(counts, example))
        found[f"{case}/sent"] = np.array([name for name, _ in sent], str)
        found[f"{case}/sizes"] = np.array([size for _, size in sent])
        if (scan, storage, size) in SMOOTH:
            factors = fitted(counts, example, "smooth")
            found[f"{case}/smooth/W"], found[f"{case}/smooth/H"] = factors
        if (scan, size) == ("uneven", 4):
            found |= {f"{case}/{n}": v for n, v in all_passes(counts, example).items()}
    save(folder / "devices.npz", found)


def process(folder, port, index):
    """One of two processes with two devices each: 0 is told the others, 1 finds Slurm's words."""
    if index == "0":
        sharding.initialise(f"127.0.0.1:{port}", N_PROCESSES, 0)
    else:
        sharding.initialise()
    mesh, found = sharding.pixel_mesh(), {}
    found["processes"], found["devices"] = jax.process_count(), mesh.size
    for scan, storage, kinds in PROCESS_CASES:
        example, (ny, nx) = problem(scan), SCANS[scan]
        y0, y1 = found[f"{scan}/rows"] = sharding.local_rows((ny, nx), mesh)
        if scan == "even":  # from a file, of which each process reads its rows only
            image = load(folder / "scan.hspy", region=(y0, y1, 0, nx), storage=storage)
            own = image.counts
        else:
            rows = slice(y0 * nx, y1 * nx)
            own = as_counts(
                example.y[rows],
                scan_shape=(y1 - y0, nx),
                storage=storage,
                exposure=example.exposure[rows],
            )
        counts = sharding.shard_rows(own, (ny, nx), mesh)
        found[f"{scan}/counts"] = counts.to_dense()
        found[f"{scan}/pixel_totals"] = sharding.gather(counts.pixel_totals())
        for kind in kinds:
            weights, abundances = fitted(counts, example, kind)
            found[f"{scan}/{kind}/W"] = sharding.gather(weights)
            found[f"{scan}/{kind}/H"] = sharding.gather(abundances)
        found[f"{scan}/part"] = sharding.local_part(abundances, mesh)
    factors = whole_fit(counts, example)
    found[f"{scan}/fit/W"], found[f"{scan}/fit/H"] = map(sharding.gather, factors)
    save(folder / f"process{index}.npz", found)


def save(path, found):
    np.savez(path, **{name: np.asarray(value) for name, value in found.items()})


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    command, folder, *rest = sys.argv[1:]
    {"devices": devices, "process": process}[command](pathlib.Path(folder), *rest)
