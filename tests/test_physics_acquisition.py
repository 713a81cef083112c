import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.physics import Acquisition, EnergyAxis, take_off_angle


def test_axis_places_offset_at_the_centre_of_the_first_channel(precision):
    axis = EnergyAxis(0.2, 0.01, 1980)
    assert axis.centres.dtype == precision
    np.testing.assert_allclose(axis.centres, 0.2 + 0.01 * np.arange(1980), rtol=3e-7)
    np.testing.assert_allclose(axis.edges, 0.195 + 0.01 * np.arange(1981), rtol=3e-7)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 1.2, slice(0, 101)),
        (-5.0, 0.2, slice(0, 1)),
        (0.5, 0.6, slice(30, 41)),
        (0.501, 0.599, slice(31, 40)),
        (19.0, 100.0, slice(1880, 1980)),
    ],
)
def test_crop_keeps_the_channels_whose_centre_is_inside(precision, low, high, expected):
    axis = EnergyAxis(0.2, 0.01, 1980)
    cropped, kept = axis.crop(low, high)
    assert kept == expected
    assert cropped.size == expected.stop - expected.start
    np.testing.assert_allclose(cropped.centres, axis.centres[kept], rtol=1e-6)


def test_axis_is_differentiable():
    def total(axis):
        return axis.centres.sum()

    gradient = jax.grad(total)(EnergyAxis(0.2, 0.01, 10))
    assert gradient.offset == 10
    assert gradient.gain == 45


def test_axis_can_be_built_while_traced():
    centres = jax.jit(lambda offset, gain: EnergyAxis(offset, gain, 3).centres)(1.0, 0.5)
    np.testing.assert_allclose(centres, [1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, 0.0, 10), "per channel; give a positive width"),
        ((0.0, -0.01, 10), "per channel; give a positive width"),
        ((0.0, float("nan"), 10), "per channel; give a positive width"),
        ((float("inf"), 0.01, 10), "give a finite energy"),
        ((0.0, 0.01, 0), "at least one"),
    ],
)
def test_axis_refuses_bad_numbers(arguments, words):
    with pytest.raises(InputError, match=words):
        EnergyAxis(*arguments)


def test_crop_refuses_a_range_without_channels():
    with pytest.raises(InputError, match="No channel lies between 30 and 40 keV"):
        EnergyAxis(0.2, 0.01, 1980).crop(30, 40)


@pytest.mark.parametrize(
    ("tilt_alpha", "azimuth", "elevation", "tilt_beta", "expected"),
    [
        (45.0, 45.0, 45.0, 45.0, 73.15788),  # public test of exspy
        (10.0, 45.0, 22.0, 0.0, 28.865971),  # public example of exspy
        (0.0, 123.0, 18.0, 0.0, 18.0),  # untilted: the elevation
        (25.0, 0.0, 18.0, 0.0, 43.0),  # tilted straight towards the detector
        (25.0, 180.0, 18.0, 0.0, -7.0),  # tilted away from it
        (0.0, 90.0, 10.0, 30.0, 40.0),  # beta turns towards an azimuth of 90 degrees
        (90.0, 0.0, 0.0, 0.0, 90.0),  # facing the detector
    ],
)
def test_take_off_angle(precision, tilt_alpha, azimuth, elevation, tilt_beta, expected):
    value = take_off_angle(tilt_alpha, azimuth, elevation, tilt_beta)
    assert value == pytest.approx(expected, abs=1e-3 if precision == "float32" else 1e-5)


def test_gradient_of_the_take_off_angle(x64):
    point = jnp.array([10.0, 45.0, 22.0, -5.0])
    gradient = jax.grad(lambda x: take_off_angle(*x))(point)
    step = 1e-4 * jnp.eye(4)
    numeric = [(take_off_angle(*(point + h)) - take_off_angle(*(point - h))) / 2e-4 for h in step]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-7)
    facing = jax.grad(lambda tilt: take_off_angle(tilt, 0.0, 0.0))(90.0)
    assert np.isfinite(facing)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, None),
        ({"elevation": 22}, 22.0),
        ({"elevation": 22, "azimuth": 45, "tilt_alpha": 10}, 28.865971),
        ({"elevation": 22, "tilt_alpha": 10}, None),
        ({"elevation": 22, "tilt_alpha": 0.0, "tilt_beta": 0.0}, 22.0),
        ({"azimuth": 45, "tilt_alpha": 10}, None),
    ],
)
def test_acquisition_knows_its_take_off_angle_or_says_none(known, expected):
    value = Acquisition(**known).take_off_angle
    assert value is None if expected is None else value == pytest.approx(expected, abs=1e-4)


def test_acquisition_is_static_data():
    acquisition = Acquisition(beam_energy=np.float32(200.0), elements=["O", "Fe"])
    assert acquisition.elements == ("O", "Fe")
    assert type(acquisition.beam_energy) is float
    assert jax.tree.leaves(acquisition) == []
    assert hash(acquisition) == hash(Acquisition(beam_energy=200.0, elements=("O", "Fe")))


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"beam_energy": 0.0}, "beam energy is 0.0 keV; give a positive number"),
        ({"live_time": -1.0}, "live time is -1.0 s"),
        ({"beam_current": float("nan")}, "beam current is nan nA"),
        ({"elevation": float("inf")}, "elevation is inf°; give an angle"),
    ],
)
def test_acquisition_refuses_impossible_numbers(known, words):
    with pytest.raises(InputError, match=words):
        Acquisition(**known)
