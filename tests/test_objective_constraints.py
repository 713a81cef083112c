"""Roots of the surrogates: against decimal arithmetic and scipy over many magnitudes."""

from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from esmpy_jax.objective import positive_root, sum_constrained_root

root = jax.jit(positive_root)
constrained = jax.jit(sum_constrained_root)


def magnitudes(rng, shape, decades=12.0):
    return 10 ** rng.uniform(-decades, decades, shape)


def terms(seed, n, *, curved, entries=4, decades=12.0):
    """a, b, c with ratios over all `decades`; zeros in a and c, negative b where a allows it."""
    rng = np.random.default_rng(seed)
    shape = (entries, n)
    a = magnitudes(rng, shape, decades) * (rng.random(shape) < 0.7) * curved
    b = magnitudes(rng, shape, decades) * np.where((rng.random(shape) < 0.3) & (a > 0), -1, 1)
    c = magnitudes(rng, shape, decades) * (rng.random(shape) < 0.8)
    return a, b, c, 10 ** rng.uniform(-3, 0, n)


def exact_root(a, b, c):
    if a == 0:
        return c / b if b > 0 else Decimal("inf")
    spread = (b * b + 4 * a * c).sqrt()
    return 2 * c / (b + spread) if b > 0 else (spread - b) / (2 * a)


def exact_minimiser(a, b, c, budget):
    """In 60 digits: bisection on the multiplier; idle entries (a = c = 0) take what is left."""
    with localcontext() as context:
        context.prec = 60
        a, b, c = ([Decimal(float(x)) for x in v] for v in (a, b, c))
        budget = Decimal(float(budget))
        entries = range(len(a))
        alive = [i for i in entries if a[i] > 0 or c[i] > 0]
        idle = [i for i in entries if i not in alive]

        def roots(nu):
            return [
                exact_root(a[i], b[i] + nu, c[i]) if i in alive else Decimal(0) for i in entries
            ]

        if idle:
            cheapest = min(idle, key=lambda i: b[i])
            out = roots(-b[cheapest])
            if sum(out) < budget:
                out[cheapest] = budget - sum(out)
                return [float(x) for x in out]
        low = max(c[i] / budget - a[i] * budget - b[i] for i in alive)
        step = (abs(low) + 1) * Decimal("1e-40")
        while sum(roots(low + step)) > budget:
            low, step = low + step, 4 * step
        high = low + step
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(roots(middle)) > budget else (low, middle)
        return [float(x) for x in roots(high)]


def test_positive_root_solves_its_equation(precision):
    a, b, c, _ = (x.astype(precision) for x in terms(0, 300, curved=True))
    x = np.asarray(root(*map(jnp.asarray, (a, b, c))))
    with localcontext() as context:
        context.prec = 60
        expected = [
            float(exact_root(*(Decimal(float(v)) for v in abc)))
            for abc in zip(a.ravel(), b.ravel(), c.ravel(), strict=True)
        ]
    np.testing.assert_allclose(x.ravel(), expected, rtol=8 * np.finfo(precision).eps)


def test_positive_root_does_not_leave_the_range_of_floats(precision):
    big = 1e25 if precision == "float32" else 1e200  # squares overflow
    a = jnp.array([0.0, 0.0, 1.0 / big, big])
    b = jnp.array([big, 1 / big, 1.0 / big, 0.0])
    c = jnp.array([big, 1 / big, 2.0 / big, big])
    np.testing.assert_allclose(root(a, b, c), [1.0, 1.0, 1.0, 1.0], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda *args: positive_root(*args).sum(), argnums=(1, 2)))(
        jnp.zeros(2), jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    )
    np.testing.assert_allclose(gradient[0], [0.0, -1.0])
    np.testing.assert_allclose(gradient[1], [1.0, 0.5])


@pytest.mark.parametrize("curved", [False, True])
def test_constrained_minimiser_is_exact(curved, precision):
    a, b, c, budget = (x.astype(precision) for x in terms(1, 40, curved=curved))
    assert not (c + a).all()
    current = np.full(a.shape, 0.25, precision)
    x = constrained(*map(jnp.asarray, (a, b, c, budget)), jnp.ones(a.shape, bool), current)
    x, eps = np.asarray(x), np.finfo(precision).eps
    np.testing.assert_allclose(x.sum(0), budget, rtol=4 * eps)
    alive = ((a > 0) | (c > 0)).any(0)
    expected = np.stack(
        [exact_minimiser(a[:, i], b[:, i], c[:, i], budget[i]) for i in np.flatnonzero(alive)], 1
    )
    assert (np.abs(x[:, alive] - expected) <= 8 * eps * budget[alive]).all()
    np.testing.assert_allclose(x[:, ~alive], np.tile(budget[~alive] / 4, (4, 1)), rtol=4 * eps)


