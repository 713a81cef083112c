"""How counts are stored, and the two passes over them that every solver is made of.

The model is Y = D H with D of shape (channel, phase) and H of shape (phase, pixel), times the
exposure of each pixel where there is one. A pass never makes an array of size channel × pixel:
sparse counts visit their nonzeros only, dense counts go tile by tile.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float, Integer, Num

from .._checks import check
from .._types import Abundances, Endmembers


def tiny(dtype) -> float:
    """Smallest model value that counts are divided by; 2³¹ counts over it do not overflow.

    The likelihood takes the logarithm of this where the model is smaller, so that such a count,
    which the model cannot explain, gives a finite loss and no gradient.
    """
    return float(jnp.finfo(dtype).tiny) * 2.0**30


class AbstractCounts(eqx.Module):
    """Integer counts of a spectrum image, of shape (pixel, channel) in some storage.

    - `scan_shape`: shape of the scan, (y, x) for an image; its product is the number of pixels.
    - `exposure`: known relative dose of each pixel, or `None` where all are equal; the expected
        counts are `exposure[p] * (G W H)[:, p]`.
    """

    scan_shape: AbstractVar[tuple[int, ...]]
    n_channels: AbstractVar[int]
    exposure: AbstractVar[Float[Array, " pixel"] | None]

    @abc.abstractmethod
    def pixel_pass(
        self, endmembers: Endmembers, abundances: Abundances
    ) -> Float[Array, "phase pixel"]:
        """`sum_c Y[c, p] / (D H)[c, p] * D[c, a]` for every phase a and pixel p."""

    @abc.abstractmethod
    def channel_pass(
        self, endmembers: Endmembers, abundances: Abundances
    ) -> Float[Array, "channel phase"]:
        """`sum_p Y[c, p] / (D H)[c, p] * H[a, p]` for every channel c and phase a."""

    @abc.abstractmethod
    def log_pass(self, endmembers: Endmembers, abundances: Abundances) -> Float[Array, " pixel"]:
        """`sum_c Y[c, p] log (D H)[c, p]` for every pixel p."""

    @abc.abstractmethod
    def log_ratio_pass(
        self, endmembers: Endmembers, abundances: Abundances
    ) -> Float[Array, " pixel"]:
        """`sum_c Y[c, p] log (Y / (D H))[c, p]` for every pixel p, without cancellation."""

    @abc.abstractmethod
    def sum_spectrum(self) -> Float[Array, " channel"]:
        """Counts of each channel summed over the pixels."""

    @abc.abstractmethod
    def pixel_totals(self) -> Float[Array, " pixel"]:
        """Counts of each pixel summed over the channels."""

    @abc.abstractmethod
    def to_coo(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nonzero counts on the host: pixel, channel and value, sorted by pixel."""

    @property
    def n_pixels(self) -> int:
        """Number of pixels of the scan."""
        return int(np.prod(self.scan_shape))

    @property
    def total(self) -> int:
        """Number of counts in the image."""
        return int(self.to_coo()[2].sum(dtype=np.int64))

    @property
    def is_sparse(self) -> bool:
        """Whether only the nonzero counts are stored."""
        return isinstance(self, SparseCounts)

    def to_dense(self) -> Integer[np.ndarray, "pixel channel"]:
        """All counts as a NumPy array; for figures and tests, not for large images."""
        pixel, channel, value = self.to_coo()
        out = np.zeros((self.n_pixels, self.n_channels), value.dtype)
        out[pixel, channel] = value
        return out


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
        length: int | None = None,
    ) -> "Blocks":
        """Pack triplets into blocks of `length`, by default that of `block_length`."""
        order = np.argsort(owner, kind="stable")
        owner, partner, value = owner[order], partner[order], value[order]
        number = np.bincount(owner, minlength=n_owners)
        if length is None:
            length = block_length(len(owner) / max(n_owners, 1))
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
        other: Float[Array, "phase partner"],
        terms: Callable,
        n_terms: int,
    ) -> Float[Array, "term owner"]:
        """Sum `terms(counts, model, other_rows)` over the nonzeros of each owner."""
        own_rows = [jnp.take(row, self.owner, mode="clip") for row in own]

        def body(sums, slot):
            partner, value = slot
            rows = [jnp.take(row, partner, mode="clip") for row in other]
            model = sum(a * b for a, b in zip(own_rows, rows, strict=True))
            new = terms(value.astype(own.dtype), model, rows)
            return tuple(s + t for s, t in zip(sums, new, strict=True)), None

        zeros = (jnp.zeros(self.owner.shape, own.dtype),) * n_terms
        sums, _ = jax.lax.scan(body, zeros, (self.partner, self.value))
        return self.per_owner(sums)

    def per_owner(self, rows) -> Num[Array, "term owner"]:
        """Add up the blocks of each owner."""
        return jnp.stack(
            [
                jax.ops.segment_sum(r, self.owner, self.n_owners, indices_are_sorted=True)
                for r in rows
            ]
        )

    def totals(self) -> Float[Array, " owner"]:
        """Counts of each owner; summed as integers, so exact up to 2³¹."""
        return self.per_owner([self.value.astype(jnp.int32).sum(0)])[0].astype(float)


