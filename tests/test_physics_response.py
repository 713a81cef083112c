"""Tail, shelf, escape and sum peaks: against quadrature, sums over pairs and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xraylib
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from scipy.stats import norm

from esmpy_jax import EDSModel, InputError
from esmpy_jax.physics import (
    Detector,
    EnergyAxis,
    IncompleteCharge,
    Layer,
    LayeredEfficiency,
    PileUp,
    Resolution,
    Response,
    SiliconEscape,
    detector_window,
    line_profiles,
)
from esmpy_jax.physics._profiles import at_once, edge_distances, one_by_one
from esmpy_jax.physics._response import shelf_widths, tail_shares

RESOLUTION = (130.0, 0.12)
WIDE = (-1.0, 0.01, 1300)  # keV; nothing of lines up to 10 keV falls outside
ENERGIES = [0.3, 1.25, 1.838, 1.84, 6.4, 9.7]


def every_part(pile_up=None):
    return Response(IncompleteCharge(300.0, 150.0, 0.05), SiliconEscape(), pile_up)


@eqx.filter_jit
def shares_of(response, axis, energy, resolution, reach=None):
    return response.lines(axis, energy, resolution, reach).times(jnp.eye(len(energy)))


@eqx.filter_jit
def continuum_of(response, axis, resolution, emitted, reach):
    return response.continuum(axis, resolution, emitted, reach)


def sigma_at(energy):
    return float(Resolution.from_mn_ka(*RESOLUTION).fwhm(jnp.asarray(energy))) / 2.354820045


@pytest.mark.parametrize(("quadratic", "tolerance"), [(0.0, 1e-9), (2e-8, 1e-2)])
def test_windows_around_lines_leave_nothing_out(x64, quadratic, tolerance):
    """Far from a line its tail is exponential and its shelf level.

    On a bent axis (by 24 eV at its end) both use the width of a channel at the line.
    """
    axis = EnergyAxis(-0.2, 0.01, 1100, quadratic)
    energy, resolution = jnp.array(ENERGIES), Resolution.from_mn_ka(*RESOLUTION)
    whole, near = (shares_of(every_part(), axis, energy, resolution, reach) for reach in (None, 64))
    np.testing.assert_allclose(near, whole, rtol=tolerance, atol=1e-16)


def test_windows_are_added_alike_on_every_device(x64):
    """One after the other and at once, lines outside of the axis included."""
    axis, energy = EnergyAxis(0.5, 0.01, 300), jnp.array([-0.9, 0.3, 0.52, 2.0, 3.4, 3.6, 9.0])
    shapes = Response().lines(axis, energy, Resolution.from_mn_ka(*RESOLUTION), 32)
    (window,) = shapes.windows
    amounts = jnp.asarray(np.random.default_rng(0).uniform(size=(len(energy), 3)))
    found = [f(300, window.first, window.shares, amounts) for f in (one_by_one, at_once)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-15)
    expected = (
        line_profiles(axis, energy, Resolution.from_mn_ka(*RESOLUTION).fwhm(energy)) @ amounts
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def falling(energy):
    return jnp.exp(-energy)[:, None]


def test_a_bent_axis_sees_the_same_spectrum(x64):
    """Counts between two energies do not depend on where channels begin and end."""
    energy, resolution = jnp.array([1.25, 6.4]), Resolution.from_mn_ka(*RESOLUTION)
    bent, straight = EnergyAxis(0.1, 0.01, 900, 2e-8), EnergyAxis(0.1, 0.01, 950)

    def between(counts, edges):
        """Counts of the straight axis, shared out to other channels."""
        total = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
        return np.diff(CubicSpline(np.asarray(straight.edges), total)(edges), axis=0)

    lines = [
        np.asarray(shares_of(every_part(), a, energy, resolution, 64)) for a in (bent, straight)
    ]
    expected = between(lines[1], np.asarray(bent.edges))
    np.testing.assert_allclose(lines[0], expected, rtol=5e-3, atol=1e-6 * expected.max())
    smooth = [
        np.asarray(continuum_of(every_part(), a, resolution, falling, 64))
        * np.asarray(a.widths)[:, None]
        for a in (bent, straight)
    ]
    found, expected = smooth[0], between(smooth[1], np.asarray(bent.edges))
    # a step at an absorption edge is known to a channel only
    assert np.quantile(np.abs(found / expected - 1), 0.95) < 1e-3


@eqx.filter_jit
def broadened(axis, energy, sigma, decay):
    """Tails and shelves of lines."""
    distance = edge_distances(axis, energy)
    return tail_shares(distance, sigma, decay), shelf_widths(distance, sigma)


@pytest.mark.parametrize(("energy", "decay"), [(0.5, 0.01), (1.25, 0.06), (6.4, 0.3)])
def test_tail_and_shelf_are_the_broadened_shapes(x64, energy, decay):
    """Both convolutions done by quadrature, from the far tail to above the line."""
    axis = EnergyAxis(*WIDE)
    edges, sigma = np.asarray(axis.edges), sigma_at(energy)
    line = jnp.array([energy])
    tail, shelf = broadened(axis, line, jnp.array([sigma]), jnp.array([decay]))
    tail, shelf = np.asarray(tail)[:, 0], np.asarray(shelf)[:, 0] / energy
    shelf = shelf * np.clip(edges[1:] / np.diff(edges), 0, 1)

    def exponential(x):
        most = 40 * decay
        at = float(np.clip(energy - x, 0, most))
        scale = 1 / (decay * sigma * np.sqrt(2 * np.pi))
        kernel = lambda u: scale * np.exp(-u / decay - 0.5 * ((x - energy + u) / sigma) ** 2)  # noqa: E731
        return quad(kernel, 0, most, limit=400, points=[at])[0]

    def level(x):
        return norm.sf((x - energy) / sigma) / energy  # of a shelf without an end at zero

    centre = int(np.searchsorted(edges, energy)) - 1
    for channel in centre + np.array([-18, -6, -3, 0, 2, 5]):
        low, high = edges[channel], edges[channel + 1]
        assert tail[channel] == pytest.approx(quad(exponential, low, high)[0], rel=1e-6, abs=1e-12)
        assert shelf[channel] == pytest.approx(quad(level, low, high)[0], rel=1e-8, abs=1e-12)
    assert not shelf[edges[1:] <= 0].any()
    assert float(tail.sum()) == pytest.approx(1, abs=1e-6 + np.exp(-(energy + 0.9) / decay))
    # the part of the peak that is broadened beyond zero is cut off
    assert float(shelf.sum()) == pytest.approx(1, abs=1e-6)


def test_no_photon_is_lost_or_made(precision):
    """Every line's shares sum to one, but for the tail beyond the axis."""
    axis = EnergyAxis(*WIDE)
    energy = jnp.asarray(ENERGIES, float)
    shares = shares_of(every_part(), axis, energy, Resolution.from_mn_ka(*RESOLUTION))
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(0), 1, atol=2e-5 if precision == "float32" else 1e-6)


