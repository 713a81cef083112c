"""Poisson sampling of D H photon by photon, without a dense array of expectations."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from .._checks import check
from ._build import Storage, counts_from_coo
from ._counts import AbstractCounts

_ENTRIES = 2**22  # channels × pixels, and about the photons, of one tile
# Random numbers are drawn in blocks of a fixed shape, so that JAX compiles each draw once.
_BLOCK = 2**15  # words
_TOTALS = 2**12  # Poisson variables


def sample_counts(
    endmembers: Float[np.ndarray, "channel phase"],
    abundances: Float[np.ndarray, "phase pixel"],
    *,
    key: Key[jax.Array, ""],
    scan_shape: tuple[int, ...] | None = None,
    storage: Storage = "auto",
) -> AbstractCounts:
    """Counts with independent Poisson distributions of mean `endmembers @ abundances`.

    A phase's number of photons in a pixel is drawn from `Poisson(sum_c D[c, p] H[p, x])`, and each
    photon's channel from the phase's spectrum, as a 32-bit word looked up in its cumulative sum.
    By the splitting property of Poisson variables this is the same distribution as one draw per
    channel, at the cost of the photons instead of the channels. Pixels are taken in tiles of at
    most a few million channels, so memory does not grow with the image, only with its counts.

    The same key gives the same counts with 64-bit types on and off, up to rare ties in rounding.
    `storage` is that of `as_counts`.

    Raises `InputError` when D or H holds negative or non-finite values.
    """
    d, h = np.asarray(endmembers, np.float64), np.asarray(abundances, np.float64)
    for name, values in (("The phase spectra", d), ("The abundances", h)):
        check(
            bool(np.isfinite(values).all() and (values >= 0).all()),
            f"{name} to sample from hold negative or non-finite values; they are expected counts.",
        )
    n_channels, n_phases = d.shape
    n_pixels = h.shape[1]
    totals_key, photons_key = jax.random.split(key)
    rates = d.sum(0)[:, None] * h
    totals = _poisson(totals_key, rates)
    bounds = [_cumulative_words(d[:, phase]) for phase in range(n_phases)]

    bright = max(float(rates.sum(0).mean()) if n_pixels else 0.0, float(n_channels))
    tile = max(1, int(_ENTRIES / bright))
    words = _Words(photons_key)
    parts = []
    for start in range(0, n_pixels, tile):
        here = totals[:, start : start + tile]
        histogram = np.zeros(here.shape[1] * n_channels, np.int64)
        for phase in range(n_phases):
            pixel = np.repeat(np.arange(here.shape[1]), here[phase])
            channel = np.searchsorted(bounds[phase], words.take(len(pixel)), side="right")
            histogram += np.bincount(pixel * n_channels + channel, minlength=len(histogram))
        filled = np.flatnonzero(histogram)
        parts.append((filled + start * n_channels, histogram[filled]))
    flat = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0, np.int64)
    value = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0, np.int64)
    return counts_from_coo(
        flat // n_channels,
        flat % n_channels,
        value,
        scan_shape=(n_pixels,) if scan_shape is None else tuple(scan_shape),
        n_channels=n_channels,
        storage=storage,
    )


def _poisson(key: Key[jax.Array, ""], rates: np.ndarray) -> np.ndarray:
    """A Poisson variable for each rate, drawn in blocks of one shape."""
    flat = np.zeros(-(-rates.size // _TOTALS) * _TOTALS, np.float32)
    flat[: rates.size] = rates.ravel()
    draws = [
        np.asarray(jax.random.poisson(jax.random.fold_in(key, i), jnp.asarray(block)), np.int64)
        for i, block in enumerate(flat.reshape(-1, _TOTALS))
    ]
    return np.concatenate([np.zeros(0, np.int64), *draws])[: rates.size].reshape(rates.shape)


def _cumulative_words(spectrum: np.ndarray) -> np.ndarray:
    """Inner bounds of the channels in 32-bit words: channel = number of bounds <= word.

    A channel gets its probability to 2^-32, and one without intensity gets none.
    """
    total = spectrum.sum()
    if total <= 0:
        return np.zeros(0, np.uint32)
    inner = np.cumsum(spectrum)[:-1] / total
    bounds = np.rint(inner * 2.0**32)
    last = np.flatnonzero(spectrum)[-1]
    # Beyond the last filled channel nothing may be drawn; 2^32 itself does not fit the type.
    return np.minimum(bounds[:last], 2.0**32 - 1).astype(np.uint32)


class _Words:
    """A stream of random 32-bit words from one key, drawn in blocks of one shape."""

    def __init__(self, key: Key[jax.Array, ""]):
        self._key = key
        self._block = 0
        self._rest = np.zeros(0, np.uint32)

    def take(self, n: int) -> np.ndarray:
        parts, have = [self._rest], len(self._rest)
        while have < n:
            key = jax.random.fold_in(self._key, self._block)
            parts.append(np.asarray(jax.random.bits(key, (_BLOCK,), jnp.uint32)))
            self._block += 1
            have += _BLOCK
        everything = np.concatenate(parts)
        self._rest = everything[n:]
        return everything[:n]
