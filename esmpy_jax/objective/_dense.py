"""Counts of which all are stored, in tiles of pixels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from .._arrays import as_floats, on_device
from ._counts import (
    AbstractCounts,
    excess_term,
    log_term,
    pairs,
    ratio,
    relative,
    saturated_term,
    tiny,
)


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
            values=on_device(padded.reshape(-1, tile, n_channels)),
            scan_shape=tuple(scan_shape),
            exposure=None if exposure is None else as_floats(exposure),
        )

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return self.values.shape[-1]

    def _tiled(self, abundances, beyond=1.0):
        """Rows of pixels cut like the counts: (tile, pixel in tile, row), and what lies beyond."""
        n_tiles, rows, _ = self.values.shape
        missing = n_tiles * rows - self.n_pixels
        padded = jnp.pad(abundances.T, ((0, missing), (0, 0)), constant_values=beyond)
        return padded.reshape(n_tiles, rows, -1)

    def _exposed(self, abundances, exposure):
        """Counts, abundances and exposure of each tile; none beyond the scan."""
        return self.values, self._tiled(abundances), self._tiled(exposure, 0.0)

    def pixel_pass(self, endmembers, abundances):
        def tile(args):
            counts, rows = args
            return _matmul(_tile_ratio(counts, rows, endmembers), endmembers)

        return self._by_pixel(jax.lax.map(tile, (self.values, self._tiled(abundances))))

    def channel_pass(self, endmembers, abundances):
        def add(total, args):
            counts, rows = args
            return total + _matmul(_tile_ratio(counts, rows, endmembers).T, rows), None

        zeros = jnp.zeros(endmembers.shape, endmembers.dtype)
        return jax.lax.scan(add, zeros, (self.values, self._tiled(abundances)))[0]

    def pixel_moments(self, endmembers, abundances, exposure):
        products = _products(endmembers.T).T

        def tile(args):
            first, second = _tile_moments(args, endmembers)
            return _matmul(first, endmembers), _matmul(second, products)

        first, second = jax.lax.map(tile, self._exposed(abundances, exposure))
        return self._by_pixel(first), self._by_pixel(second)

    def channel_moments(self, endmembers, abundances, exposure):
        def add(totals, args):
            rows = args[1]
            first, second = _tile_moments(args, endmembers)
            new = _matmul(first.T, rows), _matmul(second.T, _products(rows.T).T)
            return tuple(t + n for t, n in zip(totals, new, strict=True)), None

        shape, n_phases = endmembers.shape, endmembers.shape[1]
        zeros = jnp.zeros(shape, endmembers.dtype)
        zeros = zeros, jnp.zeros((shape[0], n_phases * (n_phases + 1) // 2), endmembers.dtype)
        return jax.lax.scan(add, zeros, self._exposed(abundances, exposure))[0]

    def cross_pass(self, endmembers, abundances, spectra, exposure):
        products = (endmembers[:, :, None] * spectra[:, None, :]).reshape(len(spectra), -1)

        def tile(args):
            first, second = _tile_moments(args, endmembers)
            return _matmul(first, spectra), _matmul(second, products)

        tiles = jax.lax.map(tile, self._exposed(abundances, exposure))
        first, second = (self._by_pixel(sums) for sums in tiles)
        by_phase = second.reshape(endmembers.shape[1], spectra.shape[1], -1)
        return first, jnp.swapaxes(by_phase, 0, 1)

    def steepest_drop(self, endmembers, abundances, change):
        def tile(args):
            counts, rows, moves = args
            model, moved = _matmul(rows, endmembers.T), _matmul(moves, endmembers.T)
            return jnp.where(counts > 0, relative(-moved, model), 0.0).max(-1, initial=0.0)

        parts = self.values, self._tiled(abundances), self._tiled(change)
        return jax.lax.map(tile, parts).reshape(-1)[: self.n_pixels]

    def _by_pixel(self, tiles):
        """(tile, pixel in tile, row) to (row, pixel)."""
        return tiles.reshape(-1, tiles.shape[-1])[: self.n_pixels].T

    def _summed(self, function, endmembers, abundances):
        def tile(args):
            counts, rows = args
            model = _matmul(rows, endmembers.T)
            return function(counts.astype(model.dtype), model).sum(-1)

        out = jax.lax.map(tile, (self.values, self._tiled(abundances)))
        return out.reshape(-1)[: self.n_pixels]

    def saturated_pass(self):
        tile = lambda counts: saturated_term(counts.astype(float)).sum(-1)  # noqa: E731
        return jax.lax.map(tile, self.values).reshape(-1)[: self.n_pixels]

    def log_pass(self, endmembers, abundances):
        return self._summed(log_term, endmembers, abundances)

    def excess_pass(self, endmembers, abundances):
        return self._summed(excess_term, endmembers, abundances)

    @eqx.filter_jit
    def sum_spectrum(self):
        return self.values.sum((0, 1), dtype=jnp.int32).astype(float)

    @eqx.filter_jit
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
    return ratio(counts.astype(model.dtype), model)


def _tile_moments(tile, endmembers):
    """E - Y / X and Y / X² of a tile; the latter is cut off where sums of it might overflow.

    The difference is taken before anything is divided or summed, as both parts are nearly alike.
    """
    counts, rows, exposure = tile
    model = _matmul(rows, endmembers.T)
    value = counts.astype(model.dtype)
    least = tiny(model.dtype)
    missing = (exposure * model - value) / jnp.maximum(model, least)
    first = jnp.where(model >= least, missing, exposure)
    second = ratio(value, model) * relative(jnp.ones_like(model), model)
    return first, jnp.minimum(second, float(jnp.finfo(model.dtype).max) * 2.0**-40)


def _products(rows):
    """The products of each pair of rows."""
    return jnp.stack([rows[a] * rows[b] for a, b in pairs(len(rows))])
