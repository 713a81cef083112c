"""Nonzero counts in blocks of equal length, and the sums over them."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num


class Blocks(eqx.Module):
    """Nonzero counts grouped by owner (a pixel or a channel) and cut into blocks of equal length.

    An owner with many nonzeros simply has many blocks, so one bright pixel costs no memory
    elsewhere. Padding has value 0, which adds nothing to any pass.
    """

    partner: Integer[Array, "slot block"]  # index on the other axis
    value: Integer[Array, "slot block"]
    owner: Integer[Array, " block"]
    n_owners: int = eqx.field(static=True)

    @classmethod
    def pack(
        cls,
        owner: np.ndarray,
        partner: np.ndarray,
        value: np.ndarray,
        n_owners: int,
        n_partners: int,
    ) -> "Blocks":
        """Pack triplets; the block length follows the mean number of nonzeros of an owner.

        Measured on one image of 16384 pixels: 4 is best at 18 nonzeros per owner, 32 at 150-250
        and 256-512 at 2000; a sixth of the mean, as a power of two, follows that.
        """
        order = np.argsort(owner, kind="stable")
        owner, partner, value = owner[order], partner[order], value[order]
        number = np.bincount(owner, minlength=n_owners)
        mean = len(owner) / max(n_owners, 1)
        length = int(np.clip(2 ** np.round(np.log2(max(mean, 1.0) / 6)), 4, 512))
        n_blocks = -(-number // length)
        first_entry = np.concatenate([[0], np.cumsum(number)[:-1]])
        first_block = np.concatenate([[0], np.cumsum(n_blocks)[:-1]])
        position = np.arange(len(owner)) - first_entry[owner]
        total = _rounded(max(int(n_blocks.sum()), 1))
        index_type = np.uint16 if n_partners < 2**16 else np.int32
        partners = np.zeros((length, total), index_type)
        values = np.zeros((length, total), value.dtype)
        where = (position % length, first_block[owner] + position // length)
        partners[where], values[where] = partner, value
        owners = np.full(total, max(n_owners - 1, 0), np.int32)
        owners[: n_blocks.sum()] = np.repeat(np.arange(n_owners), n_blocks)
        return cls(jnp.asarray(partners), jnp.asarray(values), jnp.asarray(owners), n_owners)

    def accumulate(
        self,
        own: Float[Array, "phase owner"],
        other: Float[Array, "row partner"],
        terms: Callable,
        *,
        extra: Float[Array, "row owner"] | None = None,
        largest: bool = False,
    ) -> Float[Array, "term owner"]:
        """Sum (or take the largest of) `terms(counts, model, rows, extra)` over each owner.

        The model is made of the rows of `own` and the first rows of `other`. `terms` gives a list
        of (slot, block) arrays; all are reduced in one loop that visits a count once and stores
        nothing per count.
        """
        own_rows = [jnp.take(row, self.owner, mode="clip") for row in own]
        rows = [jnp.take(row, self.partner, mode="clip") for row in other]
        more = () if extra is None else [jnp.take(row, self.owner, mode="clip") for row in extra]
        model = sum(a[None, :] * b for a, b in zip(own_rows, rows, strict=False))
        new = terms(self.value.astype(own.dtype), model, rows, [row[None, :] for row in more])
        zeros = [jnp.zeros((), own.dtype)] * len(new)
        if len(new) == 1:
            sums = [new[0].max(0, initial=0.0) if largest else new[0].sum(0)]
        else:
            sums = jax.lax.reduce(
                new, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0,)
            )
        if largest:
            return jnp.maximum(self._segments(jax.ops.segment_max, sums), 0.0)
        return self.per_owner(sums)

    def per_owner(self, rows: Sequence) -> Num[Array, "term owner"]:
        """Add up the blocks of each owner."""
        return self._segments(jax.ops.segment_sum, rows)

    def _segments(self, reduce, rows):
        return jnp.stack(
            [reduce(row, self.owner, self.n_owners, indices_are_sorted=True) for row in rows]
        )

    def totals(self) -> Float[Array, " owner"]:
        """Counts of each owner; summed as integers, so exact up to 2³¹."""
        return self.per_owner([self.value.astype(jnp.int32).sum(0)])[0].astype(float)


def _rounded(n: int) -> int:
    """`n` and at most 3 % more, so that images alike in size and dose share compiled code."""
    step = 2 ** max(n.bit_length() - 6, 0)
    return -(-n // step) * step