def block_length(mean: float) -> int:
    """The block length for owners with `mean` nonzeros.

    Measured on one image of 16384 pixels: 4 is best at 18 nonzeros per owner, 32 at 150-250
    and 256-512 at 2000; a sixth of the mean, as a power of two, follows that.
    """
    return int(np.clip(2 ** np.round(np.log2(max(mean, 1.0) / 6)), 4, 512))


def _rounded(n: int) -> int:
    """`n` and at most 3 % more, so that images alike in size and dose share compiled code."""
    step = 2 ** max(n.bit_length() - 6, 0)
    return -(-n // step) * step


def _ratio(value, model):
    least = tiny(model.dtype)
    return jnp.where(model >= least, value / jnp.maximum(model, least), 0.0)


def _log(value, model):
    return value * jnp.log(jnp.maximum(model, tiny(model.dtype)))


def _log_ratio(value, model):
    some = jnp.maximum(value, 1.0)  # counts are integers, so this only guards 0 log 0
    return value * jnp.log(some / jnp.maximum(model, tiny(model.dtype)))


def _ratio_terms(value, model, rows):
    ratio = _ratio(value, model)
    return [ratio * row for row in rows]


def _log_terms(value, model, rows):
    return [_log(value, model)]


def _log_ratio_terms(value, model, rows):
    return [_log_ratio(value, model)]


class SparseCounts(AbstractCounts):
    """Only the nonzero counts, once grouped by pixel and once by channel."""

    by_pixel: Blocks
    by_channel: Blocks
    scan_shape: tuple[int, ...] = eqx.field(static=True)
    n_channels: int = eqx.field(static=True)
    exposure: Float[Array, " pixel"] | None = None

    @classmethod
    def from_coo(
        cls,
        pixel: np.ndarray,
        channel: np.ndarray,
        value: np.ndarray,
        scan_shape: tuple[int, ...],
        n_channels: int,
        exposure: np.ndarray | None = None,
    ) -> "SparseCounts":
        """From triplets, each pair once; `counts_from_coo` also checks them.

        - `pixel`, `channel`, `value`: (count,) each, as whole numbers.
        - `exposure`: (pixel,) or `None`.
        """
        n_pixels = int(np.prod(scan_shape))
        return cls(
            by_pixel=Blocks.pack(pixel, channel, value, n_pixels, n_channels),
            by_channel=Blocks.pack(channel, pixel, value, n_channels, n_pixels),
            scan_shape=tuple(scan_shape),
            n_channels=n_channels,
            exposure=None if exposure is None else jnp.asarray(exposure, float),
        )

    def pixel_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _ratio_terms, endmembers.shape[1])

    def channel_pass(self, endmembers, abundances):
        return self.by_channel.accumulate(
            endmembers.T, abundances, _ratio_terms, endmembers.shape[1]
        ).T

    def log_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _log_terms, 1)[0]

    def log_ratio_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _log_ratio_terms, 1)[0]

    def sum_spectrum(self):
        return self.by_channel.totals()

    def pixel_totals(self):
        return self.by_pixel.totals()

    def to_coo(self):
        value = np.asarray(self.by_pixel.value).T
        pixel = np.repeat(np.asarray(self.by_pixel.owner), value.shape[1])
        channel = np.asarray(self.by_pixel.partner).T.ravel()
        keep = value.ravel() > 0
        return pixel[keep].astype(np.int64), channel[keep].astype(np.int64), value.ravel()[keep]


