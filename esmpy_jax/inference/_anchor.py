"""What the purest pixels, taken for pure, leave open of what is mixed into a phase."""

import dataclasses

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._basis import Basis
from ..objective import exposure_or_one, thin
from ..solve import AbundanceNewton, Factorisation, solve
from ._job import ROUGHLY, floored
from ._pools import LEAST_COUNTS, pooled_by_shares

#: Nats by which a mixture may fit worse: half the 95 % point of chi-squared of one degree.
TOLERANCE = 1.92

#: The purest part of the nearly pure pools that is taken for pure in any case, and the difference
#: of shares that are alike.
_TENTH, _ALIKE = 0.1, 0.02

#: Shares of another phase in an anchored one that are tried, closest around zero.
_SHARES = 0.9 * np.sinh(np.linspace(-7.0, 7.0, 281)) / np.sinh(7.0)

#: Most steps of the maps of each half of the counts, and their least tolerance in nats.
_STEPS, _TOL = 500, 0.1


@dataclasses.dataclass(frozen=True)
class JudgedPools:
    """Counts of pools, with maps that have not seen these counts.

    - `values`: counts. `exposure`: of each pool, in that of the whole image.
    - `shares`: of each phase.
    """

    values: Float[np.ndarray, "pool channel"]
    exposure: Float[np.ndarray, " pool"]
    shares: Float[np.ndarray, "phase pool"]


def judged_pools(fit: Factorisation, size: int, key: PRNGKeyArray) -> JudgedPools:
    """Each half of the counts, pooled by the maps of the other half with the W of the fit.

    Pixels that the maps of the same counts say are the purest are so by their noise, too: their
    counts look purer than they are, the more the purer. Maps of other counts know nothing of it.

    - `size`: about how many pools each half makes.
    """
    # a half of the counts with half of G has the same W and H
    problem = eqx.tree_at(lambda p: p.basis.matrix, fit.problem, 0.5 * fit.problem.basis.matrix)
    tol = max(_TOL, ROUGHLY * fit.problem.counts.n_pixels)
    halves = thin(fit.problem.counts.for_pixels(), 0.5, key)
    start, of_halves = floored(fit.abundances), []
    for half in halves:
        own = eqx.tree_at(lambda p: p.counts, problem, half)
        found = solve(own, AbundanceNewton(), fit.weights, start, max_steps=_STEPS, tol=tol)
        of_halves.append(np.asarray(found.abundances))
    pools = [
        pooled_by_shares(half, maps, size)
        for half, maps in zip(halves, reversed(of_halves), strict=True)
    ]
    return JudgedPools(
        np.concatenate([np.asarray(counts.to_dense(), np.float64) for counts, _ in pools]),
        np.concatenate([_exposure(counts) for counts, _ in pools]) / 2,
        np.concatenate([np.asarray(shares, np.float64) for _, shares in pools], axis=1),
    )


def _exposure(counts):
    return np.broadcast_to(np.asarray(exposure_or_one(counts), np.float64), (1, counts.n_pixels))[0]


def mixtures(
    basis: Basis,
    weights: Float[np.ndarray, "column phase"],
    spectra: Float[np.ndarray, "channel phase"],
    a: int,
    b: int,
) -> Float[np.ndarray, "channel share"]:
    """The spectrum of phase a with each of `_SHARES` of phase b in it, weights cut off at zero."""
    cut = np.maximum(-(np.outer(weights[:, a], 1 - _SHARES) + np.outer(weights[:, b], _SHARES)), 0)
    matrix = np.asarray(basis.matrix[a] if basis.depends_on_phase else basis.matrix, np.float64)
    mixed = np.outer(spectra[:, a], 1 - _SHARES) + np.outer(spectra[:, b], _SHARES) + matrix @ cut
    # with a G of its own for each phase, what is cut off may leave something below zero
    return np.maximum(mixed, 1e-6 * spectra[:, [a]] + 1e-12 * spectra.max())


def left_open(
    mixtures: Float[np.ndarray, "channel share"],
    pools: JudgedPools,
    a: int,
    pure: float,
) -> tuple[float, float, float]:
    """Counts of the purest pools of phase a that are alike, and the range of shares they leave.

    The purest pools by their maps that hold a tenth of the `pure` counts, and 1000 at least, are
    doubled in number as long as those and as many more have the same share of phase b in them, to
    `TOLERANCE` nats or to `_ALIKE`. Taken for pure, they leave open the shares of b in phase a
    whose likelihood is within `TOLERANCE` of the best, and those that are the best of either half.
    """
    values, least = pools.values, max(LEAST_COUNTS, _TENTH * pure)
    order = np.argsort(-pools.shares[a] / pools.shares.sum(0), kind="stable")
    order = order[values[order].sum(1) > 0]
    logs, rate = np.log(mixtures), mixtures.sum(0)

    def losses(own: np.ndarray) -> np.ndarray:
        return pools.exposure[own].sum() * rate - values[own].sum(0) @ logs

    enough = np.searchsorted(values[order].sum(1).cumsum(), least) + 1
    taken = n = min(int(enough), len(order))
    ends = [0.0]
    while 2 * n <= len(order):
        halves = losses(order[:n]), losses(order[n : 2 * n])
        bests = [float(_SHARES[half.argmin()]) for half in halves]
        worse = (halves[0] + halves[1]).min() - halves[0].min() - halves[1].min()
        if worse > TOLERANCE and abs(bests[0] - bests[1]) > _ALIKE:
            break
        taken = n = 2 * n
        ends = [0.0, *bests]
    best = losses(order[:taken])
    above = best - best.min() - TOLERANCE
    first, last = np.flatnonzero(above <= 0)[[0, -1]]
    low, high = _SHARES[first], _SHARES[last]
    if first > 0:
        low = np.interp(0.0, -above[first - 1 : first + 1], _SHARES[first - 1 : first + 1])
    if last + 1 < len(_SHARES):
        high = np.interp(0.0, above[last : last + 2], _SHARES[last : last + 2])
    return float(values[order[:taken]].sum()), min(float(low), *ends), max(float(high), *ends)
