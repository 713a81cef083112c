"""Notes of a fit on what stood in for something missing."""

import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.inference._warnings import (
    deviance_per_channel,
    of_inputs,
    of_misfit,
    of_phases,
    unknown_tilts,
)

AXIS = ej.EnergyAxis(0.4, 0.05, 60)
FOIL = {"thickness": 100.0, "density": 4.0}


@pytest.mark.parametrize(
    ("angles", "options", "named"),
    [
        ({}, FOIL, "tilts α and β were"),
        ({"tilt_alpha": 0.0}, FOIL, "tilt β was"),
        ({"tilt_alpha": 0.0, "tilt_beta": 0.0}, FOIL, None),
        ({}, {}, None),  # no absorption, so no angle enters
        ({}, {"take_off_angle": 30.0, **FOIL}, None),
    ],
)
def test_a_tilt_taken_as_zero_is_said(angles, options, named):
    known = ej.Acquisition(beam_energy=200.0, elevation=22.0, **angles)
    image = ej.SpectrumImage(ej.as_counts(np.ones((1, 2, AXIS.size), int)), AXIS, known)
    notes = unknown_tilts(image, ej.EDSModel.from_image(image, ["O", "Si"], **options))
    assert len(notes) == (named is not None)
    assert all(named in note for note in notes)


def test_a_tilt_is_one_or_several():
    known = ej.Acquisition(beam_energy=200.0, elevation=22.0, tilt_alpha=0.0)
    image = ej.SpectrumImage(ej.as_counts(np.ones((1, 2, AXIS.size), int)), AXIS, known)
    (note,) = unknown_tilts(image, ej.EDSModel.from_image(image, ["O", "Si"], **FOIL))
    assert note.startswith(
        "The stage tilt β was neither given nor in the file: 0° stands in for it"
    )


@pytest.mark.parametrize(
    ("empty", "sentence"),
    [(1, "1 pixel holds no counts; its"), (2, "2 pixels hold no counts; their"), (0, None)],
)
def test_empty_pixels_are_counted(empty, sentence):
    counts = np.ones((1, 4, AXIS.size), int)
    counts[:, :empty] = 0
    image = ej.SpectrumImage(ej.as_counts(counts), AXIS, ej.Acquisition(beam_energy=200.0))
    notes = [n for n in of_inputs(image, ej.EDSModel.from_image(image, ["O"])) if "pixel" in n]
    assert len(notes) == (sentence is not None)
    assert all(note.startswith(sentence) for note in notes)


def test_a_poor_fit_says_where():
    """Three peaks too many, of four; the fourth is the smallest, and each is named once."""
    model = ej.EDSModel.from_axis(AXIS, ["O", "Si"], beam_energy=200.0)
    energy = np.asarray(AXIS.centres, float)
    fit = np.full(AXIS.size, 1e4)
    rng = np.random.default_rng(0)
    fair = rng.poisson(fit).astype(float)
    assert deviance_per_channel(fair, fit) == pytest.approx(1, abs=5 * np.sqrt(2 / AXIS.size))
    assert of_misfit(model, fair, fit) == []
    peaks = {0.8: -9, 1.5: 30, 2.25: 12, 3.0: 20}  # keV: standard deviations
    for centre, height in peaks.items():
        fair += 100 * height * np.exp(-0.5 * ((energy - centre) / 0.06) ** 2)
    (note,) = of_misfit(model, fair, fit)
    assert "the most at 1.50 keV, 3.00 keV and 2.25 keV;" in note
    assert f"{deviance_per_channel(fair, fit):.3g} per channel" in note


def test_errors_that_are_not_known_are_said():
    error = np.array([[0.1, 0.3, np.nan, 0.3], [0.1, 0.1, 0.1, 0.0]])
    notes = of_phases(list("abcd"), ["O", "Si"], error, np.array([False, False, False, True]))
    assert len(notes) == 3
    assert notes[0].startswith("d contains practically no element of the sample")
    assert "composition of b: the standard error of O is 30 at%" in notes[1]
    assert notes[2].startswith("The standard errors of c are not known")
    (note,) = of_phases(list("ab"), ["O"], np.zeros((1, 2)), np.array([True, True]))
    assert note.startswith("a and b contain practically no element of the sample: their")


def test_a_given_composition_without_counts_is_said():
    barren = np.array([False, True, True])
    first, _ = of_phases(list("abc"), ["O"], np.zeros((1, 3)), barren, given=[0, 1])
    assert first.startswith("The composition given for b does not fit")
