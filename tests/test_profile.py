"""Composition along a coordinate, against what the image was simulated with."""

import jax
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.simulate import demo_model, grain_boundary, mineral_phases, simulate

SIZE = 48


@pytest.fixture(scope="module")
def boundary():
    maps = grain_boundary((SIZE, SIZE), width=4.0, peak=0.6, angle=90.0)
    image = simulate(demo_model(), mineral_phases(), maps, 60.0, key=jax.random.key(0))
    solution = ej.fit(
        image,
        demo_model(),
        3,
        solver=ej.MultiplicativeUpdate(),
        start=ej.RandomStart(),
        max_steps=50,
        key=jax.random.key(0),
    )
    return image, solution


def test_a_mean_over_everything_is_that_of_the_sample(boundary):
    """One bin: with any W that spans the data, at% are those of the whole image."""
    image, solution = boundary
    found = ej.profile(image, solution, np.zeros((SIZE, SIZE)))
    assert found.sizes["position"] == 1
    assert float(found["counts"][0]) == float(np.asarray(image.counts.pixel_totals()).sum())
    truth = (
        100 * np.asarray(image.truth.composition) @ np.asarray(image.truth.abundance).mean((1, 2))
    )
    # 138,000 counts: the light elements are known to a few percent of themselves
    off = np.abs(found["composition"].values[:, 0] - truth)
    assert off.max() < 1.5
    assert float(found["composition"].sum()) == pytest.approx(100, abs=1e-3)
    assert float(found["abundance"].sum()) == pytest.approx(1, abs=1e-5)


def test_bins_and_pixels_that_are_left_out(boundary):
    image, solution = boundary
    x = np.tile(np.arange(SIZE, dtype=float), (SIZE, 1))
    x[:, :4] = np.nan
    found = ej.profile(image, solution, x, width=2.0)
    np.testing.assert_allclose(found["position"], np.arange(5, SIZE, 2))
    totals = np.asarray(image.counts.pixel_totals()).reshape(SIZE, SIZE)
    np.testing.assert_allclose(found["counts"], totals[:, 4:].reshape(SIZE, -1, 2).sum((0, 2)))
    assert (found["composition_stderr"].values >= 0).all()


def test_what_cannot_be_used(boundary):
    image, solution = boundary
    with pytest.raises(ej.InputError, match="position has shape"):
        ej.profile(image, solution, np.zeros((3, 3)))
    with pytest.raises(ej.InputError, match="width is 0"):
        ej.profile(image, solution, np.zeros((SIZE, SIZE)), width=0.0)
    with pytest.raises(ej.InputError, match="No pixel"):
        ej.profile(image, solution, np.full((SIZE, SIZE), np.nan))
    with pytest.raises(ej.InputError, match="larger width"):
        ej.profile(image, solution, np.arange(SIZE**2, dtype=float).reshape(SIZE, SIZE), width=1e-3)


def test_the_solution_is_left_as_it_was(boundary):
    """Also one with a phase without atoms, whose rows of elements count for nothing."""
    image, solution = boundary
    data = solution.dataset.copy(deep=True)
    data["composition"][:, 2] = 0.0
    before = data["W"].values.copy()
    marked = ej.Solution(data)
    found = ej.profile(image, marked, np.zeros((SIZE, SIZE)))
    assert float(found["abundance"].sel(phase="phase 3")[0]) == 0
    np.testing.assert_array_equal(marked.dataset["W"].values, before)
