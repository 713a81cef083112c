import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax.physics import Frozen


class Holder(eqx.Module):
    parameter: jax.Array
    table: Frozen = eqx.field(static=True)


def test_frozen_tables_are_not_leaves_and_equal_ones_share_a_compilation():
    traces = []

    @eqx.filter_jit
    def product(holder):
        traces.append(1)
        return holder.parameter * holder.table.value["x"].sum()

    for _ in range(2):
        holder = Holder(jnp.asarray(2.0), Frozen({"x": np.arange(3.0)}))
        assert len(jax.tree.leaves(holder)) == 1
        assert product(holder) == 6.0
    assert len(traces) == 1
    assert product(Holder(jnp.asarray(2.0), Frozen({"x": np.arange(4.0)}))) == 12.0


def test_frozen_tables_differ_with_value_type_and_shape():
    first = Frozen(np.zeros(4))
    assert first == Frozen(np.zeros(4))
    for other in (np.ones(4), np.zeros(4, np.float32), np.zeros((2, 2)), (np.zeros(4),)):
        assert first != Frozen(other)


def test_freezing_a_tracer_is_refused():
    with pytest.raises(ValueError, match="while it is traced"):
        jax.jit(lambda x: Frozen(x).value)(1.0)