def test_without_parts_lines_are_gaussian(precision):
    axis, energy = EnergyAxis(*WIDE), jnp.asarray(ENERGIES, float)
    resolution = Resolution.from_mn_ka(*RESOLUTION)
    for response in (Response(), Response(IncompleteCharge(0, 0, 0.03), SiliconEscape(0))):
        np.testing.assert_allclose(
            shares_of(response, axis, energy, resolution),
            line_profiles(axis, energy, resolution.fwhm(energy)),
            atol=1e-6 if precision == "float32" else 1e-12,
        )


def test_a_short_tail_is_the_peak(precision):
    """Within the shift of its mean: by a thirtieth of sigma at most, 0.6 of that of the peak."""
    axis, energy, sigma = EnergyAxis(*WIDE), jnp.array([2.5]), jnp.array([0.04])
    peak = line_profiles(axis, energy, 2.354820045 * sigma)
    for decay in (0.0, 1e-9, 1e-3):
        shares = broadened(axis, energy, sigma, jnp.array([decay]))[0]
        np.testing.assert_allclose(shares, peak, atol=0.04 * float(peak.max()))
        assert float(shares.sum()) == pytest.approx(1, abs=1e-4)


def test_incomplete_charge_follows_the_attenuation_of_silicon(x64):
    part = IncompleteCharge(200.0, 50.0, 0.03)
    tail, shelf = part.shares(jnp.array([1.83, 1.85, 5.9]))
    absorbed = [xraylib.CS_Photo(14, e) * 2.33 * 1e-7 for e in (1.83, 1.85, 5.9)]
    np.testing.assert_allclose(shelf, -np.expm1(-50 * np.array(absorbed)), rtol=5e-3)
    np.testing.assert_allclose(tail + shelf, -np.expm1(-250 * np.array(absorbed)), rtol=5e-3)


@pytest.mark.parametrize("energy", [1.9, 3.0, 5.9, 15.0])
def test_escape_is_what_leaves_through_the_entrance(x64, energy):
    """Absorbed at a depth, emitted in any direction: the integral over both, by quadrature."""
    own = xraylib.CS_Total(14, 1.74)
    mu = xraylib.CS_Total(14, energy)

    def upwards(cosine):  # depth integrated by hand
        return 0.5 * mu / (mu + own / cosine)

    holes = xraylib.FluorYield(14, 0) * (1 - 1 / xraylib.JumpFactor(14, 0))
    expected = holes * quad(upwards, 0, 1)[0]
    assert float(SiliconEscape().share(jnp.array(energy))) == pytest.approx(expected, rel=5e-3)
    assert float(SiliconEscape(2.5).share(jnp.array(energy))) == pytest.approx(
        2.5 * expected, rel=5e-3
    )


