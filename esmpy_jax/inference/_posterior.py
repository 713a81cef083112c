"""What the curvature at the end of a refinement says of errors and of what follows what."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ._fisher import Information, weights_covariance
from ._scoring import Local

#: Information in a direction, relative to its entries', that is as good as none.
_NOTHING = 1e-9


class Posterior(NamedTuple):
    """Gaussian errors of W and the refined parameters, and how W follows each parameter.

    - `parameters`: covariance of the refined coordinates, W and H marginalised.
    - `weights`: covariance of W with the parameters known, entries in row-major order.
    - `weights_total`: the same with the refined ones unknown.
    - `follows`: change of W by each parameter of the model: of one that is refined by one standard
        error, the others following as they do in the posterior; of one that is held by one unit of
        its coordinate, W and the refined ones fitted again.
    """

    parameters: Float[np.ndarray, "refined refined"]
    weights: Float[np.ndarray, "entry entry"]
    weights_total: Float[np.ndarray, "entry entry"]
    follows: Float[np.ndarray, "entry parameter"]


def posterior(
    weights: Float[np.ndarray, "column phase"], near: Local, refined: Sequence[int]
) -> Posterior:
    """Errors from the curvature by W and by all parameters of a model.

    - `refined`: which of the parameters were refined; the others are held where they are.
    """
    n, refined = weights.size, list(refined)
    own = near.information[:n, :n]
    slope = near.gradient[:n]
    free = weights.ravel() * np.diag(own) > slope
    mixed = near.information[:n, n:]
    among = near.information[n:, n:]
    inner = among[np.ix_(refined, refined)] + np.eye(len(refined))
    shared = mixed[:, refined] @ np.linalg.solve(inner, mixed[:, refined].T)

    def covariance(schur, bounded):
        none = np.zeros(weights.shape, bool)
        bounds = _bounds(weights.ravel(), np.diag(bounded), free)
        told = Information(
            schur, bounded + bounds, free.reshape(weights.shape), none, none.any(0), None
        )
        return weights_covariance(weights, told)

    bounded = near.bounded[:n, :n]
    answer = np.zeros((n, near.information.shape[0] - n))
    inverse = _inverse(own[np.ix_(free, free)])
    answer[free] = -inverse @ mixed[free]
    profiled = among + mixed.T @ answer
    profiled = (profiled + profiled.T) / 2
    of_refined = np.linalg.inv(profiled[np.ix_(refined, refined)] + np.eye(len(refined)))
    follows = answer.copy()
    sd = np.sqrt(np.diag(of_refined))
    follows[:, refined] = answer[:, refined] @ of_refined / sd[None, :]
    held = [k for k in range(answer.shape[1]) if k not in refined]
    drawn = -of_refined @ profiled[np.ix_(refined, held)]
    follows[:, held] += answer[:, refined] @ drawn
    return Posterior(
        of_refined,
        covariance(own, bounded),
        covariance(own - shared, bounded - shared),
        follows,
    )


def _bounds(values: np.ndarray, most: np.ndarray, free: Bool[np.ndarray, " entry"]) -> np.ndarray:
    """Information that the distance of each free entry to zero stands for."""
    near = ~(values**2 * most > 1)
    bounds = np.where(near, most, 1 / np.where(near, 1.0, values) ** 2)
    return np.diag(np.where(free, bounds, 0.0))


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive matrix, zero along directions without information."""
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / size[:, None] / size[None, :])
    some = values > _NOTHING
    scaled = (vectors * np.where(some, 1 / np.where(some, values, 1.0), 0.0)) @ vectors.T
    return scaled / size[:, None] / size[None, :]