class DenseCounts(AbstractCounts):
    """All counts, in tiles of pixels; `values` has shape (tile, pixel in tile, channel)."""

    values: Integer[Array, "tile row channel"]
    scan_shape: tuple[int, ...] = eqx.field(static=True)
    exposure: Float[Array, " pixel"] | None = None

    @classmethod
    def from_array(
        cls,
        values: np.ndarray,
        scan_shape: tuple[int, ...],
        exposure: np.ndarray | None = None,
        tile: int = 256,
    ) -> "DenseCounts":
        """From an array (pixel, channel) of whole numbers; `as_counts` also checks it.

        - `exposure`: (pixel,) or `None`. `tile`: pixels visited at once in a pass.
        """
        n_pixels, n_channels = values.shape
        tile = min(tile, max(n_pixels, 1))
        padded = np.zeros((-(-n_pixels // tile) * tile, n_channels), values.dtype)
        padded[:n_pixels] = values
        return cls(  # pyright: ignore[reportCallIssue]  # n_channels is a property here
            values=jnp.asarray(padded.reshape(-1, tile, n_channels)),
            scan_shape=tuple(scan_shape),
            exposure=None if exposure is None else jnp.asarray(exposure, float),
        )

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return self.values.shape[-1]

    def _tiled(self, abundances):
        """Abundances cut like the counts: (tile, pixel in tile, phase), padded with ones."""
        n_tiles, rows, _ = self.values.shape
        missing = n_tiles * rows - self.n_pixels
        padded = jnp.pad(abundances.T, ((0, missing), (0, 0)), constant_values=1.0)
        return padded.reshape(n_tiles, rows, -1)

    def pixel_pass(self, endmembers, abundances):
        def tile(args):
            counts, rows = args
            return _matmul(_tile_ratio(counts, rows, endmembers), endmembers)

        out = jax.lax.map(tile, (self.values, self._tiled(abundances)))
        return out.reshape(-1, endmembers.shape[1])[: self.n_pixels].T

    def channel_pass(self, endmembers, abundances):
        def add(total, args):
            counts, rows = args
            return total + _matmul(_tile_ratio(counts, rows, endmembers).T, rows), None

        zeros = jnp.zeros(endmembers.shape, endmembers.dtype)
        return jax.lax.scan(add, zeros, (self.values, self._tiled(abundances)))[0]

    def _summed(self, function, endmembers, abundances):
        def tile(args):
            counts, rows = args
            model = _matmul(rows, endmembers.T)
            return function(counts.astype(model.dtype), model).sum(-1)

        out = jax.lax.map(tile, (self.values, self._tiled(abundances)))
        return out.reshape(-1)[: self.n_pixels]

    def log_pass(self, endmembers, abundances):
        return self._summed(_log, endmembers, abundances)

    def log_ratio_pass(self, endmembers, abundances):
        return self._summed(_log_ratio, endmembers, abundances)

    def sum_spectrum(self):
        return self.values.sum((0, 1), dtype=jnp.int32).astype(float)

    def pixel_totals(self):
        return self.values.sum(-1, dtype=jnp.int32).reshape(-1)[: self.n_pixels].astype(float)

    def to_coo(self):
        values = np.asarray(self.values).reshape(-1, self.n_channels)[: self.n_pixels]
        pixel, channel = np.nonzero(values)
        return pixel, channel, values[pixel, channel]


def _matmul(left, right):
    """Some accelerators would otherwise multiply float32 with 10 or 7 bits of mantissa."""
    return jnp.matmul(left, right, precision="highest")


def _tile_ratio(counts, rows, endmembers):
    model = _matmul(rows, endmembers.T)
    return _ratio(counts.astype(model.dtype), model)


def smallest_type(largest: int) -> np.dtype:
    """The smallest unsigned type that holds the counts without loss."""
    check(
        largest < 2**31,
        f"One channel of one pixel holds {largest} counts, more than 2³¹; "
        "divide the image into frames or check that the file holds raw counts.",
    )
    return np.dtype(np.min_scalar_type(max(int(largest), 1)))