@pytest.mark.parametrize("entries", [4, 40])
def test_constrained_minimiser_against_brentq(entries, x64):
    a, b, c, budget = terms(2, 60, curved=True, decades=3.0, entries=entries)
    c = c + 1e-3
    ones = jnp.ones(a.shape, bool)
    x = np.asarray(constrained(*map(jnp.asarray, (a, b, c, budget)), ones, jnp.ones(a.shape)))
    for i in range(a.shape[1]):

        def excess(nu, i=i):
            return float(root(a[:, i], b[:, i] + nu, c[:, i]).sum() - budget[i])

        low = float((c[:, i] / budget[i] - a[:, i] * budget[i] - b[:, i]).max())
        nu: Any = brentq(excess, low - 1e-9 * abs(low), low + 4 * c[:, i].sum() / budget[i] + 1e4)
        expected = np.asarray(root(a[:, i], b[:, i] + nu, c[:, i]))
        np.testing.assert_allclose(x[:, i], expected, rtol=1e-6, atol=1e-8 * budget[i])


def test_the_program_does_not_grow_with_the_columns_of_w():
    def size(entries):
        args = [jax.ShapeDtypeStruct((entries, 3), jnp.float32)] * 3
        args += [jax.ShapeDtypeStruct((3,), jnp.float32)]
        args += [jax.ShapeDtypeStruct((entries, 3), kind) for kind in (bool, jnp.float32)]
        return len(jax.jit(sum_constrained_root).lower(*args).as_text().splitlines())

    assert size(1000) == size(30)


def test_sums_hold_to_a_few_roundings(precision):
    for curved in (False, True):
        a, b, c, budget = (x.astype(precision) for x in terms(3, 3000, curved=curved))
        x = constrained(
            *map(jnp.asarray, (a, b, c, budget)), jnp.ones(a.shape, bool), np.full_like(a, 0.25)
        )
        assert np.isfinite(np.asarray(x)).all()
        assert float(x.min()) >= 0
        np.testing.assert_allclose(x.sum(0), budget, rtol=4 * np.finfo(precision).eps)


@pytest.mark.parametrize("count", [0.0, 1e-30, 1e-12, 1e-9, 1e-6])
def test_a_dim_entry_without_counts_takes_the_slack(count, precision):
    """Minimise 100 x + 10000 y - log y: y = 1 / 9900 whatever else; x, nearly countless, the rest.

    The multiplier is -100 to all digits there; what decides is its distance from that.
    """
    column = [jnp.array(v)[:, None] for v in ([0.0, 0.0], [100.0, 1e4], [count, 1.0])]
    x = constrained(*column, jnp.ones(1), jnp.ones((2, 1), bool), jnp.full((2, 1), 0.5))
    np.testing.assert_allclose(x[:, 0], [1 - 1 / 9900, 1 / 9900], rtol=2e-5)


def test_dead_and_fixed_entries(precision):
    free = jnp.array([[True, True, True, False], [True, True, False, False]])
    current = jnp.array([[0.3, 0.0, 0.2, 0.5], [0.1, 0.0, 0.9, 0.5]])
    zeros = jnp.zeros((2, 4))
    budget = jnp.array([1.0, 1.0, 0.4, 0.7])
    x = np.asarray(constrained(zeros, zeros + 5.0, zeros, budget, free, current))
    # keeps its split; starts evenly from nothing; all to the one free entry; nothing is free
    expected = [[0.75, 0.5, 0.4, 0.0], [0.25, 0.5, 0.0, 0.0]]
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    # a budget that is spent, even overspent by rounding, leaves nothing
    spent = jnp.array([0.0, -1e-7, 0.0, 0.0])
    for constant in (zeros, zeros + 1.0):
        x = np.asarray(constrained(zeros, zeros + 5.0, constant, spent, free, current))
        np.testing.assert_array_equal(x, 0.0)


def test_entries_that_are_zero_stay_zero(precision):
    """An entry excluded by the start is not revived, even as the cheapest place for the rest."""
    column = [jnp.array(v)[:, None] for v in ([0.0] * 3, [1.0, 10.0, 100.0], [0.0, 0.0, 1.0])]
    current = jnp.array([[0.0], [0.5], [0.5]])
    x = constrained(*column, jnp.ones(1), jnp.ones((3, 1), bool), current)
    np.testing.assert_allclose(x[:, 0], [0.0, 1 - 1 / 90, 1 / 90], rtol=1e-5)


def test_a_count_too_small_to_divide_by_is_none(precision):
    """A phase that has nearly died costs nothing and takes what the others leave."""
    nothing = 4 * float(jnp.finfo(precision).tiny)
    linear = jnp.array([[473.5], [64.4], [nothing]])
    constant = jnp.array([[349.0], [0.0], [nothing / 4]])
    current = jnp.array([[0.75], [0.0], [0.25]])
    found = sum_constrained_root(
        jnp.zeros((3, 1)), linear, constant, jnp.ones(1), jnp.ones((3, 1), bool), current
    )
    expected = [[349 / 473.5], [0.0], [1 - 349 / 473.5]]
    np.testing.assert_allclose(found, expected, rtol=4 * float(jnp.finfo(precision).eps))
