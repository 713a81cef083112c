"""Oxygen below the energy axis absorbs as if it were in the model."""

import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.atomic import mass_attenuation, parse_element

SAMPLE = ["Mg", "Si", "Fe"]
SILICA = {"Mg": 1, "Si": 2, "Fe": 1}


def make_model(elements=SAMPLE, **options):
    given = {"take_off_angle": 20.0, "thickness": 200.0, "density": 3.2} | options
    axis = ej.EnergyAxis(0.9, 0.02, 400)
    return ej.EDSModel.from_axis(axis, elements, beam_energy=200.0, **given)


def test_absorption_is_that_of_the_oxides(x64):
    """The factor of each phase's Mg column is A(χ) of MgO, SiO2 and FeO by their weights."""
    model, free = make_model(bound_oxygen=SILICA), make_model(thickness=None, density=None)
    atoms = np.array([[0.5, 0.1], [0.4, 0.1], [0.1, 0.8]])
    weights = np.concatenate([atoms, np.ones((len(model.columns) - 3, 2))])
    found = np.asarray(model.basis(weights).matrix)[:, :, 0].sum(1)
    thin = np.asarray(free.basis().matrix)[:, 0].sum()
    lines = model.lines.select(model.lines.atomic_number == 12)
    for phase, share in enumerate(atoms.T):
        oxygen = sum(x * SILICA[symbol] for symbol, x in zip(SAMPLE, share, strict=True))
        mass = depth = 0.0
        for symbol, x in [*zip(SAMPLE, share, strict=True), ("O", oxygen)]:
            weight = x * parse_element(symbol).atomic_weight
            mass += weight
            depth += weight * np.array([mass_attenuation(symbol, e) for e in lines.energy])
        chi = depth / mass * 200e-7 * 3.2 / np.sin(np.deg2rad(20.0))
        expected = np.average(-np.expm1(-chi) / chi, weights=lines.cross_section)
        # the crystal stops all photons of both lines, and all of them lie on the axis
        assert found[phase] / thin == pytest.approx(expected, rel=1e-6)


def test_without_oxygen_nothing_changes(x64):
    weights = np.ones((len(make_model().columns), 1))
    plain, none, usual = (
        np.asarray(make_model(bound_oxygen=b).basis(weights).matrix)
        for b in (False, {"Mg": 0}, True)
    )
    np.testing.assert_array_equal(plain, none)
    by_hand = make_model(bound_oxygen=SILICA).basis(weights).matrix
    np.testing.assert_array_equal(usual, by_hand)
    assert np.abs(usual / np.maximum(plain, 1e-300) - 1)[0, :, 0].max() > 0.01


def test_the_composition_is_that_of_what_is_seen():
    model = make_model(bound_oxygen=True)
    assert [e.symbol for e in model.elements] == SAMPLE
    np.testing.assert_allclose(model.atomic_weights, make_model().atomic_weights)
    assert model.parameters()["bound_oxygen"].value == "1 for Mg, 2 for Si, 1 for Fe"
    oxygen = [SILICA[symbol] * 15.999 for symbol in SAMPLE]
    np.testing.assert_allclose(model.mass_per_atom, model.atomic_weights + oxygen, rtol=1e-4)


@pytest.mark.parametrize(
    ("elements", "oxygen", "words"),
    [
        (["O", "Mg"], True, "Oxygen is both"),
        (SAMPLE, {"Ca": 1}, "Ca is to hold oxygen, but it is not among"),
        (SAMPLE, {"Si": -1}, "Si is to hold -1 atoms"),
        (SAMPLE, True, "Oxygen's line at 0.525 keV lies on the energy axis"),
    ],
)
def test_bad_oxygen_is_refused(elements, oxygen, words):
    axis = ej.EnergyAxis(0.3, 0.02, 400)
    with pytest.raises(ej.InputError, match=words):
        ej.EDSModel.from_axis(
            axis, elements, beam_energy=200.0, take_off_angle=20.0, thickness=1.0, density=1.0,
            bound_oxygen=oxygen,
        )  # fmt: skip
