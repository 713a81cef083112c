"""Physical numbers as JAX scalars."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from .._arrays import as_floats
from .._types import Scalar

Number = float | int
Curve = Array | np.ndarray | Sequence[float | int]
ScalarLike = Float[Array, ""] | float | int | np.number


def as_scalar(value: ScalarLike) -> Scalar:
    """The number as a scalar of JAX's default float type, differentiable."""
    return as_floats(value)
