"""Start from the data: the most extreme pixels, seen through G, as phases."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._arrays import as_floats, as_ints
from .._checks import check
from .._seldom import seldom_run
from ._initialise import AbstractStart, in_gauge, mean_weights
from ._solver import Problem


class VertexStart(AbstractStart):
    """Phases from the pixels that differ most from the mean; uses no random numbers.

    With w the Poisson fit of the summed spectrum, y = G w and F = Gᵀ diag(1/y) G = L Lᵀ, the
    features L⁻¹ Gᵀ (x / y) / N of a pixel with N counts x have the same noise 1/N in every
    direction. In the plane of their first n_phases - 1 principal components the pixel farthest
    from the mean is the first vertex and every next one has the largest residual to the span of
    those before (successive projection; Araújo et al., Chemom. Intell. Lab. Syst. 57 (2001) 65).
    W is the Poisson fit of the `average` pixels nearest to each vertex, moved away from the mean
    by the factor `extension`, since the purest pixel is rarely pure. H is what each pixel's
    features are made of, by least squares with the sum of the shares kept, without negative shares.

    Meant for binned images, where a pixel has some hundred counts or more.
    """

    extension: float = 1.0
    average: int = 4

    def __call__(self, problem, n_phases, key):
        counts, basis = problem.counts, problem.basis
        single = basis.matrix.mean(0) if basis.depends_on_phase else basis.matrix
        mean = np.asarray(mean_weights(single, counts.sum_spectrum()), float)
        features, totals = _features(problem, single, mean)
        check(
            int((totals > 0).sum()) >= n_phases,
            f"Fewer than {n_phases} pixels hold counts; the image cannot carry that many phases.",
        )
        dose = totals.sum()
        centre = totals @ features / dose
        columns, corners = [], []
        for vertex in _extreme(features, totals, n_phases):
            distance = ((features - features[vertex]) ** 2).sum(1)
            near = np.argsort(np.where(totals > 0, distance, np.inf))[: self.average]
            local = mean_weights(single, _local_spectrum(counts, as_ints(near)))
            columns.append(np.asarray(local, float) * dose / totals[near].sum())
            corners.append(totals[near] @ features[near] / totals[near].sum())
        vertices, corners = np.stack(columns, 1), np.stack(corners)
        mean = np.asarray(mean, float)[:, None]
        away = np.maximum(mean + self.extension * (vertices - mean), 1e-3 * mean + 1e-300)
        shares = _shares(features, centre + self.extension * (corners - centre))
        return in_gauge(problem, as_floats(away), as_floats(shares))


def _shares(features, corners) -> np.ndarray:
    """Shares (phase, pixel), with sum one and at least 0.02, that make up the features."""
    span = (corners[1:] - corners[0]).T
    others = np.linalg.lstsq(span, (features - corners[0]).T, rcond=None)[0]
    shares = np.maximum(np.concatenate([1 - others.sum(0, keepdims=True), others]), 0.02)
    return shares / shares.sum(0)


def _features(problem: Problem, single, mean) -> tuple[np.ndarray, np.ndarray]:
    """Whitened features (pixel, column) and the counts of each pixel."""
    counts = problem.counts
    used = mean > 1e-9 * mean.max()
    g = np.asarray(single, float)[:, used] * mean[None, used]
    projected = _projected(counts, as_floats(g))
    model = np.maximum(g.sum(1), 1e-300)
    fisher = g.T @ (g / model[:, None])
    fisher += 1e-6 * np.diag(np.diag(fisher))
    lower = np.linalg.cholesky(fisher)
    totals = np.asarray(counts.pixel_totals(), float)
    per_count = np.asarray(projected, float) / np.maximum(totals, 1.0)[None, :]
    return np.linalg.solve(lower, per_count).T, totals


def _extreme(features, totals, n_phases) -> list[int]:
    """Indices of the vertices, by successive projection in the principal plane."""
    share = totals / totals.sum()
    centred = features - share @ features
    _, vectors = np.linalg.eigh((centred * share[:, None]).T @ centred)
    plane = centred @ vectors[:, ::-1][:, : max(n_phases - 1, 1)]
    bright = totals > 0.1 * totals.mean()
    chosen = [int(np.argmax(np.where(bright, (plane**2).sum(1), -1.0)))]
    while len(chosen) < n_phases:
        away = plane - plane[chosen[0]]
        if len(chosen) > 1:
            span, _ = np.linalg.qr((plane[chosen[1:]] - plane[chosen[0]]).T)
            away = away - away @ span @ span.T
        distance = np.where(bright, (away**2).sum(1), -1.0)
        distance[chosen] = -2.0
        chosen.append(int(np.argmax(distance)))
    return chosen


@seldom_run
def _projected(counts, scaled):
    return counts.pixel_pass(scaled, jnp.ones((scaled.shape[1], counts.n_pixels)))


@eqx.filter_jit
def _local_spectrum(counts, pixels):
    inside = jnp.zeros((1, counts.n_pixels)).at[0, pixels].set(1.0)
    return counts.channel_pass(jnp.ones((counts.n_channels, 1)), inside)[:, 0]
