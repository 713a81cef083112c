"""What a model is made from: sources of its parameters, and bad input."""

import dataclasses
import math

import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.atomic import Composition
from esmpy_jax.model import EDSModel
from esmpy_jax.physics import (
    Acquisition,
    Detector,
    EnergyAxis,
    MeasuredEfficiency,
    Resolution,
    detector_window,
)

AXIS = EnergyAxis(0.2, 0.01, 1980)


@dataclasses.dataclass(frozen=True)
class Image:
    energy_axis: EnergyAxis
    acquisition: Acquisition


KNOWN = Acquisition(
    beam_energy=200, elevation=22, azimuth=45, tilt_alpha=10, energy_resolution_mn_ka=127
)


def sources(model):
    return {name: parameter.source for name, parameter in model.parameters().items()}


def test_an_image_tells_what_was_given_with_it():
    """A value given to the reader, or to a simulation, is not one that was read."""

    @dataclasses.dataclass(frozen=True)
    class Record:
        source: str

    @dataclasses.dataclass(frozen=True)
    class Told(Image):
        provenance: dict

    read, given = Record("read from the file"), Record("given")
    record = {"beam energy": given, "elevation": read, "azimuth": given, "energy gain": given}
    found = sources(EDSModel.from_image(Told(AXIS, KNOWN, record), ["O", "Fe"]))
    assert found["beam_energy"] == found["take_off_angle"] == found["energy_gain"] == "given"
    assert found["noise_fwhm"] == found["energy_offset"] == "read from the file"


def test_parameters_read_from_the_file():
    model = EDSModel.from_image(Image(AXIS, KNOWN), ["O", "Fe"], thickness=80, density=5.0)
    parameters = model.parameters()
    read, given, default = "read from the file", "given", "default"
    assert sources(model) == {
        "beam_energy": read,
        "energy_offset": read,
        "energy_gain": read,
        "noise_fwhm": read,
        "fano": default,
        "efficiency": default,
        "crystal_thickness": default,
        "energy_quadratic": default,
        "take_off_angle": read,
        "mass_thickness": given,
        "thickness": given,
        "density": given,
    }
    expected = {
        "beam_energy": (200.0, "keV"),
        "energy_offset": (0.2, "keV"),
        "energy_gain": (0.01, "keV/channel"),
        "noise_fwhm": (math.sqrt(127**2 - 8 * math.log(2) * 0.12 * 3.64 * 5895), "eV"),
        "fano": (0.12, ""),
        "take_off_angle": (28.866, "°"),
        "mass_thickness": (4e-5, "g/cm²"),
        "thickness": (80.0, "nm"),
        "density": (5.0, "g/cm³"),
    }
    for name, (value, unit) in expected.items():
        assert parameters[name].value == pytest.approx(value, rel=1e-4)
        assert parameters[name].unit == unit
    assert parameters["efficiency"].value == "450 µm Si crystal"


def test_parameters_given_go_before_those_of_the_file():
    detector = Detector(detector_window("be"), Resolution.from_mn_ka(140))
    model = EDSModel.from_image(
        Image(AXIS, KNOWN), "O,Fe", beam_energy=300, take_off_angle=15, detector=detector
    )
    found = sources(model)
    for name in ("beam_energy", "take_off_angle", "noise_fwhm", "fano", "efficiency"):
        assert found[name] == "given"
    assert model.beam_energy == 300.0
    assert model.parameters()["take_off_angle"].value == 15.0


def test_parameters_by_default():
    model = EDSModel.from_axis(AXIS, ["O"], beam_energy=200)
    found = model.parameters()
    assert found["noise_fwhm"].source == found["fano"].source == "default"
    assert found["noise_fwhm"].value == pytest.approx(51.2, abs=0.05)
    assert found["take_off_angle"] == (None, "°", "default")
    assert found["mass_thickness"] == (0.0, "g/cm²", "default")
    assert found["energy_gain"].source == found["beam_energy"].source == "given"
    assert "thickness" not in found
    assert "density" not in found


