"""What the curvature at the end of a refinement says of errors and of what follows what."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ._fisher import Information, weights_covariance
from ._scoring import Local

#: Information in a direction, relative to its entries', that is as good as none.
_NOTHING = 1e-9

#: The same for a difference of two that were computed in single precision.
_ROUNDING = 1e-6


class Posterior(NamedTuple):
    """Gaussian errors of W and the refined parameters.

    - `parameters`: covariance of their coordinates, W and H marginalised.
    - `weights`: covariance of W with the parameters known, entries in row-major order.
    - `weights_total`: the same with the parameters unknown.
    """

    parameters: Float[np.ndarray, "refined refined"]
    weights: Float[np.ndarray, "entry entry"]
    weights_total: Float[np.ndarray, "entry entry"]


def posterior(weights: Float[np.ndarray, "column phase"], near: Local) -> Posterior:
    """Errors from the curvature by W and the refined parameters."""
    n = weights.size
    own, mixed, among = near.information[:n, :n], near.information[:n, n:], near.curvature[n:, n:]
    bounded = near.bounded[:n, :n]
    free = weights.ravel() * np.diag(own) > near.gradient[:n]
    shared = mixed @ np.linalg.solve(among, mixed.T)
    lost = mixed[free].T @ least_squares(own[np.ix_(free, free)]) @ mixed[free]

    def covariance(schur, bounded):
        none = np.zeros(weights.shape, bool)
        bounds = _bounds(weights.ravel(), np.diag(bounded), free)
        told = Information(
            schur,
            bounded + bounds,
            free.reshape(weights.shape),
            none,
            np.zeros(weights.shape[1], bool),
        )
        return weights_covariance(weights, told)

    return Posterior(
        _marginal(near.information[n:, n:], lost),
        covariance(own, bounded),
        covariance(own - shared, bounded - shared),
    )


def _marginal(
    information: Float[np.ndarray, "refined refined"], lost: Float[np.ndarray, "refined refined"]
) -> Float[np.ndarray, "refined refined"]:
    """Covariance from what is left of the information, and the priors.

    What is left may be a small difference of numbers with the rounding of single precision: less
    than that is none.
    """
    size = np.sqrt(np.maximum(np.diag(information), 1e-300))
    left = (information - (lost + lost.T) / 2) / size[:, None] / size[None, :]
    values, vectors = np.linalg.eigh((left + left.T) / 2)
    root = vectors * np.sqrt(np.where(values > _ROUNDING, values, 0.0)) * size[:, None]
    return np.linalg.inv(root @ root.T + np.eye(len(size)))


def _bounds(values: np.ndarray, most: np.ndarray, free: Bool[np.ndarray, " entry"]) -> np.ndarray:
    """Information that the distance of each free entry to zero stands for."""
    near = ~(values**2 * most > 1)
    bounds = np.where(near, most, 1 / np.where(near, 1.0, values) ** 2)
    return np.diag(np.where(free, bounds, 0.0))


def least_squares(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive matrix, zero along directions without information."""
    size = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / size[:, None] / size[None, :])
    some = values > _NOTHING
    scaled = (vectors * np.where(some, 1 / np.where(some, values, 1.0), 0.0)) @ vectors.T
    return scaled / size[:, None] / size[None, :]
