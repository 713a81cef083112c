"""W and physical parameters together by Fisher scoring, the abundances solved for at every step.

The loss is `F(u, W) = min over H >= 0 of NLL(D(u, W) H) + |u|² / 2`, the profile likelihood with
the priors of u. By the envelope theorem its gradient is that of the NLL at the best H. Its
curvature is the expected information of (W, u) with H marginalised, a Schur complement over pixels,
plus the identity for u. A step minimises that quadratic with W + step >= 0 kept exactly, damped as
Levenberg and Marquardt do it, and is taken when the loss falls.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import lsq_linear

from .._basis import Basis
from .._types import Abundances, Endmembers
from ..objective import AbstractCounts, exposure_or_one, pixel_excess
from ..solve import AbundanceNewton, GivenStart, factorise
from ._fisher import blocks
from ._tangents import Parametrised, Tangents, spectra, tangents

#: First, least and largest damping of a step, relative to the curvature of each entry.
_DAMPING = 1e-3, 1e-9, 1e6


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """Where the search is, in double precision on the host: u, W, H and the loss."""

    coordinates: Float[np.ndarray, " parameter"]
    weights: Float[np.ndarray, "column phase"]
    abundances: Float[np.ndarray, "phase pixel"]
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class Local:
    """Slope and curvature of the loss, entries of W first (row-major), then the moved u.

    - `gradient`: (unknown,). `curvature`: (unknown, unknown), H marginalised, with the priors.
    - `information`: the curvature without the priors. `bounded`: with the bounds of H counted.
    """

    gradient: Float[np.ndarray, " unknown"]
    curvature: Float[np.ndarray, "unknown unknown"]
    information: Float[np.ndarray, "unknown unknown"]
    bounded: Float[np.ndarray, "unknown unknown"]


@eqx.filter_jit
def _slopes(
    counts: AbstractCounts, found: Tangents, abundances: Abundances
) -> tuple[Float[Array, "column phase"], Float[Array, " parameter"]]:
    """Gradient of the NLL by W and by u at fixed H."""
    dose = (abundances * exposure_or_one(counts)).sum(1)[None, :]
    by_spectra = dose - counts.channel_pass(found.endmembers, abundances)
    by_weights = jnp.einsum("acj,ca->ja", found.weights, by_spectra, precision="highest")
    by_parameters = jnp.einsum("ack,ca->k", found.parameters, by_spectra, precision="highest")
    return by_weights, by_parameters


def local(
    counts: AbstractCounts,
    parametrised: Parametrised,
    point: Point,
    moved: Sequence[int],
    held_abundances: bool,
) -> Local:
    """Slope and curvature at a point whose H is the best one, by W and the moved coordinates.

    Computed where every phase's spectrum sums to one, so that single precision loses nothing.
    """
    n_columns, n_phases = point.weights.shape
    n, n_moved = n_columns * n_phases, len(moved)
    u, w = _floats(point.coordinates, point.weights)
    found = tangents(parametrised, u, w, moved)
    unit = np.asarray(found.endmembers, np.float64).sum(0)
    unit = np.where(unit > 0, unit, 1.0)
    (scale,) = _floats(1 / unit)
    found = Tangents(
        found.endmembers * scale[None, :], found.weights, found.parameters * scale[:, None, None]
    )
    (amounts,) = _floats(point.abundances * unit[:, None])
    # columns of like size, so that none vanishes when it is squared
    norm = np.abs(np.asarray(found.weights, np.float64)).sum(1)
    norm = np.where(norm > 0, norm, 1.0)
    (per_norm,) = _floats(1 / norm)
    found = found._replace(weights=found.weights * per_norm[:, None, :])
    by_weights, by_parameters = _slopes(counts, found, amounts)
    matrix = jnp.concatenate([found.weights, found.parameters], axis=2)
    free = jnp.zeros(amounts.shape, bool) if held_abundances else amounts > 0
    own, lost, bounded = blocks(
        matrix, found.endmembers, amounts, exposure_or_one(counts), free, None
    )
    own, lost, bounded = (np.asarray(x, np.float64) for x in (own, lost, bounded))
    # from one of each phase, in its own gauge, to what is asked for: W in its, one u for all phases
    tie = np.zeros((len(own), n + n_moved))
    rows = np.arange(n)
    in_gauge = (norm.T / unit[None, :]).ravel()
    tie[rows, rows] = in_gauge
    for k in range(n_moved):
        tie[n + k * n_phases : n + (k + 1) * n_phases, n + k] = 1.0
    information, bounded = (tie.T @ (own - part) @ tie for part in (lost, bounded))
    information, bounded = (information + information.T) / 2, (bounded + bounded.T) / 2
    prior = np.concatenate([np.zeros(n), np.ones(n_moved)])
    gradient = np.concatenate(
        [
            np.asarray(by_weights, np.float64).ravel() * in_gauge,
            np.asarray(by_parameters, np.float64) + point.coordinates[list(moved)],
        ]
    )
    return Local(gradient, information + np.diag(prior), information, bounded)


def _floats(*values: np.ndarray) -> tuple[Array, ...]:
    return tuple(jnp.asarray(value, float) for value in values)


def best_abundances(
    counts: AbstractCounts, endmembers: Endmembers, start: np.ndarray, tol: float
) -> np.ndarray:
    """H >= 0 of the highest likelihood for given spectra."""
    n_phases = endmembers.shape[1]
    basis = Basis.from_matrix(endmembers)
    eye = np.eye(n_phases)
    fit = factorise(
        counts,
        basis,
        n_phases,
        solver=AbundanceNewton(),
        start=GivenStart(eye, np.maximum(start, 1e-3 * start.sum(0))),
        fixed_weights=eye,
        tol=tol,
    )
    return np.asarray(fit.abundances, np.float64)


def excess(counts: AbstractCounts, endmembers: Endmembers, abundances: np.ndarray) -> float:
    """Half the deviance, summed in double precision."""
    if counts.n_pixels == 1:
        seen = np.asarray(counts.sum_spectrum(), np.float64)
        mean = (
            np.asarray(endmembers, np.float64)
            @ abundances[:, 0]
            * float(exposure_or_one(counts)[0, 0])
        )
        some = seen > 0
        safe = np.maximum(mean, 1e-30)
        return float((mean - seen).sum() + (seen[some] * np.log(seen[some] / safe[some])).sum())
    each = pixel_excess(counts, endmembers, jnp.asarray(abundances, float))
    return float(np.asarray(each, np.float64).sum())


def step(near: Local, weights: np.ndarray, damping: float) -> tuple[np.ndarray, float]:
    """The damped step and by how much it lowers the quadratic, W >= 0 kept."""
    diagonal = np.diag(near.curvature)
    told = diagonal > 0  # entries of which the counts know nothing stay
    size = np.sqrt(np.where(told, diagonal, 1.0))
    matrix = near.curvature / size[:, None] / size[None, :] + damping * np.eye(len(size))
    slope = np.where(told, near.gradient / size, 0.0)
    lower = np.concatenate([-weights.ravel(), np.full(len(size) - weights.size, -np.inf)]) * size
    values, vectors = np.linalg.eigh(matrix)
    values = np.sqrt(np.maximum(values, 1e-9))
    root, right = values[:, None] * vectors.T, -(vectors.T @ slope) / values
    bounds = (np.minimum(lower, -1e-300), np.inf)
    scaled = lsq_linear(root, right, bounds, method="bvls").x
    change = scaled / size
    quadratic = near.gradient @ change + 0.5 * change @ near.curvature @ change
    return change, -float(quadratic)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """How a search ended.

    - `point`, `near`: the end and what the loss looks like there.
    - `steps`: taken. `remaining`: nats that the quadratic still promises. `stalled`: whether no
        step lowered the loss any more.
    """

    point: Point
    near: Local
    steps: int
    remaining: float
    stalled: bool
    trace: tuple[float, ...]


def score(
    counts: AbstractCounts,
    parametrised: Parametrised,
    weights: Float[np.ndarray, "column phase"],
    abundances: Float[np.ndarray, "phase pixel"],
    coordinates: Float[np.ndarray, " parameter"],
    moved: Sequence[int],
    *,
    held_abundances: bool,
    max_steps: int,
    tol: float,
    progress: Callable[[int, int, float], None] | None = None,
) -> Found:
    """Minimise the loss from a start; see the head of the module.

    - `moved`: the coordinates to be searched over; the others stay.
    - `held_abundances`: keep H as it is, where W alone carries the counts.
    - `tol`: nats that the quadratic may still promise at the end.
    """
    n = weights.size

    def at(u, w, h):
        endmembers = spectra(parametrised, *_floats(u, w))[0]
        if not bool(jnp.isfinite(endmembers).all() & (endmembers >= 0).all()):
            return Point(u, w, h, np.inf)
        if not held_abundances:
            h = best_abundances(counts, endmembers, h, 0.1 * tol)
        return Point(u, w, h, excess(counts, endmembers, h) + 0.5 * float(u @ u))

    point = at(coordinates, weights, abundances)
    near = local(counts, parametrised, point, moved, held_abundances)
    damping, trace, stalled = _DAMPING[0], [point.loss], False
    remaining = promise(near, point)
    while len(trace) <= max_steps and not stalled and tol <= remaining < np.inf:
        if progress is not None:
            progress(len(trace) - 1, max_steps, point.loss)
        while damping < _DAMPING[2]:
            change, promised = step(near, point.weights, damping)
            coordinates = point.coordinates.copy()
            coordinates[list(moved)] += change[n:]
            new = at(
                coordinates,
                np.maximum(point.weights + change[:n].reshape(weights.shape), 0.0),
                point.abundances,
            )
            gained = point.loss - new.loss
            if gained > 0.1 * promised:
                damping = max(damping / (10 if gained > 0.7 * promised else 2), _DAMPING[1])
                point = new
                near = local(counts, parametrised, point, moved, held_abundances)
                trace.append(point.loss)
                remaining = promise(near, point)
                break
            damping *= 10
        else:
            stalled = True
    return Found(point, near, len(trace) - 1, remaining, stalled, tuple(trace))


def promise(near: Local, point: Point) -> float:
    """Nats by which the undamped quadratic lies below the loss; infinite where it is not finite."""
    if not (np.isfinite(point.loss) and np.isfinite(near.curvature).all()):
        return np.inf
    return step(near, point.weights, 0.0)[1]
