"""The section "scaling": one step of two solvers as one size after the other is varied.

The image is a random texture of phases with random spectra, so that any number of columns and
phases can be had; the default is the first dose of the plan, its size, 14 columns and 3 phases. A
multiplicative step is timed in one compiled loop of many; Newton steps one by one, as the number
of dampings tried varies from step to step, and the median is taken.
"""

import math
import statistics

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from plan import Plan
from scene import N_CHANNELS
from timing import seconds, shortest

import esmpy_jax as ej
from esmpy_jax.simulate import random_texture, sample_counts
from esmpy_jax.solve import Problem

ELEMENTS = (
    *("O", "Mg", "Si", "Ca", "Fe", "Al", "Ti", "Nd", "Sm", "Lu", "Hf", "U"),
    *("Na", "P", "S", "Cl", "K", "Cr", "Mn", "Ni", "Cu", "Zn", "Zr", "Ba", "La", "Ce"),
)
STEPS = ("multiplicative", "Newton")
DEFAULT = {"columns": 14, "phases": 3}


def texture(counts_per_pixel: float, size: int, columns: int, phases: int):
    """Counts and G of such an image, and a start."""
    axis = ej.EnergyAxis(offset=0.2, gain=0.01, size=N_CHANNELS)
    model = ej.EDSModel.from_axis(axis, ELEMENTS[: columns - 2], beam_energy=200.0)
    basis = model.basis()
    if basis.n_columns != columns:
        raise RuntimeError(f"G has {basis.n_columns} columns instead of {columns}.")
    spectra, maps, noise, *start = jr.split(jr.key(0), 5)
    matrix = np.asarray(basis.matrix, np.float64)
    shares = np.asarray(jr.gamma(spectra, 0.5, (columns, phases)), np.float64)
    endmembers = matrix / matrix.sum(0) @ (shares / shares.sum(0))
    volume = np.asarray(random_texture((size, size), key=maps, n_phases=phases), np.float64)
    h = counts_per_pixel * volume.reshape(phases, -1)
    counts = sample_counts(endmembers, h, key=noise, scan_shape=(size, size))
    weights = jr.uniform(start[0], (columns, phases), minval=0.1)
    abundances = jr.uniform(start[1], h.shape, minval=0.1) * counts_per_pixel
    return counts, basis, weights / jnp.asarray(matrix.sum(0)[:, None], float), abundances


@eqx.filter_jit
def _steps(problem, solver, carry, steps):
    return jax.lax.fori_loop(0, steps, lambda _, c: solver.step(problem, *c), carry)


def costs(counts_per_pixel: float, size: int, columns: int, phases: int, plan: Plan) -> dict:
    """Seconds of one step of each solver, and the share of nonzero counts."""
    counts, basis, weights, abundances = texture(counts_per_pixel, size, columns, phases)
    problem = Problem(counts, basis, ej.Unconstrained(), ej.NoRegulariser())
    plain, newton = ej.MultiplicativeUpdate(), ej.VariableProjectionNewton()
    begin = weights, abundances, None

    def call(steps):
        return _steps(problem, plain, begin, jnp.array(steps))

    call(1)
    many = int(np.clip(0.2 / seconds(lambda: call(1)), 4, 1000))
    out = {"multiplicative": shortest(lambda: call(many), 3) / many}
    carry = weights, abundances, newton.init(problem, weights, abundances)
    carry = _steps(problem, newton, carry, jnp.array(1))  # the multiplicative ones before
    times = []
    for _ in range(plan.repeats):
        kept = carry
        times.append(seconds(lambda kept=kept: _steps(problem, newton, kept, jnp.array(1))))
        carry = _steps(problem, newton, carry, jnp.array(1))
    out["Newton"] = statistics.median(times)
    nonzero = len(counts.to_coo()[0]) / (size**2 * N_CHANNELS)
    return out | {"nonzero": nonzero, "sparse": counts.is_sparse}


def exponent(sizes: list[float], times: list[float]) -> float:
    """The slope of the straight line through the logarithms, by least squares."""
    return float(np.polyfit([math.log(x) for x in sizes], [math.log(t) for t in times], 1)[0])


def scaling(plan: Plan) -> dict:
    """The section: points and exponents along each axis."""
    default = {"counts per pixel": plan.doses[0], "pixels": plan.size, **DEFAULT}
    grids = {
        "counts per pixel": plan.counts,
        "pixels": plan.sizes,
        "columns": plan.columns,
        "phases": plan.phases,
    }
    known: dict[tuple, dict] = {}
    axes = {}
    for axis, grid in grids.items():
        points = []
        for value in grid:
            at = default | {axis: value}
            key = tuple(at.values())
            if key not in known:
                known[key] = costs(*key, plan)
            points.append({"x": value**2 if axis == "pixels" else value} | known[key])
        x = [p["x"] for p in points]
        fitted = {s: exponent(x, [p[s] for p in points]) for s in STEPS}
        axes[axis] = {"points": points, "exponents": fitted}
    return {"default": default | {"pixels": plan.size**2}, "axes": axes}
