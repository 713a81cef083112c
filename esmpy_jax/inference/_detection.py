"""How much of an element could have gone unseen in a phase."""

import numpy as np
from jaxtyping import Float

from ._planning import DETECTION, widest


def detection_limits(
    matrix: Float[np.ndarray, "*phase channel column"],
    weights: Float[np.ndarray, "column phase"],
    counts: Float[np.ndarray, " phase"],
    rows: np.ndarray,
    stderr: Float[np.ndarray, "element phase"],
) -> Float[np.ndarray, "element phase"]:
    """Limit of detection of each element in each phase, as an atomic fraction (Currie 1968).

    3.29 standard errors at none of the element. That error is the `stderr` that was found, times
    the ratio of what the phase's own counts would say without the element and with it; by the
    information `Gᵀ diag(1 / D) G`, D = G w being the phase's spectrum with or without the element.

    - `counts`: of each phase, of all pixels together.

    At most 1, which stands for "not known", as in a phase without other elements or counts.
    """
    limits = np.ones(stderr.shape)
    for a, n in enumerate(counts):
        own = matrix if matrix.ndim == 2 else matrix[a]
        present = _errors(own, weights[:, a], n, rows)
        for e, row in enumerate(rows):
            absent = weights[:, a].copy()
            absent[row] = 0.0
            found = _errors(own, absent, n, rows)
            if found is None:
                continue
            if present is not None and stderr[e, a] > 0 and present[e] > 0:
                found = found * stderr[e, a] / present[e]
            limits[e, a] = min(DETECTION * found[e], 1.0)
    return limits


def _errors(
    matrix: Float[np.ndarray, "channel column"],
    weights: Float[np.ndarray, " column"],
    counts: float,
    rows: np.ndarray,
) -> Float[np.ndarray, " element"] | None:
    """Standard errors of atomic fractions by so many counts of one spectrum."""
    mean, content = matrix @ weights, weights[rows]
    if not (content.sum() > 0 and mean.sum() > 0 and counts > 0):
        return None
    some = mean > 0
    information = (matrix[some] / mean[some, None]).T @ matrix[some] * (counts / mean.sum())
    slope = np.zeros((len(rows), len(weights)))
    slope[:, rows] = np.eye(len(rows)) - content[:, None] / content.sum()
    slope /= content.sum()
    return np.sqrt(np.einsum("ek,kl,el->e", slope, widest(information), slope).clip(0.0))