def build(elements=("O", "Fe"), acquisition=KNOWN, axis=AXIS, **options):
    return EDSModel.from_image(Image(axis, acquisition), list(elements), **options)


NARROW = MeasuredEfficiency([0.1, 10.0], [0.5, 0.9])
FOIL = {"thickness": 100, "density": 5.0}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"acquisition": Acquisition()}, "beam energy is not known; give beam_energy in keV"),
        ({"beam_energy": 0.0}, "Beam energy 0 keV must lie between 1"),
        ({"elements": []}, "No element of the sample is given; name at least one"),
        ({"elements": ["O", "Xx"]}, "Xx"),
        ({"elements": ["O", "O"]}, "O"),
        (
            {"elements": ["O", "Fe"], "axis": EnergyAxis(1.0, 0.01, 500)},
            r"O has no X-ray line between 0.995 and 5.995 keV; its nearest is K-L[23] at 0.52\d",
        ),
        ({"elements": ["H"]}, "H has no X-ray line that a beam of 200 keV excites"),
        ({"stray": ["Fe"]}, "Fe is named both as an element of the sample and as stray"),
        (
            {"stray": ["C"], "axis": EnergyAxis(0.45, 0.01, 1900)},
            "C has no X-ray line between 0.445 and",
        ),
        ({"split": {"Fe": 0.3}}, "Splitting Fe at 0.3 keV leaves no line below it; its lines in"),
        ({"split": {"Fe": 9.0}}, "Splitting Fe at 9 keV leaves no line above it; its lines in"),
        ({"split": {"Cu": 3.0}}, "Cu is to be split, but it is not among the elements"),
        ({"split": {"Fe": -1.0}}, "Fe is to be split at -1 keV; give a positive energy"),
        (
            {"detector": Detector(NARROW)},
            "covers 0.1 to 10 keV, but the model needs it from 0.2 to 19.99 keV",
        ),
        ({"thickness": 100}, "thickness is given without a density; give density"),
        ({"density": 5.0}, "density is given without a thickness; give thickness"),
        ({"thickness": -1, "density": 5.0}, "thickness is -1 nm; give zero or a positive"),
        ({"thickness": 100, "density": 0}, "density is 0 g/cm³; give a positive number"),
        (
            {**FOIL, "acquisition": Acquisition(beam_energy=200)},
            "needs the take-off angle, which is not known; give take_off_angle",
        ),
        ({**FOIL, "take_off_angle": 0}, "take-off angle is 0°, but X-rays leave the sample"),
        ({**FOIL, "take_off_angle": 95}, "take-off angle is 95°, but"),
        ({"take_off_angle": -3}, "take-off angle is -3°, but"),
        (
            {**FOIL, "acquisition": Acquisition(beam_energy=200, elevation=-4)},
            "take-off angle is -4°, but",
        ),
        (
            {"acquisition": Acquisition(beam_energy=200, energy_resolution_mn_ka=100)},
            "resolution of 100 eV at Mn Kα is finer than",
        ),
        ({"columns": {"film": np.ones(5)}}, r"column 'film' has shape \(5,\); give one number"),
        ({"columns": {"film": -np.ones(1980)}}, "column 'film' holds negative or non-finite"),
        ({"columns": {"Fe": np.ones(1980)}}, "column 'Fe' has the label of another column"),
        (
            {**FOIL, "reference_composition": Composition.from_formula("SiO2")},
            "reference composition holds Si, which is not among the elements",
        ),
    ],
)
def test_bad_input_gets_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        build(**options)
    assert str(error.value).endswith((".", "?"))
    assert "\n" not in str(error.value)


def test_an_angle_nobody_uses_may_be_useless():
    """A file's take-off angle below zero matters to self-absorption only."""
    model = build(acquisition=Acquisition(beam_energy=200, elevation=-4))
    assert model.parameters()["take_off_angle"].value == -4.0


def test_efficiency_need_not_reach_beyond_the_beam_energy():
    beam_ten = Acquisition(beam_energy=10)
    model = build(acquisition=beam_ten, detector=Detector(NARROW))
    assert model.lines.energy.max() < 10