def test_escape_peak_lies_one_silicon_line_below_and_starts_at_the_edge(x64):
    axis = EnergyAxis(*WIDE)
    energy = jnp.array([1.8, 5.9])
    resolution = Resolution.from_mn_ka(*RESOLUTION)
    plain = shares_of(Response(), axis, energy, resolution)
    with_escape = shares_of(Response(escape=SiliconEscape()), axis, energy, resolution)
    np.testing.assert_array_equal(plain[:, 0], with_escape[:, 0])
    centres = np.asarray(axis.centres)
    extra = np.where(centres < 5, np.asarray(with_escape - plain)[:, 1], 0)
    assert centres @ extra / extra.sum() == pytest.approx(5.9 - 1.74, abs=1e-3)


def test_sum_peaks_are_those_of_all_pairs(precision):
    """Channel by channel; with an offset of a whole number of channels, and of half of one."""
    rng = np.random.default_rng(0)
    spectrum, matrix = rng.poisson(5, 60).astype(float), rng.random((60, 2))
    tolerance = 1e-5 if precision == "float32" else 1e-12
    for offset in (0.0, 0.3, 0.35, -0.2):
        axis = EnergyAxis(offset, 0.1, 60)
        found = PileUp(0.04, spectrum)(jnp.asarray(matrix, float), axis)
        expected = 0.96 * matrix
        for i, j in np.ndindex(60, 60):
            place = i + j + offset / 0.1
            left = int(np.floor(place + 1e-9))
            right = max(place - left, 0.0)
            for k, weight in ((left, 1 - right), (left + 1, right)):
                if 0 <= k < 60:
                    share = weight * spectrum[j] / spectrum.sum()
                    expected[k] += 0.02 * share * matrix[i]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_two_photons_make_one_count(x64):
    """On an axis long enough, the counts fall by half of the share that merges."""
    matrix = jnp.zeros((100, 1)).at[20].set(1.0)
    found = PileUp(0.1, np.eye(100)[30])(matrix, EnergyAxis(0.0, 0.1, 100))
    assert float(found.sum()) == pytest.approx(0.95)
    assert float(found[50, 0]) == pytest.approx(0.05)


def step(energy):
    """A continuum with an edge, of two shapes."""
    falling = jnp.where(energy < 3.0, 1.0, 0.4) / (0.3 + energy)
    return jnp.stack([falling, jnp.ones_like(energy)], -1)


@pytest.mark.parametrize("parts", ["none", "tail", pytest.param("escape", marks=pytest.mark.slow)])
def test_continuum_is_broadened_like_lines(x64, parts):
    """The banded sum equals that over one line per channel, from below the axis to above it."""
    response = {
        "none": Response(),
        "tail": Response(IncompleteCharge(300.0, 0.0, 0.01)),
        "escape": Response(escape=SiliconEscape()),
    }[parts]
    axis = EnergyAxis(0.4, 0.01, 800)
    resolution = Resolution.from_mn_ka(*RESOLUTION)
    found = continuum_of(response, axis, resolution, step, 60)
    photons = 0.4 + 0.01 * jnp.arange(-39, 1100)
    expected = np.asarray(shares_of(response, axis, photons, resolution, 300)) @ step(photons)
    # escape moves photons by no whole number of channels, which shows at the edges
    atol = 2e-3 if parts == "escape" else 1e-4
    np.testing.assert_allclose(found[:700], expected[:700], atol=atol)
    found, centres = np.asarray(found), np.asarray(axis.centres)
    sharp = np.asarray(step(axis.centres))
    smooth = (centres > 1.0) & (centres < 2.5)
    if parts == "none":
        np.testing.assert_allclose(found[smooth], sharp[smooth], rtol=5e-3)
        at_edge = int(np.searchsorted(centres, 3.0))
        assert sharp[at_edge, 0] < found[at_edge, 0] < sharp[at_edge - 1, 0]


def test_shelf_of_the_continuum(x64):
    """Within 1 % of that of one line per channel where the continuum is smooth."""
    response = Response(IncompleteCharge(0.0, 400.0, 0.03))
    axis, resolution = EnergyAxis(0.4, 0.01, 800), Resolution.from_mn_ka(*RESOLUTION)
    photons = 0.4 + 0.01 * jnp.arange(-39, 860)
    expected = np.asarray(shares_of(response, axis, photons, resolution, 300)) @ step(photons)
    plain = continuum_of(Response(), axis, resolution, step, 60)
    found = continuum_of(response, axis, resolution, step, 60)
    added, wanted = (np.asarray(x) - np.asarray(plain) for x in (found, expected))
    centres = np.asarray(axis.centres)
    smooth = (centres > 0.6) & (centres < 1.5)
    np.testing.assert_allclose(added[smooth], wanted[smooth], atol=0.01 * np.abs(wanted).max())


