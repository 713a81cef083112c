"""W fitted again to pixels pooled by the maps, without the phases that are absent from a pool."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .._arrays import as_floats
from .._seldom import seldom_run
from .._types import Abundances, Endmembers
from ..objective import AbstractCounts, AbstractRegulariser, exposure_or_one
from ..solve import Factorisation, GivenStart
from ..solve._pixel_quadratics import symmetric
from ._bins import Bins
from ._choices import Judged, Parts, Tried, above_lowest, losses_of
from ._held_out import difference
from ._job import FLOOR, Job, floored, purity_penalty
from ._pools import ENOUGH, pure_counts

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
    least: float,
    max_steps: int,
    given: AbstractRegulariser | None,
) -> tuple[float, Tried, Abundances]:
    """The level if the held-out counts do not clearly object to it, else 0, and both losses.

    They object when it is worse by two standard errors and by three nats (strong evidence after
    Kass & Raftery, J. Am. Stat. Assoc. 90 (1995) 773). No level (0) means the candidate as it is.
    Also returns the maps of the whole image by which its pixels are pooled.
    """
    candidate = found.candidate
    strength = found.smoothness or 0.0
    maps = found.maps
    if parts.window is not None:
        start = bins.at_full_resolution(candidate.fit.abundances, candidate.factor, FLOOR)
        everywhere = parts.smoothing(strength, everywhere=True) if given is None else given
        maps = job.maps(parts.train, candidate.fit, start, everywhere, roughly=True).abundances
    if job.is_late:
        return 0.0, (), maps
    purities = least, candidate.purity
    fit = refit(job, bins, parts.train, candidate.fit, maps, level, purities, max_steps)
    regulariser = parts.smoothing(strength) if given is None else given
    new = job.maps(parts.to_fit, fit, parts.cut(floored(maps)), regulariser).abundances
    losses = [losses_of(parts.to_judge, fit, new), found.losses]
    worse, error = difference(*losses)
    objected = worse > max(2 * error, STRONG)
    return 0.0 if objected else level, above_lowest((level, 0.0), losses), maps


def refit(
    job: Job,
    bins: Bins,
    counts: AbstractCounts,
    fit: Factorisation,
    maps: Abundances,
    level: float,
    purities: tuple[float, float],
    max_steps: int,
) -> Factorisation:
    """W and the shares of pixels that are pooled by their maps, from the W of a fit.

    Square bins mix what lies beside each other, and the spectra take a part of that mixture on;
    pools are as pure as their pixels. Phases hold together in space, which the maps know and a pool
    by itself does not: with noise its shares are positive where there is nothing, and spectra would
    be pushed apart to make up for it. So a share of the maps counts as none below `level` standard
    errors of the pool's own share (see `share_errors`), but never from a tenth on, nor if it is the
    largest of the pool.

    - `purities`: strength of the penalty on small shares where each phase has nearly pure pools,
        and where one has none: there the counts of the pools cannot tell mixtures either.

    This is done once: pools are chosen by maps of the same counts, which pushes the spectra apart a
    little, the more the more often it is done.
    """
    pools, shares = bins.pooled(counts, np.asarray(maps))
    errors = share_errors(pools, fit.basis.endmembers(fit.weights), shares)
    absent = is_absent(shares, errors, level)
    kept = np.where(absent, 0.0, np.maximum(shares, 1e-3))
    start = GivenStart(fit.weights, kept / kept.sum(0))
    penalty = pool_penalty(pools, shares, purities)
    return job.binned(pools, start, penalty, max_steps, absent, resume=True)


def is_absent(
    shares: Float[np.ndarray, "phase pool"], errors: Float[np.ndarray, "phase pool"], level: float
) -> Bool[np.ndarray, "phase pool"]:
    """Where a share counts as none: below `level` errors and a tenth, and not the largest."""
    least = np.minimum(level * errors, MOST_ABSENT) if level > 0 else 0.0
    return (shares < least) & (shares < shares.max(0))


def pool_penalty(
    pools: AbstractCounts, shares: Float[np.ndarray, "phase pool"], purities: tuple[float, float]
) -> AbstractRegulariser:
    """The penalty on small shares; see `refit` for `purities`."""
    anchored = (pure_counts(pools, shares) >= ENOUGH).all()
    return purity_penalty(purities[0 if anchored else 1], pools, regional=0.0)


def share_errors(
    counts: AbstractCounts, endmembers: Endmembers, shares: Float[np.ndarray, "phase pool"]
) -> Float[np.ndarray, "phase pool"]:
    """Standard error of each share of a pool against its largest, all others held.

    It is `1 / sqrt(v' A v)` with `v` the exchange of the two phases and `A` the information that
    the pool's counts hold on its abundances, at the given shares.
    """
    h = as_floats(np.maximum(shares, 1e-4))
    return errors_by(np.asarray(_share_information(counts, endmembers, h), np.float64), shares)


def errors_by(
    information: Float[np.ndarray, "phase phase pool"], shares: Float[np.ndarray, "phase pool"]
) -> Float[np.ndarray, "phase pool"]:
    """The same from the information A."""
    a = information
    largest, pools = shares.argmax(0), np.arange(shares.shape[1])
    own = np.einsum("aab->ab", a)
    known = own - 2 * a[:, largest, pools] + own[largest, pools]
    # for the largest itself, and for phases that cannot be told apart, nothing is known
    return np.where(known > 1e-6 * own.max(0), 1 / np.sqrt(np.maximum(known, 1e-300)), np.inf)


@seldom_run
def _share_information(counts, endmembers, abundances):
    """The information that the counts of each pool hold on its abundances (phase, phase, pool)."""
    _, second = counts.pixel_moments(endmembers, abundances, exposure_or_one(counts))
    return symmetric(second, jnp.zeros_like(abundances))
