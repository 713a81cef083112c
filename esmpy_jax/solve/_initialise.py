"""Start values of W and H."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._arrays import as_floats
from .._basis import Basis
from .._checks import check
from .._seldom import seldom_run
from .._types import Abundances, Weights
from ..objective import SumToOneAbundances, SumToOneWeights, exposure_or_one
from ._solver import Problem


class AbstractStart(eqx.Module):
    """How a fit begins."""

    @abc.abstractmethod
    def __call__(
        self, problem: Problem, n_phases: int, key: PRNGKeyArray
    ) -> tuple[Weights, Abundances]:
        """W and H that satisfy the problem's constraint and fixed entries."""


class RandomStart(AbstractStart):
    """Columns that contribute random shares of the counts, and random abundances."""

    def __call__(self, problem, n_phases, key):
        weights, maps = _random(problem.basis, n_phases, problem.counts.n_pixels, key)
        return in_gauge(problem, weights, maps)


@seldom_run
def _random(basis, n_phases, n_pixels, key):
    w_key, h_key = jr.split(key)
    shares = jr.uniform(w_key, (basis.n_columns, n_phases), minval=0.05)
    sums = basis.column_sums
    weights = jnp.where(sums > 0, shares / _safe(sums), 0.0)
    return weights, jr.uniform(h_key, (n_phases, n_pixels), minval=0.05)


class NNDSVDStart(AbstractStart):
    """Non-negative double SVD (Boutsidis & Gallopoulos, Pattern Recognition 41 (2008) 1350).

    The counts of each pixel are first shared out among the columns of G by one multiplicative
    step from the weights of the summed spectrum, so the SVD is of a small (column, pixel) matrix
    and needs no randomness. Zeros are replaced by a hundredth of the mean, since multiplicative
    updates cannot leave zero.
    """

    def __call__(self, problem, n_phases, key):
        basis, counts = problem.basis, problem.counts
        check(
            n_phases <= min(basis.n_columns, counts.n_pixels),
            f"NNDSVD needs at least as many columns and pixels as phases ({n_phases}); "
            "use a random start.",
        )
        single = basis.matrix.mean(0) if basis.depends_on_phase else basis.matrix
        scaled = single * mean_weights(single, counts.sum_spectrum())[None, :]
        shared = counts.pixel_pass(scaled, jnp.ones((basis.n_columns, counts.n_pixels)))
        left, right = _nndsvd(np.asarray(shared, float), n_phases)
        sums = single.sum(0)[:, None]
        weights = jnp.where(sums > 0, jnp.asarray(left, float) / _safe(sums), 0.0)
        return in_gauge(problem, weights, jnp.asarray(right, float))


def _as_floats(values) -> Any:
    return None if values is None else as_floats(values)


class GivenStart(AbstractStart):
    """The caller's own factors, in any gauge.

    They are kept as they are where they satisfy the constraint; else see `in_gauge`. Without
    `abundances` every phase starts with the same share of each pixel's counts.
    Raises `InputError` when their shapes do not fit or an entry is negative or not finite.
    """

    weights: Float[Array, "column phase"] = eqx.field(converter=_as_floats)
    abundances: Float[Array, "phase pixel"] | None = eqx.field(default=None, converter=_as_floats)

    def __call__(self, problem, n_phases, key):
        expected = (problem.basis.n_columns, n_phases)
        check(
            self.weights.shape == expected,
            f"The start's W has shape {self.weights.shape}; G and n_phases ask for {expected}.",
        )
        _check_entries(self.weights, "W")
        if self.abundances is None:
            maps = as_floats(np.full((n_phases, problem.counts.n_pixels), 1.0 / n_phases))
            return in_gauge(problem, self.weights, maps)
        expected = (n_phases, problem.counts.n_pixels)
        check(
            self.abundances.shape == expected,
            f"The start's H has shape {self.abundances.shape}; the image asks for {expected}.",
        )
        _check_entries(self.abundances, "H")
        return in_gauge(problem, self.weights, self.abundances, keep_scale=True)


def in_gauge(
    problem: Problem, weights: Weights, abundances: Abundances, *, keep_scale: bool = False
) -> tuple[Weights, Abundances]:
    """W and H moved to the problem's gauge without changing the spectra or the shares.

    H holds each phase's share of a pixel's counts, and the result is scaled to that pixel's
    counts; with `keep_scale` W and H are taken as they are and moved only as far as the constraint
    asks. Fixed entries are put in, and constrained sums restored on the free ones.
    """
    if keep_scale:
        if isinstance(problem.constraint, SumToOneAbundances):
            if bool(_sums_to_one(abundances)):
                return _with_fixed(problem, weights, _over_sum(abundances))
        elif not isinstance(problem.constraint, SumToOneWeights):
            return _with_fixed(problem, weights, abundances)
    return _moved(problem, weights, abundances, keep_scale)


@seldom_run
def _sums_to_one(maps):
    return (jnp.abs(maps.sum(0) - 1) < 1e-3).all()


@seldom_run
def _over_sum(maps):
    return maps / maps.sum(0)[None, :]


