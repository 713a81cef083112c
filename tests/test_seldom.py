"""Programs that are compiled without optimisation: what they give, and when they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax import _seldom
from esmpy_jax._seldom import seldom_run


def softmax(x, scale):
    return jax.nn.softmax(scale * x)


@pytest.fixture
def compiled(monkeypatch):
    """Options with which `softmax` was compiled, call by call, and the function that is called."""
    calls = []

    def filter_jit(function, compiler_options=None):
        plain = jax.jit(function)

        def call(*args):
            calls.append(compiler_options)
            return plain(*args)

        return call

    monkeypatch.setattr(_seldom.eqx, "filter_jit", filter_jit)
    return calls, seldom_run(softmax)


@pytest.mark.parametrize("seed", range(3))
def test_gives_what_the_function_gives(seed):
    x = np.random.default_rng(seed).normal(size=(4, 1000)).astype(np.float32)
    found = seldom_run(softmax)(x, 2.0)
    # a sum of 4000 terms in another order: some ten rounding errors
    np.testing.assert_allclose(found, softmax(x, 2.0), rtol=1e-6)


def test_the_cpu_gets_it_without_optimisation(compiled):
    calls, function = compiled
    function(jnp.ones(3), 2.0)
    assert calls == [_seldom._LIGHTLY]
    assert _seldom._is_understood()  # by the XLA that is installed


def test_other_devices_get_it_like_all_others(compiled, monkeypatch):
    calls, function = compiled
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    function(jnp.ones(3), 2.0)
    assert calls == [None]


def test_an_xla_that_does_not_know_the_options_gets_none(compiled, monkeypatch):
    calls, function = compiled
    monkeypatch.setattr(_seldom, "_LIGHTLY", {"xla_no_such_option": True})
    _seldom._is_understood.cache_clear()
    try:
        function(jnp.ones(3), 2.0)
    finally:
        _seldom._is_understood.cache_clear()
    assert calls == [None]


def test_is_a_part_of_functions_that_are_compiled_even_with_constants():
    constant, function = jnp.arange(3.0), seldom_run(softmax)
    found = jax.jit(lambda x: function(constant, 2.0) + function(x, 2.0))(constant)
    np.testing.assert_allclose(found, 2 * softmax(constant, 2.0), rtol=1e-6)


def test_has_derivatives_and_can_be_mapped():
    x, function = jnp.linspace(0.0, 1.0, 6).reshape(2, 3), seldom_run(softmax)
    slope = jax.jacobian(function)(x[0], 2.0)
    np.testing.assert_allclose(slope, jax.jacobian(softmax)(x[0], 2.0), atol=1e-6)
    rows = jax.vmap(lambda row: function(row, 2.0))(x)
    np.testing.assert_allclose(rows, jnp.stack([softmax(row, 2.0) for row in x]), rtol=1e-6)
