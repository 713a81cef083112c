"""Counts of which only the nonzero ones are stored."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._blocks import Blocks
from ._counts import AbstractCounts, log_ratio_term, log_term, pairs, ratio, relative

#: Columns of a cross pass that are summed in one loop over the counts; more would ask for more
#: memory than a cache holds.
_TOGETHER = 16


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

    @property
    def is_sparse(self):
        return True

    def pixel_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _first, len(abundances))

    def channel_pass(self, endmembers, abundances):
        return self.by_channel.accumulate(endmembers.T, abundances, _first, len(abundances)).T

    def log_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _log, 1)[0]

    def log_ratio_pass(self, endmembers, abundances):
        return self.by_pixel.accumulate(abundances, endmembers.T, _log_ratio, 1)[0]

    def pixel_moments(self, endmembers, abundances):
        sums = self.by_pixel.accumulate(
            abundances, endmembers.T, _first_and_second, _n_moments(abundances)
        )
        return sums[: len(abundances)], sums[len(abundances) :]

    def channel_moments(self, endmembers, abundances):
        n_terms = _n_moments(abundances)
        sums = self.by_channel.accumulate(endmembers.T, abundances, _first_and_second, n_terms)
        return sums[: len(abundances)].T, sums[len(abundances) :].T

    def cross_pass(self, endmembers, abundances, spectra):
        n_phases, n_columns = len(abundances), spectra.shape[1]

        def terms(value, model, rows, _):
            shares = [relative(row, model) for row in rows[:n_phases]]
            weights = [ratio(value, model), *(ratio(value, model) * s for s in shares)]
            return [w * row for row in rows[n_phases:] for w in weights]

        def some(columns):
            rows = jnp.concatenate([endmembers.T, columns])
            return self.by_pixel.accumulate(abundances, rows, terms, together * (n_phases + 1))

        together = min(_TOGETHER, n_columns)
        groups = -(-n_columns // together)
        padded = jnp.pad(spectra.T, ((0, groups * together - n_columns), (0, 0)))
        sums = jax.lax.map(some, padded.reshape(groups, together, -1))
        sums = sums.reshape(groups * together, n_phases + 1, -1)[:n_columns]
        return sums[:, 0], sums[:, 1:]

    def steepest_drop(self, endmembers, abundances, change):
        def terms(value, model, rows, change):
            moved = sum(d * row for d, row in zip(change, rows, strict=True))
            return [jnp.where(value > 0, relative(-moved, model), 0.0)]

        return self.by_pixel.accumulate(
            abundances, endmembers.T, terms, 1, extra=change, largest=True
        )[0]

    def sum_spectrum(self):
        return self.by_channel.totals()

    def pixel_totals(self):
        return self.by_pixel.totals()

    def to_coo(self):
        return self.by_pixel.to_triplets()


def _n_moments(abundances):
    return len(abundances) + len(pairs(len(abundances)))


def _first(value, model, rows, _):
    scaled = ratio(value, model)
    return [scaled * row for row in rows]


def _first_and_second(value, model, rows, _):
    shares = [relative(row, model) for row in rows]
    return [value * s for s in shares] + [
        value * shares[a] * shares[b] for a, b in pairs(len(rows))
    ]


def _log(value, model, rows, _):
    return [log_term(value, model)]


def _log_ratio(value, model, rows, _):
    return [log_ratio_term(value, model)]
