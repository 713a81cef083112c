"""What counts can be asked: the few passes over them that every solver is made of.

The model is Y = D H with D of shape (channel, phase) and H of shape (phase, pixel), times the
exposure of each pixel where there is one. A pass never makes an array of size channel × pixel:
sparse counts visit their nonzeros only, dense counts go tile by tile.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float, Integer

from .._checks import check
from .._types import Abundances, Endmembers


def pairs(n_phases: int) -> list[tuple[int, int]]:
    """The pairs (a, b) with a <= b in the order of the `pair` axis."""
    return [(a, b) for a in range(n_phases) for b in range(a, n_phases)]


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
    def excess_pass(self, endmembers: Endmembers, abundances: Abundances) -> Float[Array, " pixel"]:
        """`sum_c (Y log(Y / X) - Y + X)[c, p]` with X = D H for every pixel p."""

    @abc.abstractmethod
    def saturated_pass(self) -> Float[Array, " pixel"]:
        """`sum_c (Y - Y log Y)[c, p]` for every pixel p: the NLL of a model that is the counts."""

    @abc.abstractmethod
    def pixel_moments(
        self,
        endmembers: Endmembers,
        abundances: Abundances,
        exposure: Float[Array, "one pixel"],
    ) -> tuple[Float[Array, "phase pixel"], Float[Array, "pair pixel"]]:
        """The gradient `sum_c (E - Y / X)[c, p] D[c, a]` with X = D H and exposure E, and

        `sum_c (Y / X²)[c, p] D[c, a] D[c, b]` for a <= b (`pairs`).
        """

    @abc.abstractmethod
    def channel_moments(
        self,
        endmembers: Endmembers,
        abundances: Abundances,
        exposure: Float[Array, "one pixel"],
    ) -> tuple[Float[Array, "channel phase"], Float[Array, "channel pair"]]:
        """The gradient `sum_p (E - Y / X)[c, p] H[a, p]`, and the sums of `Y / X² H[a] H[b]`."""

    @abc.abstractmethod
    def cross_pass(
        self,
        endmembers: Endmembers,
        abundances: Abundances,
        spectra: Float[Array, "channel column"],
        exposure: Float[Array, "one pixel"],
    ) -> tuple[Float[Array, "column pixel"], Float[Array, "column phase pixel"]]:
        """`sum_c (E - Y / X) S[c, j]` and `sum_c Y / X² D[c, a] S[c, j]` for columns j of S."""

    @abc.abstractmethod
    def steepest_drop(
        self,
        endmembers: Endmembers,
        abundances: Abundances,
        change: Float[Array, "phase pixel"],
    ) -> Float[Array, " pixel"]:
        """The largest `-(D change) / (D H)` over the channels of a pixel that hold counts, or 0."""

    @abc.abstractmethod
    def sum_spectrum(self) -> Float[Array, " channel"]:
        """Counts of each channel summed over the pixels."""

    @abc.abstractmethod
    def pixel_totals(self) -> Float[Array, " pixel"]:
        """Counts of each pixel summed over the channels."""

    @abc.abstractmethod
    def to_coo(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nonzero counts on the host: pixel, channel and value, sorted by pixel."""

    def for_pixels(self) -> "AbstractCounts":
        """Counts for passes that give a value for each pixel, such as `pixel_moments`.

        Sparse ones hold nothing by channel, so that no compiled program depends on its shape;
        `channel_pass`, `channel_moments` and `sum_spectrum` are not theirs.
        """
        return self

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
        return False

    def to_dense(self) -> Integer[np.ndarray, "pixel channel"]:
        """All counts as a NumPy array; for figures and tests, not for large images."""
        pixel, channel, value = self.to_coo()
        out = np.zeros((self.n_pixels, self.n_channels), value.dtype)
        out[pixel, channel] = value
        return out


def ratio(value, model):
    """Y / X, and 0 where the model cannot explain a count."""
    least = tiny(model.dtype)
    return jnp.where(model >= least, value / jnp.maximum(model, least), 0.0)


def relative(row, model):
    """D / X, at most the square root of the largest number, so that its square stays finite."""
    least, most = tiny(model.dtype), float(jnp.finfo(model.dtype).max) ** 0.5 * 2.0**-20
    return jnp.where(model >= least, jnp.minimum(row / jnp.maximum(model, least), most), 0.0)


def log_term(value, model):
    """Y log X."""
    return value * jnp.log(jnp.maximum(model, tiny(model.dtype)))


def saturated_term(value):
    """Y - Y log Y."""
    return value - value * jnp.log(jnp.maximum(value, 1.0))  # counts are integers: 0 log 0 is 0


def seen_excess_term(value, model):
    """Y log(Y / X) - Y: without the X, which channels without counts have as well."""
    some = jnp.maximum(value, 1.0)  # counts are integers, so this only guards 0 log 0
    return value * jnp.log(some / jnp.maximum(model, tiny(model.dtype))) - value


def excess_term(value, model):
    """Y log(Y / X) - Y + X, which is about a half where the model is right, however many counts.

    So the logarithm is made exact near one: what rounding of Y / X loses is given back, as
    log(1 + u) is u log(1 + v) / v with v = u but for rounding. The difference of the other two
    terms is taken before the sum.
    """
    some = jnp.maximum(value, 1.0)  # counts are integers, so this only guards 0 log 0
    least = jnp.maximum(model, tiny(model.dtype))
    quotient = some / least
    exact, near = (some - least) / least, quotient - 1.0
    same = near == 0
    logarithm = jnp.where(same, exact, jnp.log(quotient) * (exact / jnp.where(same, 1.0, near)))
    return value * logarithm + (model - value)


def smallest_type(largest: int) -> np.dtype:
    """The smallest unsigned type that holds the counts without loss."""
    check(
        largest < 2**31,
        f"One channel of one pixel holds {largest} counts, more than 2³¹; "
        "divide the image into frames or check that the file holds raw counts.",
    )
    return np.dtype(np.min_scalar_type(max(int(largest), 1)))
