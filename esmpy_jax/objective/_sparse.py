"""Counts of which only the nonzero ones are stored."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._arrays import as_floats
from ._blocks import Blocks
from ._counts import (
    AbstractCounts,
    log_term,
    pairs,
    ratio,
    relative,
    saturated_term,
    seen_excess_term,
)


class SparseCounts(AbstractCounts):
    """Only the nonzero counts, once grouped by pixel and once by channel."""

    by_pixel: Blocks
    by_channel: Blocks  # None of counts `for_pixels`
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
            exposure=None if exposure is None else as_floats(exposure),
        )

    @property
    def is_sparse(self):
        return True

    def pixel_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _ratio, _first, len(abundances))

    def channel_pass(self, endmembers, abundances):
        return self.by_channel.accumulate(
            endmembers.T, abundances, _ratio, _first, len(abundances)
        ).T

    def log_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _log, _weight, 1)[0]

    def excess_pass(self, endmembers, abundances):
        seen = self.by_pixel.accumulate(abundances, endmembers.T, _seen_excess, _weight, 1)[0]
        return (endmembers.sum(0)[:, None] * abundances).sum(0) + seen

    def saturated_pass(self):
        return self.by_pixel.sums(saturated_term)

    def pixel_moments(self, endmembers, abundances, exposure):
        n = len(abundances)
        sums = self.by_pixel.accumulate(
            abundances, endmembers.T, _ratios, _first_and_second, n + len(pairs(n))
        )
        return endmembers.sum(0)[:, None] * exposure - sums[:n], sums[n:]

    def channel_moments(self, endmembers, abundances, exposure):
        n = len(abundances)
        sums = self.by_channel.accumulate(
            endmembers.T, abundances, _ratios, _first_and_second, n + len(pairs(n))
        )
        return (abundances * exposure).sum(1)[None, :] - sums[:n].T, sums[n:].T

    def cross_pass(self, endmembers, abundances, spectra, exposure):
        sums = self.by_pixel.accumulate_outer(
            abundances, endmembers.T, _ratios, _one_and_first, spectra.T
        )
        return spectra.sum(0)[:, None] * exposure - sums[:, 0], sums[:, 1:]

    def steepest_drop(self, endmembers, abundances, change):
        return self.by_pixel.accumulate(
            abundances, endmembers.T, _counted, _drop, 1, extra=change, largest=True
        )[0]

    def sum_spectrum(self):
        return self.by_channel.totals()

    def pixel_totals(self):
        return self.by_pixel.totals()

    def for_pixels(self):
        if self.by_channel is None:
            return self
        return eqx.tree_at(lambda c: c.by_channel, self, None)

    @property
    def total(self):
        return self.by_pixel.total()

    def to_coo(self):
        return self.by_pixel.to_triplets()


# what the terms of a pass share


def _ratio(value, model):
    return (ratio(value, model),)


def _ratios(value, model):
    """Y / X and 1 / X, whose products with D stay finite where those of Y / X² would not."""
    return ratio(value, model), relative(jnp.ones_like(model), model)


def _log(value, model):
    return (log_term(value, model),)


def _seen_excess(value, model):
    return (seen_excess_term(value, model),)


def _counted(value, model):
    return value > 0, model


# the terms, of the shared weights and of the rows of D or H


def _weight(weights, rows, _):
    return [weights[0]]


def _first(weights, rows, _):
    return [weights[0] * row for row in rows]


def _first_and_second(weights, rows, _):
    scaled, inverse = weights
    shares = [inverse * row for row in rows]
    first = [scaled * row for row in rows]
    return first + [first[a] * shares[b] for a, b in pairs(len(rows))]


def _one_and_first(weights, rows, _):
    scaled, inverse = weights
    return [scaled, *(scaled * (inverse * row) for row in rows)]


def _drop(weights, rows, change):
    counted, model = weights
    moved = sum(d * row for d, row in zip(change, rows, strict=True))
    return [jnp.where(counted, relative(-moved, model), 0.0)]