@seldom_run
def _moved(problem, weights, abundances, keep_scale):
    sums = (problem.basis.column_sums * weights).sum(0)
    unit, maps = weights / _safe(sums)[None, :], abundances
    if keep_scale:
        maps = maps * sums[:, None]
    else:
        per_exposure = problem.counts.pixel_totals() / _safe(exposure_or_one(problem.counts)[0])
        per_exposure = jnp.maximum(per_exposure, 1e-3 * per_exposure.mean())  # empty pixels
        maps = maps / _safe(maps.sum(0))[None, :] * per_exposure[None, :]
    if isinstance(problem.constraint, SumToOneAbundances):
        total, exposure = maps.sum(0), exposure_or_one(problem.counts)[0]
        shares = jnp.where((total > 0)[None, :], maps / _safe(total)[None, :], 1.0 / len(maps))
        mean = (total * exposure).sum() / _safe(exposure.sum())
        weights, maps = unit * mean, shares
    elif isinstance(problem.constraint, SumToOneWeights):
        rows = jnp.asarray(problem.basis.composition_rows)
        scale = jnp.where(rows[:, None], unit, 0.0).sum(0)
        scale = jnp.where(scale > 0, scale, 1.0)
        weights, maps = unit / scale[None, :], maps * scale[:, None]
    else:
        weights = unit
    return _with_fixed(problem, weights, maps)


@eqx.filter_jit
def mean_weights(
    matrix: Float[Array, "channel column"], spectrum: Float[Array, " channel"], steps: int = 300
) -> Float[Array, " column"]:
    """Poisson fit of one spectrum by `steps` multiplicative updates: y = G w."""
    sums = matrix.sum(0)
    start = jnp.where(sums > 0, spectrum.sum() / len(sums) / _safe(sums), 0.0)

    def step(_, w):
        model = jnp.matmul(matrix, w, precision="highest")
        ratio = jnp.where(model > 0, spectrum / _safe(model), 0.0)
        return w * jnp.matmul(matrix.T, ratio, precision="highest") / _safe(sums)

    return jax.lax.fori_loop(0, steps, step, start)


def spectrum_basis_weights(basis: Basis, spectrum: Float[Array, " channel"]) -> Weights:
    """Weights (column, 1) of one spectrum, for example the sum of the image."""
    single = basis.matrix.mean(0) if basis.depends_on_phase else basis.matrix
    return mean_weights(single, spectrum)[:, None]


def _with_fixed(problem, weights, maps):
    if problem.fixed_weights is None and problem.fixed_abundances is None:
        return weights, maps
    return _filled(problem, weights, maps)


@seldom_run
def _filled(problem, weights, maps):
    if problem.fixed_weights is not None:
        rows = None
        if isinstance(problem.constraint, SumToOneWeights):
            rows = jnp.asarray(problem.basis.composition_rows)[:, None]
        before = (problem.basis.column_sums * weights).sum(0)
        weights = _fill(problem.fixed_weights, weights, rows)
        if not isinstance(problem.constraint, SumToOneAbundances):
            after = (problem.basis.column_sums * weights).sum(0)
            maps = maps * jnp.where(after > 0, before / _safe(after), 1.0)[:, None]
    if problem.fixed_abundances is not None:
        rows = None
        if isinstance(problem.constraint, SumToOneAbundances):
            rows = jnp.ones((len(maps), 1), bool)
        maps = _fill(problem.fixed_abundances, maps, rows)
    return weights, maps


def _fill(fixed, entries, summed_rows):
    if summed_rows is None:
        return fixed.apply(entries)
    free = summed_rows & ~fixed.mask
    left = 1.0 - jnp.where(summed_rows & fixed.mask, fixed.values, 0.0).sum(0)
    have = jnp.where(free, entries, 0.0).sum(0)
    entries = jnp.where((have > 0)[None, :], entries, 1.0)
    have = jnp.where(have > 0, have, free.sum(0).astype(have.dtype))
    scaled = entries * (jnp.maximum(left, 0.0) / _safe(have))[None, :]
    return fixed.apply(jnp.where(free, scaled, entries))


def _nndsvd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    singular = np.sqrt(np.maximum(values, 0.0))
    # the data may hold fewer than `rank` directions; the others start flat
    singular = np.where(singular > 1e-7 * singular[0], singular, 0.0)
    right = (vectors.T @ matrix) / np.where(singular > 0, singular, np.inf)[:, None]
    left_out, right_out = np.empty_like(vectors), np.empty_like(right)
    for j in range(rank):
        u, v = vectors[:, j], right[j]
        parts = [(np.maximum(s * u, 0), np.maximum(s * v, 0)) for s in (1.0, -1.0)]
        sizes = [np.linalg.norm(p) * np.linalg.norm(q) for p, q in parts]
        p, q = parts[int(np.argmax(sizes))]
        scale = np.sqrt(singular[j] * max(sizes))
        left_out[:, j] = scale * p / max(np.linalg.norm(p), 1e-300)
        right_out[j] = scale * q / max(np.linalg.norm(q), 1e-300)
    floor_left, floor_right = 0.01 * left_out.mean(), 0.01 * right_out.mean()
    return np.maximum(left_out, floor_left), np.maximum(right_out, floor_right)


def _check_entries(array, name):
    check(
        bool(_usable(array)),
        f"The start's {name} holds negative or non-finite entries; give factors >= 0.",
    )


@seldom_run
def _usable(array):
    return (jnp.isfinite(array) & (array >= 0)).all()


def _safe(x):
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny * 2.0**20)
