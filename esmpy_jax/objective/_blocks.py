"""Nonzero counts in rows of equal length, and the sums over them."""

import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num

from .._arrays import on_device
from ._triplets import RUN, increasing, numbers, order_of, rising, runs

#: What an overflow block costs beside its slots, in slots: it is gathered and added to its owner.
_BLOCK_COST = 7

#: Lengths that rows and overflow blocks may have: few, so that images alike choose alike.
_ROWS = tuple(2**i for i in range(2, 12))
_BLOCKS = 8, 64

#: Slots that are summed together; lengths are multiples of it. A few rows of that many slots stay
#: in a processor's nearest cache, and are enough to keep its arithmetic busy.
_CHUNK = 4

#: The same for sums of at most so many terms: measured to be a fifth to a third faster with three
#: to five of them, and slower with nine. Lengths that are not shorter are multiples of it.
_LONG_CHUNK, _FEW_TERMS = 8, 6

#: One array for each phase.
Rows = Sequence[Float[Array, " row"]]


class Slots(eqx.Module):
    """Counts side by side: `value[s, r]` counts that belong to index `partner[s, r]`.

    Padding has value 0, which adds nothing to any sum.
    """

    partner: Integer[Array, "slot row"]
    value: Integer[Array, "slot row"]

    def reduce(
        self,
        own: Rows,
        extra: Rows,
        other: Float[Array, "phase partner"],
        weights: Callable,
        terms: Callable,
        n_terms: int,
        largest: bool,
    ) -> list[Float[Array, " row"]]:
        """The terms of each row, summed over its slots (or the largest of them)."""
        if n_terms == 1:
            return self._one_by_one(own, extra, other, weights, terms, largest)

        def body(sums, part):
            rows, made = _made(part, own, other, weights)
            new = terms(made, rows, [row[None, :] for row in extra])
            return tuple(s + t for s, t in zip(sums, _summed(new), strict=True)), None

        zeros = (jnp.zeros(self.value.shape[1], other.dtype),) * n_terms
        chunks = self._chunks(_LONG_CHUNK if n_terms <= _FEW_TERMS else _CHUNK)
        return list(jax.lax.scan(body, zeros, chunks)[0])

    def _one_by_one(self, own, extra, other, weights, terms, largest):
        """A single term needs nothing in store, and goes slot by slot in one vectorised loop."""
        join = jnp.maximum if largest else jnp.add

        def body(total, slot):
            partner, value = slot
            rows = [jnp.take(row, partner, mode="clip") for row in other]
            model = sum(a * b for a, b in zip(own, rows, strict=True))
            made = weights(value.astype(other.dtype), model)
            return join(total, terms(made, rows, extra)[0]), None

        zeros = jnp.zeros(self.value.shape[1], other.dtype)
        return [jax.lax.scan(body, zeros, (self.partner, self.value))[0]]

    def reduce_outer(
        self,
        own: Rows,
        other: Float[Array, "phase partner"],
        weights: Callable,
        terms: Callable,
        table: Float[Array, "column partner"],
    ) -> Float[Array, "column term row"]:
        """The products of every term with every column of the table, summed over the slots."""

        def body(sums, part):
            rows, made = _made(part, own, other, weights)
            new = jax.lax.optimization_barrier(terms(made, rows, ()))

            def column(_, values):
                at = jnp.take(values, part[0], mode="clip")
                return _, jnp.stack(_summed([t * at for t in new]))

            return sums + jax.lax.scan(column, None, table)[1], None

        shape = len(table), len(other) + 1, self.value.shape[1]
        return jax.lax.scan(body, jnp.zeros(shape, other.dtype), self._chunks())[0]

    def sums(self, function: Callable) -> Float[Array, " row"]:
        """A function of each count, zero for zero, summed over the slots of each row."""
        add = lambda total, value: (total + function(value.astype(total.dtype)), None)  # noqa: E731
        return jax.lax.scan(add, jnp.zeros(self.value.shape[1]), self.value)[0]

    def _chunks(self, size=_CHUNK):
        size = min(size, len(self.value))
        return tuple(x.reshape(-1, size, x.shape[1]) for x in (self.partner, self.value))

    def totals(self) -> Integer[Array, " row"]:
        """Counts of each row."""
        return self.value.astype(jnp.int32).sum(0)


def _made(part, own, other, weights):
    """Rows of `other` at some slots, and the weights there, held in store.

    The compiler would otherwise compute gathers and quotients again for each of the sums.
    """
    partner, value = part
    rows = [jnp.take(row, partner, mode="clip") for row in other]
    model = sum(a[None, :] * b for a, b in zip(own, rows, strict=True))
    return rows, jax.lax.optimization_barrier(weights(value.astype(other.dtype), model))


def _summed(terms):
    """The sums of several terms over the slots in one loop, so that what they share is shared."""
    zeros = [jnp.zeros((), terms[0].dtype)] * len(terms)
    add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]  # noqa: E731
    return jax.lax.reduce(terms, zeros, add, (0,))


