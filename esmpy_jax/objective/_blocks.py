"""Nonzero counts in rows of equal length, and the sums over them."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num

#: What an overflow block costs beside its slots, in slots: it is gathered and added to its owner.
_BLOCK_COST = 6


class Slots(eqx.Module):
    """Counts side by side: `value[s, r]` counts that belong to index `partner[s, r]`.

    Padding has value 0, which adds nothing to any sum.
    """

    partner: Integer[Array, "slot row"]
    value: Integer[Array, "slot row"]

    def reduce(
        self,
        own_rows: Sequence[Float[Array, " row"]],
        extra_rows: Sequence[Float[Array, " row"]],
        other: Float[Array, "term partner"],
        terms: Callable,
        n_terms: int,
        largest: bool,
    ) -> list[Float[Array, " row"]]:
        """Sum (or take the largest of) the terms of each row, slot by slot."""
        join = jnp.maximum if largest else jnp.add

        def body(sums, slot):
            partner, value = slot
            rows = [jnp.take(row, partner, mode="clip") for row in other]
            model = sum(a * b for a, b in zip(own_rows, rows, strict=False))
            new = terms(value.astype(other.dtype), model, rows, extra_rows)
            return tuple(join(s, t) for s, t in zip(sums, new, strict=True)), None

        zeros = jnp.zeros(self.value.shape[1], other.dtype)
        return list(jax.lax.scan(body, (zeros,) * n_terms, (self.partner, self.value))[0])

    def totals(self) -> Integer[Array, " row"]:
        """Counts of each row."""
        return self.value.astype(jnp.int32).sum(0)


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
        order = np.argsort(owner, kind="stable")
        owner, partner, value = owner[order], partner[order], value[order]
        number = np.bincount(owner, minlength=n_owners)
        length, block = block_lengths(number) if lengths is None else lengths
        position = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
        index_type = np.uint16 if n_partners < 2**16 else np.int32

        inside = position < length
        first = _slots(
            (length, n_owners),
            (position[inside], owner[inside]),
            partner[inside].astype(index_type),
            value[inside],
        )
        blocks = -(-np.maximum(number - length, 0) // block)
        n_blocks = int(blocks.sum())
        rows = _rounded(n_blocks)
        beyond = position[~inside] - length
        begin = np.cumsum(blocks) - blocks
        overflow = _slots(
            (block, rows),
            (beyond % block, begin[owner[~inside]] + beyond // block),
            partner[~inside].astype(index_type),
            value[~inside],
        )
        owners = np.full(rows, max(n_owners - 1, 0), np.int32)
        owners[:n_blocks] = np.repeat(np.arange(n_owners), blocks)
        return cls(first, overflow, jnp.asarray(owners), n_owners)

    def accumulate(
        self,
        own: Float[Array, "phase owner"],
        other: Float[Array, "row partner"],
        terms: Callable,
        n_terms: int,
        *,
        extra: Float[Array, "row owner"] | None = None,
        largest: bool = False,
    ) -> Float[Array, "term owner"]:
        """Sum (or take the largest of) `terms(counts, model, rows, extra)` over each owner.

        The model is made of the rows of `own` and the first rows of `other`. `terms` gives a list
        of `n_terms` rows; all are summed in one loop that visits a count once and stores nothing
        per count.
        """
        extra = own[:0] if extra is None else extra
        sums = self.first.reduce(own, extra, other, terms, n_terms, largest)
        if not self.owner.size:
            return jnp.stack(sums)
        there = [[jnp.take(row, self.owner, mode="clip") for row in x] for x in (own, extra)]
        beyond = self.overflow.reduce(*there, other, terms, n_terms, largest)
        combine = jax.ops.segment_max if largest else jax.ops.segment_sum
        join = jnp.maximum if largest else jnp.add
        return jnp.stack(
            [join(s, self._to_owners(combine, b)) for s, b in zip(sums, beyond, strict=True)]
        )

    def _to_owners(self, combine, row) -> Num[Array, " owner"]:
        return combine(row, self.owner, self.n_owners, indices_are_sorted=True)

    def totals(self) -> Float[Array, " owner"]:
        """Counts of each owner; summed as integers, so exact up to 2³¹."""
        beyond = self._to_owners(jax.ops.segment_sum, self.overflow.totals())
        return (self.first.totals() + beyond).astype(float)

    def to_triplets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Owner, partner and value of the nonzero counts on the host, sorted by owner."""
        owners = np.arange(self.n_owners), np.asarray(self.owner)
        parts = []
        for slots, rows in zip((self.first, self.overflow), owners, strict=True):
            value = np.asarray(slots.value)
            slot, row = np.nonzero(value)
            parts.append((rows[row], np.asarray(slots.partner)[slot, row], value[slot, row]))
        owner, partner, value = (np.concatenate(x) for x in zip(*parts, strict=True))
        order = np.lexsort((partner, owner))
        return owner[order].astype(np.int64), partner[order].astype(np.int64), value[order]


def _slots(shape, place, partner, value) -> Slots:
    partners, values = np.zeros(shape, partner.dtype), np.zeros(shape, value.dtype)
    partners[place], values[place] = partner, value
    return Slots(jnp.asarray(partners), jnp.asarray(values))


def block_lengths(number: np.ndarray) -> tuple[int, int]:
    """Lengths of the first rows and of the overflow blocks that make all slots the fewest.

    - `number`: of nonzero counts of each owner.
    """
    ladder = [2**i + 2 ** (i - 1) * half for i in range(2, 12) for half in (0, 1)]
    best = None
    for length in ladder:
        block = int(np.clip(length // 4, 4, 64))
        blocks = (-(-np.maximum(number - length, 0) // block)).sum()
        cost = length * len(number) + (block + _BLOCK_COST) * blocks
        if best is None or cost < best[0]:
            best = cost, length, block
    assert best is not None
    return best[1:]


def _rounded(n: int) -> int:
    """`n` and at most 12 % more, so that images alike in size and dose share compiled code."""
    step = 2 ** max(n.bit_length() - 4, 0)
    return -(-n // step) * step
