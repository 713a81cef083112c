"""Which mixtures fit as well: against the mixing that a noise-free image allows."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax._basis import Basis
from esmpy_jax.inference._anchor import JudgedPools, left_open, mixtures
from esmpy_jax.inference._identifiability import (
    _inward_costs,
    _settled,
    hidden_shares,
    mixture,
    verdicts,
)
from esmpy_jax.inference._pools import LEAST_COUNTS, number_of_pools, pooled_by_shares
from esmpy_jax.inference._warnings import of_ambiguity, of_ranges, of_starts
from esmpy_jax.objective import SumToOneAbundances, as_counts
from esmpy_jax.solve import AbundanceNewton, GivenStart, factorise

MATRIX = np.array([[0.6, 0.1], [0.3, 0.1], [0.1, 0.0], [0.0, 0.8]])  # column, phase
SUMS = 40_000.0


def percent(weights):
    return 100 * weights / weights.sum(0)


def ambiguities_of(most, pure_first=True, draws=None, known=None, brightness=None, weights=MATRIX):
    """Two phases, the second with shares up to `most`; counts as expected, or drawn."""
    rng = np.random.default_rng(0)
    shapes = rng.random((50, 4)) ** 4
    basis = shapes / shapes.sum(0)
    ramp = np.linspace(0 if pure_first else 0.2, most, 64)
    maps = np.stack([1 - ramp, ramp])
    expected = SUMS * (basis @ weights @ maps).T
    data = np.round(expected) if draws is None else np.random.default_rng(draws).poisson(expected)
    fit = factorise(
        as_counts(data.astype(int)),
        basis,
        2,
        solver=AbundanceNewton(),
        start=GivenStart(jnp.asarray(SUMS * weights, float), jnp.asarray(maps, float)),
        constraint=SumToOneAbundances(brightness),
        fixed_weights=SUMS * weights,
    )
    return ej.ambiguities(fit, percent, known)


@pytest.mark.parametrize("most", [0.3, 0.6])
def test_a_phase_that_never_fills_a_pixel_may_be_a_mixture(most):
    """h_b - t h_a / (1 - t) >= 0 in the pixel with the most of it ends at t = 1 - most."""
    first, second = ambiguities_of(most)
    assert second.mixed_in[0] == pytest.approx(1 - most, rel=0.03)
    assert second.pure_counts == 0
    assert not second.is_determined
    assert second.mixed_in[1] == 0
    t = second.mixed_in[0]
    mixed = percent((1 - t) * MATRIX[:, 1:] + t * MATRIX[:, :1])[:, 0]
    ends = np.stack([mixed, percent(MATRIX)[:, 1]])
    assert (second.low <= ends.min(0) + 1e-6).all()
    assert (second.high >= ends.max(0) - 1e-6).all()
    # the first fills pixels, so that nothing can be mixed in, and is said to be pure there
    assert first.has_pure_pixels
    assert first.mixed_in[1] < 0.01
    assert first.is_determined


def test_phases_with_pure_pixels_are_determined():
    for draws in range(3):
        for phase in ambiguities_of(1.0, draws=draws):
            assert phase.has_pure_pixels
            assert phase.is_determined


def test_an_absent_element_closes_what_was_open():
    """The first has a tenth of the third element, which the second is known to lack."""
    lacks = np.zeros(MATRIX.shape, bool)
    lacks[2, 1] = True
    free, informed = (ambiguities_of(0.6, known=known)[1] for known in (None, lacks))
    assert free.mixed_in[0] == pytest.approx(0.4, rel=0.03)
    assert not free.is_determined
    # 4000 counts of that element would be missed in a pixel of the first, of which 1 in 60 is seen
    assert informed.mixed_in[0] < 0.05
    assert informed.is_determined
    lacks = np.zeros(MATRIX.shape, bool)
    lacks[3, 0] = True  # of another phase: that says nothing
    assert ambiguities_of(0.6, known=lacks)[1].mixed_in[0] == free.mixed_in[0]


def test_a_known_brightness_closes_what_was_open():
    """Both phases are equally bright: nothing. Were one twice as bright, mixtures would be, too."""
    sums = SUMS * MATRIX.sum(0)
    same = ambiguities_of(0.6, brightness=sums)[1]
    assert same.mixed_in[0] == pytest.approx(0.4, rel=0.05)
    uneven = MATRIX * [2, 1]
    free = ambiguities_of(0.6, weights=uneven)[1]
    informed = ambiguities_of(0.6, brightness=SUMS * uneven.sum(0), weights=uneven)[1]
    assert not free.is_determined
    assert informed.mixed_in[0] < 0.02
    assert informed.is_determined


def test_no_more_of_a_phase_can_be_hidden_than_there_is_of_its_elements():
    """A tenth of the second phase in the first leaves its rarest element a tenth of what it has."""
    pure = np.array([[0.6, 0.1, 0.0], [0.4, 0.7, 0.0], [0.0, 0.2, 0.0]])  # element, phase
    mixed = pure @ np.array([[0.9, 0, 0], [0.1, 1, 0], [0, 0, 1]])
    exact = np.zeros_like(pure)
    assert hidden_shares(pure, exact)[0, 1] == 0.0  # the first lacks the third element
    found = hidden_shares(mixed, exact)
    assert found[0, 1] == pytest.approx(0.1, rel=1e-6)
    assert found[1, 0] == pytest.approx(0.1 / mixed[0, 0], rel=1e-6)  # by the first element
    assert (np.diag(found) == 0).all()
    assert (found[2] == 0).all()  # a phase without atoms
    assert (found[:, 2] == 0).all()
    assert hidden_shares(mixed, exact + 0.01)[0, 1] > found[0, 1]
    # nothing is known of a phase with errors as large as itself, or none: anything may be hidden
    for errors in (0.9, np.nan):
        vague = exact.copy()
        vague[:, 0] = errors
        assert hidden_shares(mixed, vague)[0, 1] == 1.0


def test_the_bound_of_what_is_hidden_holds_with_noise():
    """The bound of 95 % holds the true tenth in 190 of 200 draws, less two standard errors."""
    rng = np.random.default_rng(0)
    pure = np.array([[0.5, 0.2], [0.47, 0.5], [0.03, 0.1], [0.0, 0.1], [0.0, 0.1]])
    mixed = pure @ np.array([[0.9, 0.0], [0.1, 1.0]])
    errors = np.array([[0.01, 0.01], [0.01, 0.01], [0.003, 0.005], [0.002, 0.005], [0.002, 0.005]])
    bounds = []
    for _ in range(200):
        noisy = np.maximum(mixed + errors * rng.normal(size=errors.shape), 0.0)
        bounds.append(hidden_shares(noisy, errors)[0, 1])
    assert np.mean(np.array(bounds) >= 0.1) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 200)
    assert np.median(bounds) < 0.2  # and says something


def test_all_pairs_and_mixtures_share_one_program():
    names = []

    def listen(event, seconds, fun_name="", **_):
        names.append(fun_name if event.endswith("backend_compile_duration") else "")

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        ambiguities_of(0.6)
        ambiguities_of(0.45, pure_first=False)  # other mixtures, and some are taken away
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    of = {f.__name__: names.count(f"jit({f.__name__})") for f in (mixture, _inward_costs, _settled)}
    assert of == {"mixture": 1, "_inward_costs": 1, "_settled": 1}


def test_what_may_be_taken_away_ends_where_an_element_is_gone():
    """Of the first phase, nowhere pure, the second can be taken away until its column is empty."""
    first, second = ambiguities_of(0.8, pure_first=False)
    assert not first.has_pure_pixels
    # (1 + s) w_1 - s w_2 has no third column, and a fourth below zero for any s > 0
    assert first.taken_away[1] < 0.02
    # of the second: 0.1 (1 + s) - 0.3 s and 0 (1 + s) - 0.1 s
    assert second.taken_away[0] < 0.02
    assert second.lacking == (2,)
    assert first.lacking == (3,)


def test_the_order_and_the_record():
    first, second = ambiguities_of(0.3)
    assert second.ordered(np.array([1, 0])).mixed_in == second.mixed_in[::-1]
    record = second.record()
    assert record["determined"] is False
    assert record["mixed_in"] == second.mixed_in
    assert first.record()["determined"] is True


def test_sentences():
    first, second = ambiguities_of(0.3)
    names, elements, neither = ["matrix", "grain"], ["O", "Mg", "Si", "Fe"], np.zeros(2, bool)
    (sentence,) = of_ambiguity(names, elements, [first, second], neither)
    assert sentence.startswith("The counts cannot tell grain from mixtures: it never fills a pixel")
    assert "% of matrix" in sentence
    assert of_ambiguity(names, elements, [first, first], neither) == []
    assert of_ambiguity(names, elements, [first, second], np.array([False, True])) == []
    known = dataclasses.replace(second, lacking=(2, 3))
    (sentence,) = of_ambiguity(names, elements, [first, known], neither)
    assert "has no Si and Fe" in sentence
    much = dataclasses.replace(second, taken_away=(1.6, 0.0))
    (sentence,) = of_ambiguity(names, elements, [first, much], neither)
    assert "with matrix taken away from it until an element is gone" in sentence
    assert of_starts(1, 5)[0].startswith("Only one of 5 starts")
    assert of_starts(2, 5) == []
    assert of_starts(1, 1) == []


@pytest.mark.parametrize("storage", ["sparse", "dense"])
def test_pools_hold_all_counts_and_pixels_alike(storage):
    rng = np.random.default_rng(0)
    n = 5000
    corners = np.eye(3)[rng.integers(0, 3, n)]
    maps = (0.7 * corners + 0.3 * rng.dirichlet(np.ones(3), n)).T
    data = rng.poisson(0.5, (n, 40))
    whole = as_counts(data, storage=storage)
    counts, mean = pooled_by_shares(whole, maps, number_of_pools(whole.total))
    totals = np.asarray(counts.pixel_totals())
    assert totals.sum() == data.sum()
    assert np.asarray(counts.exposure).sum() == pytest.approx(n)
    # 64 pools of at least 1000 counts, and one more for each pair of phases
    assert counts.n_pixels == 64 + 3
    filled = np.asarray(mean)[:, totals > 0]
    np.testing.assert_allclose(filled.sum(0), 1, rtol=1e-5)
    # the purest pool of each phase is as pure as its purest pixels
    size = data.sum() / 64
    assert size >= LEAST_COUNTS
    for a in range(3):
        purest = np.sort(maps[a])[-int(2 * n / 64) :]
        assert filled[a].max() > purest.min()
    # and no pool mixes shares that are far apart along its way
    assert (np.sort(filled, 0)[-1] > 0.5).mean() > 0.9


def test_a_small_particle_is_determined_though_no_square_bin_is_pure():
    """A disc of radius 5, pure, in 64 x 64 pixels: bins of 16 x 16 hold at most a third of it."""
    rng = np.random.default_rng(1)
    shapes = rng.random((50, 4)) ** 4
    basis = shapes / shapes.sum(0)
    y, x = np.mgrid[:64, :64] - 32
    disc = (y**2 + x**2 <= 25).astype(float).ravel()
    maps = np.stack([1 - disc, disc])
    data = rng.poisson(200 * (basis @ MATRIX @ maps).T)
    fit = factorise(
        as_counts(data, scan_shape=(64, 64)),
        basis,
        2,
        solver=AbundanceNewton(),
        start=GivenStart(jnp.asarray(200 * MATRIX, float), jnp.asarray(maps, float)),
        constraint=SumToOneAbundances(),
        fixed_weights=200 * MATRIX,
    )
    _, small = ej.ambiguities(fit, percent)
    assert small.has_pure_pixels
    assert small.is_determined


SHAPES = np.random.default_rng(0).random((50, 4)) ** 4
BASIS = SHAPES / SHAPES.sum(0)
PER_POOL = 1000.0


def _left_open(extra, width, seed, pools=64):
    """Anchor and range of the second phase, whose W has the share `extra` of the first in it.

    The true shares of the pools go from 1 to 1 - width; they are found with noise in the maps of
    0.02, which are no maps of these counts.
    """
    rng = np.random.default_rng(seed)
    share = 1 - width * np.arange(pools) / (pools - 1)
    data = rng.poisson(PER_POOL * (BASIS @ MATRIX @ np.stack([1 - share, share])).T)
    seen = np.clip(share + 0.02 * rng.normal(size=pools), 0, 1)
    found = PER_POOL * MATRIX @ np.array([[1.0, extra], [0.0, 1 - extra]])
    tried = mixtures(Basis.from_matrix(BASIS), found, BASIS @ found, 1, 0)
    pools_of = JudgedPools(data.astype(float), np.ones(pools), np.stack([1 - seen, seen]))
    return left_open(tried, pools_of, 1, PER_POOL)


@pytest.mark.parametrize("extra", [-0.03, 0.0, 0.03])
def test_what_pure_counts_leave_open_holds_the_truth(extra):
    """A flat particle: all pools are alike, and the range holds `-extra` in 95 % (100 draws)."""
    kept = [_left_open(extra, 0.0, seed) for seed in range(100)]
    right = -extra / (1 - extra)
    inside = [low <= right <= high for _, low, high in kept]
    assert np.mean(inside) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 100)
    counts = np.array([n for n, _, _ in kept])
    total = 64 * PER_POOL * (BASIS @ MATRIX).sum(0)[1]
    # each of six tests fails in 5 % of the draws, and then half of the pools or fewer are taken
    assert np.mean(counts > 0.9 * total) >= 0.95**6 - 3 * np.sqrt(0.26 * 0.74 / 100)


def test_the_range_is_as_wide_as_the_counts_say():
    """1.96 / sqrt(information) to each side where no share is cut off at zero, within 5 %."""
    kept = [_left_open(0.0, 0.0, seed) for seed in range(10)]
    kept = [k for k in kept if k[0] > 0.9 * 64 * PER_POOL and k[1] < 0 < k[2]]
    assert len(kept) >= 3
    d = BASIS @ MATRIX
    for n, low, high in kept:
        information = n * ((d[:, 1] - d[:, 0]) ** 2 / d[:, 1]).sum()
        assert high - low == pytest.approx(2 * 1.96 / np.sqrt(information), rel=0.05)


def test_of_a_round_particle_only_the_purest_pools_are_taken():
    """Shares from 1 to 0.5: the range holds the truth mostly, though the purest are not pure."""
    kept = [_left_open(0.03, 0.5, seed) for seed in range(40)]
    right = -0.03 / 0.97
    assert np.median([n for n, _, _ in kept]) <= 16 * PER_POOL
    assert np.mean([low <= right <= high for _, low, high in kept]) >= 0.5


def test_many_counts_lose_nothing():
    """A pool may hold more counts than 32 bits do; what is left open is then next to nothing."""
    found = 1e11 * MATRIX
    tried = mixtures(Basis.from_matrix(BASIS), found, BASIS @ found, 1, 0)
    expected = np.round((BASIS @ found).T[[1, 1, 0]])
    maps = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    counts, low, high = left_open(tried, JudgedPools(expected, np.ones(3), maps), 1, PER_POOL)
    assert counts == pytest.approx(expected[:2].sum())
    assert -1e-3 < low <= 0 <= high < 1e-3


@pytest.mark.parametrize(("storage", "exposed"), [("dense", False), ("sparse", True)])
def test_noise_that_orders_pure_pixels_leaves_nothing_open(storage, exposed):
    """Two phases side by side, pure, at 20 counts per pixel, evenly exposed or not.

    By the maps of the same counts the purest tenth of the second would look purer than pure, and
    the range begin far below zero.
    """
    maps, ends = np.repeat([[1.0, 0.0], [0.0, 1.0]], 4096, axis=1), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        exposure = rng.uniform(0.5, 1.5, 8192) if exposed else np.ones(8192)
        data = rng.poisson(20 * exposure * (BASIS @ MATRIX @ maps)).T
        fit = factorise(
            as_counts(data, storage=storage, exposure=exposure if exposed else None),
            BASIS,
            2,
            solver=AbundanceNewton(),
            start=GivenStart(jnp.asarray(20 * MATRIX, float), jnp.asarray(0.8 * maps + 0.1, float)),
            constraint=SumToOneAbundances(),
            fixed_weights=20 * MATRIX,
        )
        first, second = ej.ambiguities(fit, percent, key=jr.key(seed))
        for phase, other in ((first, 1), (second, 0)):
            low, high = phase.unsettled[other]
            assert low <= 0 <= high
            ends.append((low, high))
            assert exposed or phase.anchor_counts > 0.1
    # of 32 such ranges none went beyond 0.06; by maps of the same counts all begin at -0.17
    assert np.abs(ends).max() < 0.1
    assert np.abs(np.mean(ends, axis=0)).max() < 0.03


def test_what_is_left_open_is_in_the_range_and_no_ambiguity():
    """Also given entries of W are in no mixture."""
    _, second = ambiguities_of(1.0)
    low, high = second.unsettled[0]
    assert low < 0 < high or low < 0 == high or low == 0 < high
    assert (second.high - second.low).max() > second.change
    assert second.is_determined
    assert second.ordered(np.array([1, 0])).unsettled == second.unsettled[::-1]
    held = ambiguities_of(1.0, known=np.ones((4, 2), bool))[1]
    np.testing.assert_allclose(held.low, held.high)


def test_verdicts():
    """Open by mixtures or by a wide range; not known without elements, numbers or convergence."""
    first, second = ambiguities_of(0.3)
    width = np.array([[1.0, 1.0, 19.0, 21.0, 1.0, np.nan], [4.0, 2.0, 3.0, 1.0, 1.0, 1.0]])
    phases = [first, second, first, first, first, first]
    barren = np.array([False, False, False, False, True, False])
    assert verdicts(phases, width, barren, True) == [1, 0, 1, 0, -1, -1]
    assert verdicts(phases, width, barren, False) == [-1] * 6
    nowhere = dataclasses.replace(first, pure_counts=0.0)
    assert verdicts([nowhere] * 2, np.array([[9.0, 11.0]]), barren[:2], True) == [1, 0]
    low, high = np.zeros((2, 2)), np.array([[2.0, 1.0], [3.0, 24.0]])
    (sentence,) = of_ranges(["a", "b"], ["O", "Mg"], [first, first], low, high, [1, 0])
    assert sentence.startswith("The composition of b is open: the counts leave Mg between 0 and 24")
    assert of_ranges(["a", "b"], ["O", "Mg"], [first, second], low, high, [1, 0]) == []


def test_a_mixture_of_several_has_the_same_product(x64):
    """Two phases in a third, mixed in and taken away: the same counts are expected everywhere."""
    rng = np.random.default_rng(0)
    basis = Basis.from_matrix(rng.random((20, 6)))
    w, h = jnp.asarray(rng.random((6, 3)) + 1), jnp.asarray(rng.dirichlet(5 * np.ones(3), 40).T)
    h = h[:, h.min(0) > 0.1]
    before = basis.endmembers(w)
    for shares in ([0.05, 0.0, 0.08], [-0.2, 0.0, -0.1], [0.1, 0.0, -0.1]):
        after, maps = mixture(basis, w, before, h, jnp.asarray(1), jnp.asarray(shares))
        np.testing.assert_allclose(after @ maps, before @ h, rtol=1e-12)
        assert not np.allclose(after[:, 1], before[:, 1], rtol=0.01)


def test_small_mixtures_that_matter_are_told():
    """An element that a little of another phase changes much."""
    phase = dataclasses.replace(
        ambiguities_of(0.3)[1], mixed_in=(0.04, 0.0), taken_away=(0.01, 0.0), change=7.0
    )
    (sentence,) = of_ambiguity(["a", "b"], ["O", "Mg", "Si", "Fe"], [phase], np.zeros(1, bool))
    assert "with a little of the others mixed in or taken away it fits as well" in sentence
