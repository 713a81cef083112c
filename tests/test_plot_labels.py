"""Line labels: which lines are shown, and places that are the closest ones without overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esmpy_jax._checks import InputError
from esmpy_jax.atomic import EmissionLines, emission_lines
from esmpy_jax.plot import strongest_lines
from esmpy_jax.plot._labels import spread, visible_lines

places = st.lists(st.floats(0, 10), min_size=1, max_size=12).map(sorted)


@given(wanted=places)
@settings(deadline=None)
def test_spread_keeps_distance_order_and_limits(wanted):
    x = spread(np.array(wanted), 0.5, 0.0, 10.0)
    assert (np.diff(x) >= 0.5 - 1e-9).all()
    assert x[0] >= -1e-9
    assert x[-1] <= 10 + 1e-9


@given(wanted=places, seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_spread_is_the_closest_arrangement(wanted, seed):
    """No feasible random change brings the labels closer to their lines."""
    wanted = np.array(wanted)
    x = spread(wanted, 0.5, -100.0, 100.0)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.1, 1.0):
        other = np.sort(x + scale * rng.normal(size=len(x)))
        other = spread(other, 0.5, -100.0, 100.0)  # feasible
        assert ((x - wanted) ** 2).sum() <= ((other - wanted) ** 2).sum() + 1e-9


def test_labels_with_room_stay_at_their_lines():
    np.testing.assert_allclose(spread(np.array([1.0, 2.0, 5.0]), 0.5, 0.0, 10.0), [1, 2, 5])


def test_two_labels_at_one_place_part_evenly():
    np.testing.assert_allclose(spread(np.array([5.0, 5.0]), 1.0, 0.0, 10.0), [4.5, 5.5])


def lines(**columns):
    return EmissionLines(
        np.array(columns["z"]),
        np.array(columns["energy"]),
        np.array(columns["strength"]),
        tuple(columns["family"]),
        tuple(columns["name"]),
    )


IRON = lines(
    z=[26, 26, 26, 26, 8],
    energy=[6.404, 6.391, 7.058, 0.705, 0.525],
    strength=[6e-23, 3e-23, 9e-24, 4e-23, 3e-23],
    family=["K", "K", "K", "L", "K"],
    name=["K-L3", "K-L2", "K-M3", "L3-M5", "K-L3"],
)


def test_strongest_line_of_each_family_first():
    assert strongest_lines(IRON) == [(6.404, "Fe Kα"), (0.705, "Fe Lα"), (0.525, "O Kα")]


def test_a_multiplet_counts_once():
    found = [text for _, text in strongest_lines(IRON, per_family=2)]
    assert found == ["Fe Kα", "Fe Lα", "O Kα", "Fe Kβ"]


def test_iupac_names_and_a_range():
    found = strongest_lines(IRON, notation="iupac", per_family=2, energy_range=(1.0, 10.0))
    assert found == [(6.404, "Fe K-L3"), (6.391, "Fe K-L2")]
    with pytest.raises(InputError, match="notation"):
        strongest_lines(IRON, notation="english")


def test_real_lines_of_hafnium():
    found = dict(map(reversed, strongest_lines(emission_lines(["Hf"], 200.0, (0.2, 20.0)))))
    assert found["Hf Lα"] == pytest.approx(7.899, abs=0.01)
    assert found["Hf Mα"] == pytest.approx(1.645, abs=0.01)


def test_only_lines_with_a_peak_of_their_own_show():
    energy = np.arange(0, 10, 0.01)
    peak = np.exp(-(((energy - 5) / 0.06) ** 2) / 2)
    spectrum = 1 + 50 * peak + 0.05 * np.exp(-(((energy - 8) / 0.06) ** 2) / 2)
    named = [(5.01, "on top"), (5.1, "flank"), (8.0, "too faint"), (2.0, "nothing"), (11.0, "out")]
    assert visible_lines(named, energy, spectrum) == [(5.01, "on top")]
    assert visible_lines(named, energy, spectrum, prominence=1.01) == [named[0], named[2]]
    assert visible_lines(named, energy, spectrum, least=100.0) == []