class Blocks(eqx.Module):
    """Nonzero counts grouped by owner (a pixel or a channel).

    The first counts of every owner lie in `first`, one row an owner. What does not fit there lies
    in blocks of `overflow`, as many as an owner needs, so that one bright pixel costs no memory
    elsewhere.
    """

    first: Slots
    overflow: Slots
    owner: Integer[Array, " block"]  # of each overflow block
    n_owners: int = eqx.field(static=True)

    @classmethod
    def pack(
        cls,
        owner: np.ndarray,
        partner: np.ndarray,
        value: np.ndarray,
        n_owners: int,
        n_partners: int,
        lengths: tuple[int, int] | None = None,
    ) -> "Blocks":
        """Pack triplets, with rows and blocks of `lengths`, by default those of `block_lengths`."""
        number = numbers(owner, n_owners)
        length, block = block_lengths(number) if lengths is None else lengths
        blocks = blocks_needed(number, (length, block))
        n_blocks = int(blocks.sum())
        rows = rounded(n_blocks, n_owners, (length, block))
        index_type = np.uint16 if n_partners < 2**16 else np.int32
        first = _empty((length, n_owners), index_type, value.dtype)
        overflow = _empty((block, rows), index_type, value.dtype)
        starts, begin = np.cumsum(number) - number, np.cumsum(blocks) - blocks

        order = None if rising(owner) else order_of(owner)
        for run in runs(len(owner)):
            picked = run if order is None else order[run]
            own, other, counts = owner[picked], partner[picked], value[picked]
            position = np.arange(run.start, run.stop) - starts[own]
            inside = position < length
            place = position[inside], own[inside]
            first[0][place], first[1][place] = other[inside], counts[inside]
            beyond = position[~inside] - length
            place = beyond % block, begin[own[~inside]] + beyond // block
            overflow[0][place], overflow[1][place] = other[~inside], counts[~inside]
        owners = np.full(rows, max(n_owners - 1, 0), np.int32)
        owners[:n_blocks] = np.repeat(np.arange(n_owners), blocks)
        return cls(_slots(*first), _slots(*overflow), on_device(owners), n_owners)

    @property
    def lengths(self) -> tuple[int, int]:
        """Slots of a first row and of an overflow block."""
        return len(self.first.value), len(self.overflow.value)

    @property
    def n_blocks(self) -> int:
        """Overflow blocks, empty ones included."""
        return len(self.owner)

    def padded(self, n_blocks: int, value_type: np.dtype) -> "Blocks":
        """The same counts in `n_blocks` overflow blocks, the further ones empty."""
        missing = n_blocks - self.n_blocks
        if missing == 0 and value_type == self.first.value.dtype:
            return self
        wide = ((0, 0), (0, missing))
        first, beyond = self.first, self.overflow
        partner = np.pad(np.asarray(beyond.partner), wide)
        value = np.pad(np.asarray(beyond.value).astype(value_type), wide)
        owner = np.full(n_blocks, max(self.n_owners - 1, 0), np.int32)  # they stay sorted
        owner[: self.n_blocks] = np.asarray(self.owner)
        if value_type != first.value.dtype:
            first = Slots(first.partner, on_device(np.asarray(first.value).astype(value_type)))
        return Blocks(first, _slots(partner, value), on_device(owner), self.n_owners)

    def of_owners(self, owners: Integer[np.ndarray, " picked"]) -> "Blocks":
        """The counts of some owners, given in rising order, which are numbered anew."""
        place = np.full(self.n_owners, -1, np.int32)
        place[owners] = np.arange(len(owners), dtype=np.int32)
        owner = place[np.asarray(self.owner)]
        kept = np.flatnonzero(owner >= 0)
        first, overflow = (
            _slots(np.asarray(s.partner)[:, own], np.asarray(s.value)[:, own])
            for s, own in ((self.first, owners), (self.overflow, kept))
        )
        return Blocks(first, overflow, on_device(owner[kept]), len(owners))

    def accumulate(
        self,
        own: Float[Array, "phase owner"],
        other: Float[Array, "phase partner"],
        weights: Callable,
        terms: Callable,
        n_terms: int,
        *,
        extra: Float[Array, "row owner"] | None = None,
        largest: bool = False,
    ) -> Float[Array, "term owner"]:
        """Sum (or, for a single term, take the largest of) some terms over each owner's counts.

        `weights(counts, model)` makes what all terms share, a tuple of arrays; `terms(weights,
        rows, extra)` makes `n_terms` arrays of it and of the rows of `other`. A few numbers a row
        are in store at any time, none for every count.
        """
        extra_rows = [] if extra is None else list(extra)
        rest = other, weights, terms, n_terms, largest
        sums = self.first.reduce(list(own), extra_rows, *rest)
        if not self.owner.size:
            return jnp.stack(sums)
        beyond = self.overflow.reduce(self._at_owner(own), self._at_owner(extra_rows), *rest)
        combine = jax.ops.segment_max if largest else jax.ops.segment_sum
        join = jnp.maximum if largest else jnp.add
        return jnp.stack(
            [join(s, self._to_owners(combine, b)) for s, b in zip(sums, beyond, strict=True)]
        )

    def accumulate_outer(
        self,
        own: Float[Array, "phase owner"],
        other: Float[Array, "phase partner"],
        weights: Callable,
        terms: Callable,
        table: Float[Array, "column partner"],
    ) -> Float[Array, "column term owner"]:
        """As `accumulate`, for the products of every term with every column of a table."""
        sums = self.first.reduce_outer(list(own), other, weights, terms, table)
        if not self.owner.size:
            return sums
        beyond = self.overflow.reduce_outer(self._at_owner(own), other, weights, terms, table)
        flat = beyond.reshape(-1, beyond.shape[-1]).T
        return sums + self._to_owners(jax.ops.segment_sum, flat).T.reshape(sums.shape)

    def _at_owner(self, rows) -> list[Float[Array, " block"]]:
        return [jnp.take(row, self.owner, mode="clip") for row in rows]

    def _to_owners(self, combine, row) -> Num[Array, "owner *column"]:
        return combine(row, self.owner, self.n_owners, indices_are_sorted=True)

    def sums(self, function: Callable) -> Float[Array, " owner"]:
        """A function of each count, zero for zero, summed over the counts of each owner."""
        first, beyond = self.first.sums(function), self.overflow.sums(function)
        return first + self._to_owners(jax.ops.segment_sum, beyond)

    @eqx.filter_jit
    def totals(self) -> Float[Array, " owner"]:
        """Counts of each owner; summed as integers, so exact up to 2³¹."""
        beyond = self._to_owners(jax.ops.segment_sum, self.overflow.totals())
        return (self.first.totals() + beyond).astype(float)

    def total(self) -> int:
        """All counts."""
        values = self.first.value, self.overflow.value
        return sum(int(np.asarray(v).sum(dtype=np.int64)) for v in values)

    def in_parts(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Owner, partner and value of the nonzero counts on the host, as they are stored."""
        first = _nonzero(self.first, np.arange(self.n_owners, dtype=np.int32))
        return [first, _nonzero(self.overflow, np.asarray(self.owner))]

    def to_triplets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, partner and value of the nonzero counts on the host, sorted by both."""
        owner, partner, value = (np.concatenate(x) for x in zip(*self.in_parts(), strict=True))
        if increasing(owner, partner):
            return owner, partner, value
        order = order_of(partner, owner)
        return owner[order], partner[order], value[order]


def _empty(shape, index_type, value_type) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(shape, index_type), np.zeros(shape, value_type)


def _slots(partner, value) -> Slots:
    return Slots(on_device(partner), on_device(value))


def _nonzero(slots: Slots, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, partner and value of the nonzero counts, some rows at a time and in their order."""
    values, partners = np.asarray(slots.value), np.asarray(slots.partner)
    step = max(RUN // max(len(values), 1), 1)
    parts = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, values.dtype))]
    for start in range(0, len(rows), step):
        here = slice(start, start + step)
        row, slot = np.nonzero(values[:, here].T)
        partner = partners[slot, start + row].astype(np.int32)
        parts.append((rows[here][row], partner, values[slot, start + row]))
    owner, partner, value = (np.concatenate(x) for x in zip(*parts, strict=True))
    return owner, partner, value


def block_lengths(number: np.ndarray) -> tuple[int, int]:
    """Lengths of the first rows and of the overflow blocks that make all slots the fewest.

    - `number`: of nonzero counts of each owner.
    """
    at_least, owners = np.unique(number, return_counts=True)
    best = None
    for lengths in itertools.product(_ROWS, _BLOCKS):
        blocks = int((blocks_needed(at_least, lengths) * owners).sum())
        cost = storage_cost(len(number), lengths, blocks)
        if best is None or cost < best[0]:
            best = cost, lengths
    assert best is not None
    return best[1]


def blocks_needed(
    number: Integer[np.ndarray, " owner"], lengths: tuple[int, int]
) -> Integer[np.ndarray, " owner"]:
    """How many overflow blocks each owner of so many nonzero counts needs."""
    return -(-np.maximum(number - lengths[0], 0) // lengths[1])


def storage_cost(n_owners: int, lengths: tuple[int, int], n_blocks: int) -> int:
    """What a pass over rows and overflow blocks costs, in slots."""
    return lengths[0] * n_owners + (lengths[1] + _BLOCK_COST) * n_blocks


def rounded(n_blocks: int, n_owners: int, lengths: tuple[int, int]) -> int:
    """So many overflow blocks and at most 12 % more, or 6 % of what the first rows cost.

    Images alike in size and dose then mostly share compiled code.
    """
    spare = lengths[0] * n_owners // (16 * (lengths[1] + _BLOCK_COST))
    step = max(2 ** max(n_blocks.bit_length() - 4, 0), 2 ** max(spare.bit_length() - 1, 0))
    return -(-n_blocks // step) * step
