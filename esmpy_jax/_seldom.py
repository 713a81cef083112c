"""Programs that run a few times only, for which compiling takes longer than running."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

#: With these XLA compiles for the CPU some four times faster, into code that is several times
#: slower.
_LIGHTLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def seldom_run(function: Callable) -> Any:
    """`eqx.filter_jit` for a function that is called a few times: for the CPU without optimisation.

    For what runs once or twice in a fit, or on little: an optimised program runs up to some ten
    times faster. Inside other compiled functions it is a part of them. Arrays have to be arguments,
    none may be taken from around the function.
    """
    fully = eqx.filter_jit(function)
    lightly = eqx.filter_jit(function, compiler_options=_LIGHTLY)  # pyright: ignore[reportCallIssue]

    @functools.wraps(function)
    def call(*args, **kwargs):
        light = jax.default_backend() == "cpu" and not _is_traced(args, kwargs) and _is_understood()
        return (lightly if light else fully)(*args, **kwargs)

    return call


def _is_traced(*values: Any) -> bool:
    """Whether the call is a part of another function, of which even constants may be traced."""
    leaves = [*jax.tree.leaves(values), jax.device_put(np.zeros(()))]
    return any(isinstance(x, Tracer) for x in leaves)


@functools.cache
def _is_understood() -> bool:
    """Whether this XLA knows the options."""
    try:
        jax.jit(lambda x: x, compiler_options=_LIGHTLY).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
