"""Gaussian priors of physical parameters, each in the coordinate in which it is refined."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jax.scipy.special import log_ndtr, ndtri

from .._checks import check
from .._types import Scalar
from ..physics import Number
from ..physics._scalars import ScalarLike, as_scalar


class AbstractPrior(eqx.Module):
    """A parameter as a monotonic function of u, which is standard normal before any count is seen.

    Refinement searches over u, where every parameter is unbounded and has the same scale; the
    function keeps the parameter where it can physically be.

    - `median`: the value at u = 0, in the parameter's own unit.
    - `sd`: how far u = 1 leads, in the unit that the class tells.
    """

    median: AbstractVar[Scalar]
    sd: AbstractVar[Scalar]

    @abc.abstractmethod
    def value(self, u: ScalarLike) -> Scalar:
        """The parameter at u."""

    def slope(self, u: ScalarLike) -> Scalar:
        """By how much the parameter grows with u."""
        return jax.grad(self.value)(as_scalar(u))

    @abc.abstractmethod
    def coordinate(self, value: ScalarLike) -> Scalar:
        """The u of a value."""

    @abc.abstractmethod
    def described(self, unit: str) -> str:
        """The prior in words."""


def _check_sd(sd: Number, what: str) -> None:
    check(bool(sd > 0), f"The standard deviation of {what} is {sd:g}; give a positive number.")


class Normal(AbstractPrior):
    """Any value: p = median + sd u; `sd` is in the parameter's unit."""

    median: Scalar
    sd: Scalar

    def __init__(self, median: Number, sd: Number):
        """Raises `InputError` unless `sd` is positive."""
        _check_sd(sd, "a normal prior")
        self.median, self.sd = as_scalar(median), as_scalar(sd)

    def value(self, u: ScalarLike) -> Scalar:
        return self.median + self.sd * u

    def coordinate(self, value: ScalarLike) -> Scalar:
        return (value - self.median) / self.sd

    def described(self, unit: str) -> str:
        return f"{float(self.median):.4g} ± {float(self.sd):.2g} {unit}".rstrip()


class LogNormal(AbstractPrior):
    """Positive values: p = median exp(sd u); `sd` is that of the logarithm."""

    median: Scalar
    sd: Scalar

    def __init__(self, median: Number, sd: Number):
        """Raises `InputError` unless both are positive."""
        _check_sd(sd, "a log-normal prior")
        check(
            bool(median > 0),
            f"The median of a log-normal prior is {median:g}; a parameter that is refined by "
            "factors needs a positive value to start from.",
        )
        self.median, self.sd = as_scalar(median), as_scalar(sd)

    def value(self, u: ScalarLike) -> Scalar:
        return self.median * jnp.exp(self.sd * u)

    def coordinate(self, value: ScalarLike) -> Scalar:
        return jnp.log(value / self.median) / self.sd

    def described(self, unit: str) -> str:
        sd = float(self.sd)
        spread = f"± {100 * sd:.2g} %" if sd < 0.5 else f"within a factor of {jnp.exp(sd):.2g}"
        return f"{float(self.median):.4g} {unit}".rstrip() + f" {spread}"


class Exponential(AbstractPrior):
    """Positive values, likelier the smaller: p = -m ln Φ(-u), with the mean m = median / ln 2.

    For what may not be there at all: unlike with a log-normal prior it costs little to go near
    zero, to a hundredth of the median 3 nats. `sd` is the slope at the median, in the parameter's
    unit.
    """

    median: Scalar
    sd: Scalar

    def __init__(self, median: Number):
        """Raises `InputError` unless the median is positive."""
        check(
            bool(median > 0),
            f"The median of an exponential prior is {median:g}; a parameter that is refined by "
            "factors needs a positive value to start from.",
        )
        self.median = as_scalar(median)
        # the slope at u = 0
        self.sd = self.median * (math.sqrt(2 / math.pi) / math.log(2))

    def value(self, u: ScalarLike) -> Scalar:
        return -self.median / math.log(2) * log_ndtr(-as_scalar(u))

    def coordinate(self, value: ScalarLike) -> Scalar:
        below = -jnp.expm1(-as_scalar(value) / self.median * math.log(2))
        return ndtri(below)

    def described(self, unit: str) -> str:
        return f"0 or more, half of it below {float(self.median):.4g} {unit}".rstrip()


class LogitNormal(AbstractPrior):
    """Values between `low` and `high`: the logit of (p - low) / (high - low) is normal.

    `sd` is that of the logit.
    """

    median: Scalar
    sd: Scalar
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __init__(self, median: Number, sd: Number, low: Number = 0.0, high: Number = 1.0):
        """Raises `InputError` unless `low < median < high` and `sd` is positive."""
        _check_sd(sd, "a logit-normal prior")
        check(
            bool(low < median < high),
            f"The median of a prior between {low:g} and {high:g} is {median:g}; give a value "
            "between them, ends excluded.",
        )
        self.median, self.sd = as_scalar(median), as_scalar(sd)
        self.low, self.high = float(low), float(high)

    def value(self, u: ScalarLike) -> Scalar:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(
            self._logit(self.median) + self.sd * u
        )

    def coordinate(self, value: ScalarLike) -> Scalar:
        return (self._logit(value) - self._logit(self.median)) / self.sd

    def _logit(self, value: ScalarLike) -> Scalar:
        return jnp.log((value - self.low) / (self.high - value))

    def described(self, unit: str) -> str:
        middle = f"{float(self.median):.4g} ± {float(self.slope(0.0)):.2g} {unit}".rstrip()
        return f"{middle} ({self.low:g} to {self.high:g})"
