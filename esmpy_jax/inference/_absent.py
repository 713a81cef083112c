"""Phases that are absent from a bin, as the maps show and the bin by itself does not."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._arrays import as_floats
from .._types import Abundances
from ..objective import AbstractRegulariser
from ..solve import Factorisation, GivenStart
from ..solve._pixel_quadratics import symmetric
from ._bins import Bins
from ._choices import Judged, Parts, Tried, above_lowest, losses_of
from ._held_out import difference
from ._job import FLOOR, Job, floored, purity_penalty, smoothing

#: Nats that are strong evidence.
STRONG = 3.0

#: From this share on a phase is never taken as absent.
MOST_ABSENT = 0.1


def try_absent(
    job: Job,
    parts: Parts,
    bins: Bins,
    found: Judged,
    level: float,
    purity: float,
    max_steps: int,
    given: AbstractRegulariser | None,
) -> tuple[float, Tried]:
    """The level if the held-out counts do not clearly object to it, else 0, and both losses.

    They object when it is worse by two standard errors and by three nats (strong evidence after
    Kass & Raftery, J. Am. Stat. Assoc. 90 (1995) 773). No level (0) means the candidate as it is,
    with its own purity.
    """
    candidate = found.candidate
    regulariser = smoothing(found.smoothness or 0.0) if given is None else given
    maps = found.maps
    if parts.window is not None:
        start = bins.at_full_resolution(candidate.fit.abundances, candidate.factor, FLOOR)
        maps = job.maps(parts.train, candidate.fit, start, regulariser).abundances
    if job.is_late:
        return 0.0, ()
    fit = refit(job, bins, candidate.fit, maps, candidate.factor, purity, level, max_steps)
    new = job.maps(parts.to_fit, fit, parts.cut(floored(maps)), regulariser).abundances
    losses = [losses_of(parts.to_judge, fit, new), found.losses]
    worse, error = difference(*losses)
    objected = worse > max(2 * error, STRONG)
    return 0.0 if objected else level, above_lowest((level, 0.0), losses)


def refit(
    job: Job,
    bins: Bins,
    fit: Factorisation,
    maps: Abundances,
    factor: int,
    purity: float,
    level: float,
    max_steps: int,
) -> Factorisation:
    """The binned fit again, without the phases that the maps show to be absent from a bin.

    Phases hold together in space, which the maps know and a bin by itself does not: with noise
    its shares are positive where there is nothing, and spectra would be pushed apart to make up
    for it. A share of the maps counts as none below `level` standard errors of the bin's own
    share (see `share_errors`), but never from a tenth on, nor if it is the largest of the bin.
    """
    shares = bins.means(maps, factor)
    least = np.minimum(level * share_errors(fit, shares), MOST_ABSENT)
    absent = (shares < least) & (shares < shares.max(0))
    kept = np.where(absent, 0.0, np.maximum(shares, 1e-3))
    start = GivenStart(fit.weights, kept / kept.sum(0))
    counts = fit.problem.counts
    penalty = purity_penalty(purity, counts)
    return job.binned(counts, start, penalty, max_steps, absent, resume=True)


def share_errors(
    fit: Factorisation, shares: Float[np.ndarray, "phase bin"]
) -> Float[np.ndarray, "phase bin"]:
    """Standard error of each share of a bin against its largest, all others held.

    It is `1 / sqrt(v' A v)` with `v` the exchange of the two phases and `A` the information that
    the bin's counts hold on its abundances, at the given shares.
    """
    h = as_floats(np.maximum(shares, 1e-4))
    a = np.asarray(_share_information(fit.problem, fit.weights, h), np.float64)
    largest, bins = shares.argmax(0), np.arange(shares.shape[1])
    own = np.einsum("aab->ab", a)
    known = own - 2 * a[:, largest, bins] + own[largest, bins]
    # for the largest itself, and for phases that cannot be told apart, nothing is known
    return np.where(known > 1e-6 * own.max(0), 1 / np.sqrt(np.maximum(known, 1e-300)), np.inf)


@eqx.filter_jit
def _share_information(problem, weights, abundances):
    """The information that the counts of each bin hold on its abundances (phase, phase, bin)."""
    endmembers = problem.basis.endmembers(weights)
    _, second = problem.counts.pixel_moments(endmembers, abundances)
    return symmetric(second, jnp.zeros_like(abundances))
