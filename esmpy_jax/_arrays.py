"""Arrays from the host, converted there: `jnp.asarray` compiles a program for each new shape."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def on_device(values: np.ndarray) -> Array:
    """The array as it is, on the default device."""
    return jax.device_put(values)


def as_floats(values: Any) -> Array:
    """Numbers in JAX's default float type."""
    return _converted(values, float)


def as_ints(values: Any) -> Array:
    """Whole numbers in JAX's default integer type."""
    return _converted(values, int)


def _converted(values, kind):
    if isinstance(values, jax.Array):  # tracers, too
        return jnp.asarray(values, kind)
    return jax.device_put(np.asarray(values, jax.dtypes.canonicalize_dtype(kind)))