#: Tail and shelf depth, loss, escape, pile-up, noise, Fano, offset, gain, dead layer. Sum peaks are
#: moved by a straight line between channels, which has a kink where offset / gain is whole.
POINT = np.array([150.0, 80.0, 0.05, 1.2, 0.02, 0.05, 0.12, 0.307, 0.03, 40.0])
STEPS = np.array([1e-2, 1e-2, 1e-5, 1e-4, 1e-5, 1e-5, 1e-5, 1e-6, 1e-9, 1e-2])
SUMS = 1.0 + np.abs(np.sin(np.arange(300.0)))
PLAIN, FULL = (
    EDSModel.from_axis(
        EnergyAxis(0.3, 0.03, 300),
        ["O", "Si", "Fe"],
        beam_energy=200.0,
        thickness=100,
        density=4.0,
        take_off_angle=22.0,
        detector=Detector(
            LayeredEfficiency((Layer.of("Si", 2.33, 40.0),), detector_window("be").active),
            Resolution.from_mn_ka(*RESOLUTION),
            response,
        ),
    )
    for response in (None, every_part(PileUp(0.02, SUMS)))
)


def parts_of(model):
    detector = model.detector
    response, axis = detector.response, model.energy_axis
    charge = response.incomplete_charge
    return (
        charge.tail.thickness,
        charge.shelf.thickness,
        charge.relative_loss,
        response.escape.strength,
        response.pile_up.share,
        detector.resolution.noise_fwhm,
        detector.resolution.fano,
        axis.offset,
        axis.gain,
        detector.efficiency.windows[0].thickness,
    )


def model_with(parameters):
    return eqx.tree_at(parts_of, FULL, tuple(parameters))


def total(parameters):
    matrix = model_with(parameters).basis().matrix
    weight = 1.0 + jnp.sin(0.7 * jnp.arange(300.0))
    return (weight[:, None] * jnp.log(matrix + 1e-3)).sum()


def test_gradients_are_finite_at_every_limit(precision):
    """Without tail, shelf, escape, pile-up, noise or dead layer, and without any of them."""
    run = jax.jit(jax.value_and_grad(total))
    for zeros in ([0], [1], [3], [4], [5], [9], [0, 1, 3, 4, 9]):
        point = POINT.copy()
        point[zeros] = 0.0
        value, slope = run(jnp.asarray(point, float))
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_the_model_has_all_parts_in_every_column(x64):
    """Columns of a model with a response: lines and continuum have tails, sum peaks, escape."""
    plain = np.asarray(PLAIN.basis().matrix)
    full = np.asarray(model_with(jnp.asarray(POINT)).basis().matrix)
    iron = [c.label for c in PLAIN.columns].index("Fe")
    energy = np.asarray(PLAIN.energy_axis.centres)
    escape = np.abs(energy - (6.4 - 1.74)) < 0.05
    assert (full[escape, iron] > 1.5 * plain[escape, iron]).all()
    assert not np.allclose(full[:, -1], plain[:, -1], rtol=1e-3)


def test_the_table_of_parameters_names_the_parts():
    assert "tail_depth" not in PLAIN.parameters()
    table = FULL.parameters()
    found = {n: table[n] for n in table if n not in PLAIN.parameters()}
    assert {n: (round(p.value, 6), p.unit, p.source) for n, p in found.items()} == {
        "tail_depth": (300.0, "nm", "given"),
        "shelf_depth": (150.0, "nm", "given"),
        "tail_relative_loss": (0.05, "", "given"),
        "escape_strength": (1.0, "", "given"),
        "pile_up_share": (0.02, "", "given"),
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IncompleteCharge(relative_loss=0.0), "relative loss"),
        (lambda: IncompleteCharge(tail_depth=-1.0), "zero or a positive number"),
        (lambda: SiliconEscape(-0.1), "escape"),
        (lambda: PileUp(1.0, [1, 2]), "piled-up"),
        (lambda: PileUp(0.1, [1, -2]), "negative"),
        (lambda: PileUp(0.1, [0, 0]), "no counts"),
        (lambda: PileUp(0.1, [1, 2])(jnp.ones((3, 1)), EnergyAxis(0, 0.1, 3)), "2 channels"),
    ],
)
def test_impossible_responses(make, words):
    with pytest.raises(InputError, match=words):
        make()
