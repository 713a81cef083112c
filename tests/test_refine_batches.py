"""A refinement of an image that exceeds memory: its batches say what the whole image says."""

import dataclasses

import jax
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.simulate import Phase, simulate

PHASES = (
    Phase("silicate", {"O": 60, "Mg": 20, "Si": 20}, density=3.2, bremsstrahlung=0.3),
    Phase("oxide", {"O": 50, "Mg": 10, "Si": 40}, density=5.0, bremsstrahlung=0.3),
)
ROWS = 3


@pytest.fixture(scope="module")
def scene():
    """(image, model with an axis 6 eV off, fit of the batches with it)."""
    axis = ej.EnergyAxis(0.3, 0.02, 100)
    model = ej.EDSModel.from_axis(axis, ["O", "Mg", "Si"], beam_energy=200.0)
    share = np.linspace(0, 1, 8)[None].repeat(8, 0)
    image = simulate(model, PHASES, np.stack([1 - share, share]), 3000.0, key=jax.random.key(0))
    wrong = dataclasses.replace(model, energy_axis=ej.EnergyAxis(0.306, 0.02, 100))
    start = ej.VertexStart()
    fit = ej.factorise_batches(batches(image), wrong.basis(), 2, start=start, max_epochs=12)
    return image, wrong, fit


def batches(image):
    """Runs of rows, the last one shorter, each with its own storage."""
    rows = np.asarray(image.counts.to_dense()).reshape(image.shape)
    parts = [rows[y : y + ROWS] for y in range(0, len(rows), ROWS)]
    return [ej.as_counts(p, storage=("dense", "sparse")[i % 2]) for i, p in enumerate(parts)]


@pytest.mark.parametrize("loss", ["summed", pytest.param("pools", marks=pytest.mark.slow)])
def test_batches_say_what_the_image_says(scene, loss):
    image, model, fit = scene
    found = [
        ej.refine(of, model, fit, ["energy_offset", "noise_fwhm"], loss=loss)
        for of in (image, batches(image), lambda: iter(batches(image)))
    ]
    assert abs(found[0].values["energy_offset"] - 0.3) < 4e-4
    for other in found[1:]:
        assert other.dof == found[0].dof
        # the same counts in the same pools; sums in single precision differ in their order
        assert other.deviance_after == pytest.approx(found[0].deviance_after, rel=1e-5)
        for name, parameter in found[0].parameters.items():
            assert other.values[name] == pytest.approx(parameter.after, abs=0.01 * parameter.stderr)


def test_what_batches_cannot_do(scene):
    image, model, fit = scene
    with pytest.raises(ej.InputError, match="loss='pools'"):
        ej.refine(batches(image), model, fit, ["energy_offset"], loss="pixels")
    with pytest.raises(ej.InputError, match="gone through once only"):
        ej.refine(iter(batches(image)), model, fit, ["energy_offset"])
    with pytest.raises(ej.InputError, match="other pixels or columns"):
        ej.refine(batches(image)[:2], model, fit, ["energy_offset"])
    with pytest.raises(ej.InputError, match="The model has 100 channels but the image has 90"):
        ej.refine([np.ones((2, 90), int)], model, None, ["energy_offset"])
    with pytest.raises(ej.InputError, match="holds no counts"):
        ej.refine([np.zeros((2, 100), int)], model, None, ["energy_offset"])
