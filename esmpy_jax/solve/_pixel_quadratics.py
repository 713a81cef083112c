"""Small quadratic problems, one for each pixel and all at once.

Matrices have shape (phase, phase, pixel). All loops over phases are unrolled on rows of pixels, so
that the compiler makes few loops over the pixels out of many short operations.
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..objective import pairs

Vectors = Float[Array, "phase *pixels"]
Matrices = Float[Array, "phase phase *pixels"]


def symmetric(second: Float[Array, "pair *pixels"], diagonal: Vectors) -> Matrices:
    """Symmetric matrices from their pairs (a, b) with a <= b, plus a diagonal and a slight ridge.

    The ridge, some rounding errors of the trace, keeps matrices of pixels with fewer counts than
    phases invertible.
    """
    n, info = len(diagonal), jnp.finfo(second.dtype)
    place = {pair: i for i, pair in enumerate(pairs(n))}
    trace = sum(second[place[a, a]] + diagonal[a] for a in range(n))
    ridge = 8 * info.eps * trace + info.tiny
    rows = [[second[place[min(a, b), max(a, b)]] for b in range(n)] for a in range(n)]
    for a in range(n):
        rows[a][a] = rows[a][a] + diagonal[a] + ridge
    return jnp.stack([jnp.stack(row) for row in rows])


def product(matrix: Matrices, vector: Vectors) -> Vectors:
    """The matrix of each pixel times its vector."""
    return jnp.stack(_product(matrix, vector))


def projected_inverse(
    matrix: Matrices, free: Bool[Array, "phase *pixels"], summed: bool
) -> Matrices:
    """K with K g = argmin over d of d'A d / 2 - g'd, d zero where not free (and summing to zero).

    It is the inverse of the free block; with a sum it is `K - K 1 1'K / (1'K 1)`.
    """
    inverse, n = _inverted(_factor(matrix, free)), len(matrix)
    if summed:
        ones = [sum(inverse[a, b] for b in range(n)) for a in range(n)]
        total = sum(ones)
        shares = [x / jnp.where(total > 0, total, 1.0) for x in ones]
        inverse = {(a, b): inverse[a, b] - ones[a] * shares[b] for a, b in inverse}
    return jnp.stack([jnp.stack([inverse[a, b] for b in range(n)]) for a in range(n)])


def bounded_minimum(
    matrix: Matrices,
    gradient: Vectors,
    start: Vectors,
    free: Bool[Array, "phase *pixels"],
    summed: bool,
) -> Vectors:
    """`argmin g'(z - h) + (z - h)'A(z - h) / 2` with z >= 0, from a feasible h = `start`.

    Entries that are not free keep their value; with `summed` the sum of each pixel is kept, too.
    An active-set method (Lawson & Hanson, *Solving Least Squares Problems*, 1974, chapter 23) of
    at most n_phases + 1 sweeps, each of which lowers the objective: the result is never worse than
    the start, and nearly always the minimum. It ends when no pixel has another set.
    """
    n, small = len(matrix), jnp.finfo(start.dtype).tiny
    held = [jnp.where(f, 0.0, h) for f, h in zip(free, start, strict=True)]
    budget = sum(h - x for h, x in zip(start, held, strict=True))
    # of the stationary point of the free entries: A z = target - A held
    target = [x - g for x, g in zip(_product(matrix, start), gradient, strict=True)]
    right = [t - x for t, x in zip(target, _product(matrix, held), strict=True)]
    slope = list(gradient)
    if summed:  # of moving a little of everything there is to one entry
        there = [h - x for h, x in zip(start, held, strict=True)]
        mean = sum(g * h for g, h in zip(gradient, there, strict=True)) / jnp.maximum(budget, small)
        slope = [g - mean for g in gradient]

    one = [jnp.ones_like(budget)] * n

    def sweep(state):
        i, z, inside, _ = state
        factor = _factor(matrix, inside)
        best = _solved(factor, right)
        multiplier = jnp.zeros_like(budget)
        if summed:
            ones = _solved(factor, one)
            total = sum(ones)
            multiplier = (sum(best) - budget) / jnp.where(total > 0, total, 1.0)
            best = [x - multiplier * y for x, y in zip(best, ones, strict=True)]
        below = [f & (x <= 0) for f, x in zip(inside, best, strict=True)]
        reach = [
            jnp.where(b, old / jnp.maximum(old - new, small), 2.0)
            for b, old, new in zip(below, z, best, strict=True)
        ]
        step = _least(reach)
        blocked = step <= 1
        stay = [f & ~(b & (r <= step)) for f, b, r in zip(inside, below, reach, strict=True)]
        step = jnp.minimum(step, 1.0)
        moved = [
            jnp.where(blocked, jnp.maximum(old + step * (new - old), 0.0), new)
            for old, new in zip(z, best, strict=True)
        ]
        moved = [jnp.where(f, x, h) for f, x, h in zip(stay, moved, held, strict=True)]
        price = [
            jnp.where(f | ~can, 0.0, x - t + multiplier)
            for f, can, x, t in zip(inside, free, _product(matrix, moved), target, strict=True)
        ]
        lowest = _least(price)
        enter = [~blocked & (p < 0) & (p <= lowest) for p in price]
        new = tuple(f | e for f, e in zip(stay, enter, strict=True))
        changed = functools.reduce(operator.or_, (f ^ g for f, g in zip(new, inside, strict=True)))
        return i + 1, tuple(moved), new, changed.any()

    inside = tuple(f & ((h > 0) | (s < 0)) for f, h, s in zip(free, start, slope, strict=True))
    first = jnp.zeros((), int), tuple(start), inside, jnp.ones((), bool)
    z = jax.lax.while_loop(lambda s: s[3] & (s[0] <= n), sweep, first)[1]
    if summed:  # what rounding has moved
        total = sum(x - h for x, h in zip(z, held, strict=True))
        scale = budget / jnp.where(total > 0, total, 1.0)
        z = [jnp.where(f & (total > 0), x * scale, x) for f, x in zip(free, z, strict=True)]
    moved = [x - h for x, h in zip(z, start, strict=True)]
    halves = [g + 0.5 * x for g, x in zip(gradient, _product(matrix, moved), strict=True)]
    # false for NaN, too; nearly singular matrices can make a step that leads upwards
    good = sum(d * x for d, x in zip(moved, halves, strict=True)) <= 0
    if summed:
        good = good & ((total > 0) | (budget <= 0))
    return jnp.stack([jnp.where(good, x, h) for x, h in zip(z, start, strict=True)])


def _product(matrix, vector):
    """Rows of the matrix times the vector; both as rows of pixels."""
    return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]


def _least(rows):
    out = rows[0]
    for row in rows[1:]:
        out = jnp.minimum(out, row)
    return out


def _factor(matrix, free):
    """`L D L'` of the free block scaled to a unit diagonal: L below the diagonal, 1 / D, the scale.

    Rows and columns that are not free are those of the unit matrix, and their scale is zero.
    """
    n, info = len(matrix), jnp.finfo(matrix.dtype)
    scale = [
        jnp.where(f, jax.lax.rsqrt(jnp.maximum(matrix[a, a], info.tiny)), 0.0)
        for a, f in enumerate(free)
    ]
    lower: list[list[Any]] = [[] for _ in range(n)]
    pivots = []
    for i in range(n):
        whole: list[Any] = []  # row i of L D
        for j in range(i):
            x = matrix[i, j] * scale[i] * scale[j]
            whole.append(x - sum(whole[k] * lower[j][k] for k in range(j)))
        lower[i] = [x * p for x, p in zip(whole, pivots, strict=True)]
        square = 1.0 - sum(x * y for x, y in zip(whole, lower[i], strict=True))
        pivots.append(1 / jnp.maximum(square * jnp.ones_like(scale[i]), info.eps))
    return lower, pivots, scale


def _solved(factor, right):
    """The free entries of the solution of `A x = right`, the others zero."""
    lower, pivots, scale = factor
    n = len(pivots)
    x = []
    for a in range(n):
        x.append(right[a] * scale[a] - sum(lower[a][k] * x[k] for k in range(a)))
    for a in reversed(range(n)):
        x[a] = x[a] * pivots[a] - sum(lower[k][a] * x[k] for k in range(a + 1, n))
    return [y * s for y, s in zip(x, scale, strict=True)]


def _inverted(factor):
    """The inverse of the free block, zero elsewhere: `M' (1 / D) M`, scaled from both sides.

    M is the inverse of L.
    """
    lower, pivots, scale = factor
    n = len(pivots)
    rows: list[list[Any]] = []  # of M, without the ones on its diagonal
    for i in range(n):
        rows.append(
            [
                -(lower[i][j] + sum(lower[i][k] * rows[k][j] for k in range(j + 1, i)))
                for j in range(i)
            ]
        )
    inverse = {}
    for a, b in pairs(n):
        own = pivots[b] * (rows[b][a] if a < b else 1.0)
        both = own + sum(rows[k][a] * pivots[k] * rows[k][b] for k in range(b + 1, n))
        inverse[a, b] = inverse[b, a] = both * scale[a] * scale[b]
    return inverse
