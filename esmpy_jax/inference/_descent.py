"""Physical parameters by any gradient method of optax, on the profile likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .._checks import InputError
from ..objective import AbstractCounts
from ._posterior import posterior
from ._scoring import Found, local, score
from ._tangents import Parametrised


def descend(
    optimiser: optax.GradientTransformation,
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
    """Minimise the loss of `score` over the moved coordinates by gradient steps.

    W (and H) are fitted again at each point, from where they were, so that by the envelope theorem
    the slope at fixed W and H is that of the loss. The steps are taken in `v`, with
    `u = u₀ + L v` and `L Lᵀ` the covariance of u at the start, which makes the curvature there the
    identity. Ends when the covariance and the slope promise less than `tol` nats, with the best
    point seen.
    """
    n, moved = weights.size, list(moved)
    inner: dict[str, Any] = {"held_abundances": held_abundances, "max_steps": 50, "tol": 0.1 * tol}

    def at(u, w, h):
        point = score(counts, parametrised, w, h, u, (), **inner).point
        return point, local(counts, parametrised, point, moved, held_abundances)

    point, near = at(coordinates, weights, abundances)
    covariance = posterior(point.weights, near).parameters
    root = np.linalg.cholesky(covariance)
    v: Array = jnp.zeros(len(moved))
    state, trace, best = optimiser.init(v), [point.loss], (point, near)
    remaining = _promise(near.gradient[n:], covariance)
    while len(trace) <= max_steps and tol <= remaining < np.inf:
        if progress is not None:
            progress(len(trace) - 1, max_steps, point.loss)
        slope = jnp.asarray(root.T @ near.gradient[n:], v.dtype)
        try:
            change, state = optimiser.update(slope, state, v)
        except TypeError as error:
            raise InputError(
                "The optimiser asks for values of the loss; give one that takes gradients alone, "
                "such as optax.adam(0.1) or optax.lbfgs(linesearch=None)."
            ) from error
        v = v + jnp.asarray(change)
        u = coordinates.copy()
        u[moved] += root @ np.asarray(v, np.float64)
        point, near = at(u, point.weights, point.abundances)
        trace.append(point.loss)
        remaining = _promise(near.gradient[n:], covariance)
        if point.loss <= best[0].loss:
            best = (point, near)
    return Found(*best, len(trace) - 1, remaining, False, tuple(trace))


def _promise(slope: np.ndarray, covariance: np.ndarray) -> float:
    """Nats that a slope and the covariance at the start promise; infinite where not finite."""
    found = 0.5 * float(slope @ covariance @ slope)
    return found if np.isfinite(found) else np.inf
