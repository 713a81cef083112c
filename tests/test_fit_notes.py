"""Notes of a fit on what stood in for something missing."""

import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.inference._warnings import unknown_tilts

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
