"""Can it be known? Which mixtures of the phases fit the counts as well as the phases found.

If `d_a` are the spectra of the phases and `h_a` their abundances, then

    d_a' = (1 - t) d_a + t d_b,     h_a' = h_a / (1 - t),     h_b' = h_b - t h_a / (1 - t)

is another factorisation with the same product, whatever t: phase a with some of b mixed in (t > 0)
or taken away (t < 0). Only `x >= 0` can tell them apart. Mixing in ends where h_b' becomes negative
in pixels that hold a without b; taking away ends where a weight of d_a' becomes negative, at an
element that a lacks. With noise both ends are soft: t is allowed as long as the best H for it costs
at most `TOLERANCE` nats more than the best H for t = 0 (a profile likelihood with the other spectra
held). For t > 0 the likelihood of each pixel is taken as the quadratic around its best H, which
leaves a small problem with bounds for every t. Mixtures keep what is known of a phase, its held
entries and its brightness: where that costs more than `TOLERANCE`, t ends earlier. Then all other
phases are mixed in, or taken away, at once, each by the same part of its own limit.

All this is asked of pixels pooled by what the maps say they hold (`pooled_by_shares`).

That nearly pure pixels are pure no likelihood can tell. It is taken for granted of as many of the
purest as are alike (`left_open`); how well their counts alone, taken for pure, tell what is mixed
in is part of the range of compositions, though no ambiguity. How far a phase could be wrong if
its purest pixels are not pure, only the elements that it lacks tell (`hidden_shares`).
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._arrays import as_floats, as_ints, on_device
from .._basis import Basis
from .._seldom import seldom_run
from .._types import Abundances, Endmembers, Scalar, Weights
from ..objective import NoRegulariser, pixel_excess
from ..objective._constraints import brightness_of_each
from ..solve import Factorisation, Problem
from ..solve._abundance_newton import LocalModel, settled_abundances
from ..solve._pixel_quadratics import bounded_minimum, product
from ._anchor import TOLERANCE, judged_pools, left_open, mixtures
from ._pools import ENOUGH, number_of_pools, pooled_by_shares, pure_counts

#: An element of the other phase that is absent: at least the first at% there, at most the second
#: share of that here.
_PRESENT, _ABSENT = 1.0, 0.02

#: Change of a composition in at% from which the mixtures matter.
MATTERS = 5.0

#: Range of an element's at%, for whatever reason, from which a composition is not determined.
WIDE = 20.0

#: Shares mixed in that are tried.
_INWARD = np.geomspace(1e-3, 0.9, 36)

#: Largest sum of several shares mixed in.
_ALL_IN = 0.9

#: Newton steps on H where something is taken away, the largest share of it, and the halvings of the
#: logarithmic interval that leads there from the least.
_STEPS, _MOST, _HALVINGS, _LEAST = 3, 2.0, 5, 1e-3


@dataclasses.dataclass(frozen=True)
class Ambiguity:
    """What the counts leave open about one phase.

    - `pure_counts`: share of all counts in pixels that are nearly pure in it.
    - `mixed_in`, `taken_away`: for each other phase the largest t and the largest -t that fit; the
        second only for a phase without nearly pure pixels.
    - `lacking`: elements that another phase has and this one has not.
    - `change`, `changed`: the largest change of an element's at% over all those mixtures, and which
        element that is.
    - `anchor_counts`: share of all counts in the purest pixels that are alike.
    - `unsettled`: for each other phase the shares of it, from taken away (negative) to mixed in,
        that those pixels, taken for pure, leave open; zeros for a phase without any.
    - `low`, `high`: at% over the mixtures and over what is unsettled (element,).
    """

    pure_counts: float
    mixed_in: tuple[float, ...]
    taken_away: tuple[float, ...]
    lacking: tuple[int, ...]
    change: float
    changed: int
    anchor_counts: float
    unsettled: tuple[tuple[float, float], ...]
    low: Float[np.ndarray, " element"]
    high: Float[np.ndarray, " element"]

    def ordered(self, order: np.ndarray) -> "Ambiguity":
        """The same with the other phases in another order."""
        fields = ("mixed_in", "taken_away", "unsettled")
        new = {f: tuple(getattr(self, f)[b] for b in order) for f in fields}
        return dataclasses.replace(self, **new)

    def record(self) -> dict[str, Any]:
        """As plain values, for storage."""
        return {
            "pure_counts": self.pure_counts,
            "mixed_in": self.mixed_in,
            "taken_away": self.taken_away,
            "lacking": self.lacking,
            "change": self.change,
            "changed": self.changed,
            "anchor_counts": self.anchor_counts,
            "unsettled": self.unsettled,
            "determined": self.is_determined,
        }

    @property
    def has_pure_pixels(self) -> bool:
        """Whether nearly pure pixels hold enough counts to anchor the phase."""
        return self.pure_counts >= ENOUGH

    @property
    def is_determined(self) -> bool:
        """Whether no mixture changes the composition by `MATTERS` or more."""
        return self.change < MATTERS


def ambiguities(
    fit: Factorisation,
    composition: Callable[[np.ndarray], Float[np.ndarray, "element phase"]],
    known: Bool[np.ndarray, "column phase"] | None = None,
    *,
    key: PRNGKeyArray | None = None,
) -> tuple[Ambiguity, ...]:
    """The ambiguity of each phase.

    - `fit`: of the image, with abundances that sum to one; its likelihood alone is asked, without
        penalties.
    - `composition`: at% of each phase from W.
    - `known`: True for the entries of W that were given; no mixture changes them, nor the
        brightness of a phase where the constraint of the fit has one for each.
    - `key`: of the draw by which the counts are halved (see `judged_pools`); `jax.random.key(0)` by
        default.
    """
    weights = np.asarray(fit.weights, np.float64)
    n = weights.shape[1]
    whole = fit.problem.counts
    counts, start = pooled_by_shares(
        whole, np.asarray(fit.abundances), number_of_pools(whole.total)
    )
    problem = eqx.tree_at(
        lambda p: (p.counts, p.regulariser, p.fixed_abundances),
        fit.problem,
        (counts, NoRegulariser(), None),
        is_leaf=lambda x: x is None,
    )
    spectra = fit.basis.endmembers(fit.weights)
    found = composition(weights)
    base, abundances, model = _settled(problem, spectra, start)

    bright = brightness_of_each(fit.problem.constraint)
    held = None if known is None or not known.any() else on_device(known)

    def cost(a: int, t: np.ndarray, knowing: bool = True) -> float:
        numbers = as_ints(a), as_floats(t)  # arrays: one program for all of them
        more = (held, bright) if knowing else (None, None)
        other = mixture(fit.basis, fit.weights, spectra, abundances, *numbers, *more)
        return float(_settled(problem, *other)[0]) - float(base)

    def of_knowing(a: int, t: np.ndarray) -> float:
        return cost(a, t) - cost(a, t, knowing=False)

    shares = np.asarray(abundances)
    pure, total = pure_counts(counts, shares), max(float(counts.total), 1.0)
    judged = None
    if (pure >= ENOUGH).any():
        judged = judged_pools(fit, number_of_pools(whole.total), jr.key(0) if key is None else key)
    out = []
    for a in range(n):
        anchored = bool(pure[a] >= ENOUGH)
        inward, outward = np.zeros(n), np.zeros(n)
        unsettled, settled = np.zeros((n, 2)), np.zeros(n)
        lacking: set[int] = set()

        def percent(t: np.ndarray, a: int = a) -> np.ndarray:
            new = weights.copy()
            new[:, a] = np.maximum((1 - t.sum()) * weights[:, a] + weights @ t, 0.0)
            return composition(new if known is None else np.where(known, weights, new))[:, a]

        others = [b for b in range(n) if b != a]
        informed = bright is not None or (known is not None and bool(known[:, a].any()))
        for b in others:
            inward[b] = _mixed_in(model, abundances, a, b)
            if informed and inward[b] > 0:
                most = inward[b] * np.eye(n)[b]
                inward[b] *= _part(lambda s, a=a, most=most: of_knowing(a, s * most))
            if anchored and judged is not None:
                spectra_of = mixtures(fit.basis, weights, np.asarray(spectra, np.float64), a, b)
                settled[b], *unsettled[b] = left_open(spectra_of, judged, a, pure[a] * total)
            else:
                outward[b] = _furthest(lambda s, a=a, b=b: cost(a, -s * np.eye(n)[b]))
            there = found[:, b] >= _PRESENT
            lacking |= set(np.flatnonzero(there & (found[:, a] <= _ABSENT * found[:, b])).tolist())
        one = np.eye(n)
        seen = [
            found[:, a],
            *(percent(t * one[b]) for b in others for t in (inward[b], -outward[b])),
        ]
        for several in (inward * min(1.0, _ALL_IN / max(inward.sum(), _ALL_IN)), -outward):
            if np.count_nonzero(several) > 1:
                part = _part(lambda s, a=a, several=several: cost(a, s * several))
                seen.append(percent(part * several))
        spread = np.ptp(np.stack(seen), axis=0)
        seen += [percent(t * one[b]) for b in others for t in unsettled[b]]
        out.append(
            Ambiguity(
                float(pure[a]),
                tuple(inward.tolist()),
                tuple(outward.tolist()),
                tuple(sorted(lacking)),
                float(spread.max(initial=0.0)),
                int(np.argmax(spread)),
                min((settled[b] / total for b in others), default=0.0),
                tuple((low, high) for low, high in unsettled.tolist()),
                np.stack(seen).min(0),
                np.stack(seen).max(0),
            )
        )
    return tuple(out)


def verdicts(
    ambiguities: Sequence[Ambiguity],
    width: Float[np.ndarray, "element phase"],
    barren: Bool[np.ndarray, " phase"],
    converged: bool,
) -> list[int]:
    """Of each phase whether its composition is determined (1), open (0) or not known (-1).

    Open are those that mixtures change by `MATTERS`, and those of which an element's range is
    `WIDE`, or `MATTERS` to either side where the phase nowhere fills a pixel. Nothing is known
    where the fit did not converge, of phases without elements (`barren`), and where a range is not
    finite.

    - `width`: of the ranges in at%.
    """
    out = []
    for a, phase in enumerate(ambiguities):
        widest = float(width[:, a].max(initial=0.0))
        if not converged or barren[a] or not np.isfinite(widest):
            out.append(-1)
        else:
            most = WIDE if phase.has_pure_pixels else 2 * MATTERS
            out.append(int(phase.is_determined and widest < most))
    return out


def hidden_shares(
    fractions: Float[np.ndarray, "element phase"], errors: Float[np.ndarray, "element phase"]
) -> Float[np.ndarray, "phase other"]:
    """The largest share of its atoms that each phase could have from another one, in every pixel.

    `t = min_j (x_ja + z s_ja) / (x_jb - z s_jb)` over the elements j that phase b surely has, at
    most 1, where z makes it an upper limit of 95 % for all elements together (Bonferroni). The
    other phase is taken as found. Zero on the diagonal and for phases without atoms.

    - `fractions`, `errors`: atomic fractions x and their standard errors s.
    """
    z = statistics.NormalDist().inv_cdf(1 - 0.05 / max(len(fractions), 1))
    most, least = fractions + z * errors, fractions - z * errors
    there = np.asarray(least > 0)
    ratios = most[:, :, None] / np.where(there, least, 1.0)[:, None, :]
    shares = np.where(there[:, None, :], ratios, 1.0).min(0, initial=1.0)
    shares = np.nan_to_num(shares, nan=1.0)
    some = np.atleast_1d(fractions.sum(0) > 0)
    return np.where(some[:, None] & some[None, :] & ~np.eye(len(some), dtype=bool), shares, 0.0)


@seldom_run
def mixture(
    basis: Basis,
    weights: Weights,
    spectra: Endmembers,
    abundances: Abundances,
    a: Int[Array, ""],
    shares: Float[Array, " phase"],
    held: Bool[Array, "column phase"] | None = None,
    bright: Float[Array, " phase"] | None = None,
) -> tuple[Endmembers, Abundances]:
    """Spectra and H with shares of the other phases in phase a, weights cut off at zero.

    The sum of the abundances of a pixel is kept, and none is left at zero.

    - `held`: entries of W that stay; `bright`: what the spectrum of each phase adds up to.
    """
    is_a = jnp.arange(weights.shape[1]) == a
    shares = jnp.where(is_a, 0.0, shares)
    left = 1 - shares.sum()

    def mixed(x):
        one = jnp.where(is_a[None, :], x, 0.0).sum(1, keepdims=True)
        others = (shares[None, :] * x).sum(1, keepdims=True)
        return jnp.where(is_a[None, :], left * one + others, x)

    wanted = mixed(weights)
    new = mixed(spectra) + basis.endmembers(jnp.maximum(-wanted, 0.0))
    if held is not None:
        known = jnp.where(held, weights, jnp.maximum(wanted, 0.0))
        new = jnp.where(is_a[None, :], basis.endmembers(known), new)
    if bright is not None:
        new = jnp.where(is_a[None, :], new * (bright / new.sum(0))[None, :], new)
    h = jnp.where(is_a[:, None], abundances, 0.0).sum(0, keepdims=True) / left
    plain = jnp.where(is_a[:, None], h, abundances - shares[:, None] * h)
    total = abundances.sum(0, keepdims=True)
    plain = jnp.maximum(plain, 1e-4 * total)
    return new, plain * (total / plain.sum(0, keepdims=True))


def _mixed_in(model, abundances, a, b) -> float:
    """The largest share of phase b in phase a that fits: on a coarse grid, then within its step."""
    shares = _INWARD
    for _ in range(2):
        numbers = as_ints(a), as_ints(b), as_floats(shares)  # arrays, as above
        costs = np.asarray(_inward_costs(model, abundances, *numbers))
        n = int(np.argmax(costs > TOLERANCE)) if (costs > TOLERANCE).any() else len(shares)
        if n in (0, len(shares)):
            return float(shares[n - 1]) if n else 0.0
        shares = np.linspace(shares[n - 1], shares[n], len(shares))
    return float(shares[0])


def _furthest(loss: Callable[[float], float]) -> float:
    """The largest share that fits, between 0 and `_MOST`."""
    if loss(_MOST) <= TOLERANCE:
        return _MOST
    if loss(_LEAST) > TOLERANCE:
        return 0.0
    low, high = np.log(_LEAST), np.log(_MOST)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if loss(float(np.exp(middle))) <= TOLERANCE:
            low = middle
        else:
            high = middle
    return float(np.exp(low))


def _part(loss: Callable[[float], float]) -> float:
    """The largest part that fits, between 0 and 1."""
    if loss(1.0) <= TOLERANCE:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if loss(middle) <= TOLERANCE else (low, middle)
    return low


@eqx.filter_jit
def _settled(
    problem: Problem, spectra: Endmembers, abundances: Abundances
) -> tuple[Scalar, Abundances, LocalModel]:
    """Nats above a perfect fit with the best H for these spectra, that H, and the model there."""
    best, model, _ = settled_abundances(problem, spectra, abundances, _STEPS)
    return pixel_excess(problem.counts, spectra, best).sum(), best, model


@seldom_run
def _inward_costs(model, abundances, a, b, shares):
    """Nats that it costs to mix a share of phase b into phase a, for each of some shares."""
    is_a, is_b = (jnp.arange(len(abundances)) == i for i in (a, b))
    eye = jnp.eye(len(abundances), dtype=abundances.dtype)
    at_aa, at_ba = is_a[:, None] & is_a[None, :], is_b[:, None] & is_a[None, :]
    total = abundances.sum(0, keepdims=True)

    def cost(t):
        to_old = jnp.where(at_aa, 1 - t, jnp.where(at_ba, t, eye))  # h = T h'
        to_new = jnp.where(at_aa, 1 / (1 - t), jnp.where(at_ba, -t / (1 - t), eye))
        start = jnp.maximum(_dot(to_new, abundances), 0.0)
        start = start * (total / start.sum(0, keepdims=True))
        change = _dot(to_old, start) - abundances
        matrix = jnp.einsum("ca,cdp,db->abp", to_old, model.matrix, to_old, precision="highest")
        gradient = _dot(to_old.T, model.gradient + product(model.matrix, change))
        best = bounded_minimum(matrix, gradient, start, model.free, model.summed)
        moved = _dot(to_old, best) - abundances
        return -model.decrease(moved).sum()

    return jax.lax.map(cost, shares)


def _dot(left, right):
    return jnp.matmul(left, right, precision="highest")
