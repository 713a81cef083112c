"""Counts drawn from recorded counts: bootstraps, and two halves of one image.

Nothing is drawn where nothing was recorded, so the result keeps the shape of the storage: zeros may
stay in places of `SparseCounts` that held counts, where they add nothing to any sum. All draws of
one image then share their compiled code, and as objects all arrays but the values.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Integer, Key

from .._checks import InputError
from .._seldom import seldom_run
from ._blocks import Blocks
from ._counts import AbstractCounts
from ._dense import DenseCounts
from ._sparse import SparseCounts
from ._triplets import increasing, order_of

#: Up to this value photons are drawn one by one, which is simpler and faster than binomial numbers.
_FEW = 64

Values = tuple[Integer[Array, "..."], ...]


class Places(eqx.Module):
    """Where each value that `SparseCounts` hold by channel is held by pixel; see `find_places`.

    `first` and `overflow` have the shape of the slots by channel, and index the slots by pixel,
    flat and the overflow behind the first rows. Padding has the place behind the last.
    """

    first: Int[Array, "slot row"]
    overflow: Int[Array, "block_slot block"]


def find_places(counts: AbstractCounts) -> Places | None:
    """The `Places` of sparse counts, found once on the host; dense counts need none.

    Raises `InputError` for counts that are spread over devices.
    """
    if isinstance(counts, DenseCounts):
        return None
    if not isinstance(counts, SparseCounts):
        raise InputError(
            "Counts that are spread over devices cannot be drawn from; draw before `shard`."
        )
    n_slots = sum(v.size for v in _values(counts.by_pixel))
    place = np.full(sum(v.size for v in _values(counts.by_channel)), n_slots, np.int32)
    channel, by_pixel = _located(counts.by_pixel)
    _, by_channel = _located(counts.by_channel)
    place[by_channel] = by_pixel[order_of(channel)]
    first, overflow = _values(counts.by_channel)
    return Places(
        jnp.asarray(place[: first.size].reshape(first.shape)),
        jnp.asarray(place[first.size :].reshape(overflow.shape)),
    )


def resample(
    counts: AbstractCounts, key: Key[Array, ""], *, places: Places | None = None
) -> AbstractCounts:
    """A bootstrap: each count Y becomes an independent draw from Poisson(Y).

    It is the bootstrap over recorded photons (Efron, Ann. Statist. 7 (1979) 1) with a Poisson
    number of them, so that channels and pixels stay independent. What is fitted to many such draws
    scatters about the fit of the image as that does about the truth, without a model of the
    counts. Mean and variance of each draw are Y; where no count was recorded none is drawn.

    - `places`: of sparse counts, from `find_places`, which is called where they are not given.
        Give them to draw more than once and within `jit`.

    Draws are stored in the next wider type, as they may exceed the largest count.
    """

    def draw(values):
        wider = jnp.uint16 if values.dtype == jnp.uint8 else jnp.uint32
        return (_poisson(key, values).astype(wider),)

    return _drawn(counts, places, draw)[0]


def thin(
    counts: AbstractCounts,
    share: float | Float[Array, ""],
    key: Key[Array, ""],
    *,
    places: Places | None = None,
) -> tuple[AbstractCounts, AbstractCounts]:
    """Each recorded photon goes to the first result with probability `share`, else to the second.

    Both add up to `counts`. If those are Poisson with mean m, the two are independent and Poisson
    with means `share m` and `(1 - share) m` (Kingman, *Poisson Processes*, 1993, chapter 5), so
    that one can judge what was fitted to the other. The exposure is not changed: the share of the
    dose that a result has is part of its W H.

    - `places`: as in `resample`.
    """

    def split(values):
        first = _divided(key, values, jnp.asarray(share, float)).astype(values.dtype)
        return first, values - first

    first, second = _drawn(counts, places, split)
    return first, second


def _drawn(counts, places, draw):
    """Counts with the new values that `draw` makes of the flat ones, in the order by pixel."""
    if isinstance(counts, DenseCounts):
        new = draw(counts.values)
        return tuple(eqx.tree_at(lambda c: c.values, counts, v) for v in new)
    pixels_alone = isinstance(counts, SparseCounts) and counts.by_channel is None
    if places is None and not pixels_alone:
        places = find_places(counts)
    old = _values(counts.by_pixel)
    shapes = old[0].shape, old[1].shape
    new = draw(jnp.concatenate([v.ravel() for v in old]))
    if pixels_alone:  # as `for_pixels` leaves them
        own = lambda c: _values(c.by_pixel)  # noqa: E731
        return tuple(eqx.tree_at(own, counts, _by_pixel(v, *shapes)) for v in new)
    return tuple(_with_values(counts, *_both(v, places, *shapes)) for v in new)


@eqx.filter_jit
def _both(flat, places, first, overflow):
    """The values of the slots by pixel, and of those by channel."""
    by_pixel = _cut(flat, first, overflow)
    take = lambda place: jnp.take(flat, place, mode="fill", fill_value=0)  # noqa: E731
    return by_pixel, (take(places.first), take(places.overflow))


@seldom_run
def _by_pixel(flat, first, overflow):
    """The values of the slots by pixel alone."""
    return _cut(flat, first, overflow)


def _cut(flat, first, overflow):
    n_first = first[0] * first[1]
    return flat[:n_first].reshape(first), flat[n_first:].reshape(overflow)


def _values(blocks: Blocks):
    return blocks.first.value, blocks.overflow.value


def _with_values(counts, by_pixel, by_channel):
    return eqx.tree_at(
        lambda c: (*_values(c.by_pixel), *_values(c.by_channel)), counts, (*by_pixel, *by_channel)
    )


def _located(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Partner and place in the flat slots of all nonzero counts, sorted by owner and partner."""
    owners = np.arange(blocks.n_owners), np.asarray(blocks.owner)
    parts, numbers, offset = [], [], 0
    for slots, rows in zip((blocks.first, blocks.overflow), owners, strict=True):
        value = np.ascontiguousarray(np.asarray(slots.value).T)  # row by row
        filled = value > 0
        place = np.add.outer(
            np.arange(len(value), dtype=np.int32),
            offset + len(value) * np.arange(value.shape[1], dtype=np.int32),
        )
        parts.append((np.ascontiguousarray(np.asarray(slots.partner).T)[filled], place[filled]))
        numbers.append(np.bincount(rows, filled.sum(1), minlength=blocks.n_owners).astype(np.int64))
        offset += value.size
    # the counts of an owner lie in its first row, then in its blocks
    total = numbers[0] + numbers[1]
    begin = np.cumsum(total) - total
    out = tuple(np.empty(total.sum(), x.dtype) for x in parts[0])
    for part, number in zip(parts, numbers, strict=True):
        to = np.arange(number.sum()) + np.repeat(begin - (np.cumsum(number) - number), number)
        for whole, own in zip(out, part, strict=True):
            whole[to] = own
        begin = begin + number
    partner, place = out
    owner = np.repeat(np.arange(blocks.n_owners), total)
    if not increasing(owner, partner):
        order = order_of(partner, owner)
        partner, place = partner[order], place[order]
    return partner, place


@jax.jit
def _poisson(key, values):
    return jax.random.poisson(key, values.astype(float), dtype=jnp.int32)


def _divided(key, values, share):
    """Binomial draws, photon by photon where all values are known to be small."""
    if isinstance(values, Tracer) or int(values.max(initial=0)) > _FEW:
        return _binomial(key, values, share)
    return _one_by_one(key, values, share)


@jax.jit
def _one_by_one(key, values, share):
    """One more photon of every value in each round, until none is left."""

    def body(i, taken):
        drawn = jax.random.uniform(jax.random.fold_in(key, i), values.shape) < share
        return taken + (drawn & (i < values)).astype(taken.dtype)

    most = values.max(initial=0).astype(jnp.int32)
    return jax.lax.fori_loop(jnp.zeros_like(most), most, body, jnp.zeros_like(values))


@jax.jit
def _binomial(key, values, share):
    drawn = jax.random.binomial(key, values.astype(float), share)
    return jnp.clip(drawn, 0, values.astype(float))
