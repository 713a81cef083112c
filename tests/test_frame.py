"""Images in grids of a few sizes: the same fit, and the same compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.inference._frame import Frame, cropped, roomy
from esmpy_jax.objective import SumToOneAbundances, TotalVariation, as_counts, relative_to_counts
from esmpy_jax.solve import AbundanceNewton, GivenStart

AXIS = ej.EnergyAxis(0.4, 0.05, 60)


def model_of(*elements):
    return ej.EDSModel.from_axis(AXIS, list(elements), beam_energy=200.0)


def image_of(counts):
    return ej.SpectrumImage(counts, AXIS, ej.Acquisition(beam_energy=200.0))


QUICKLY = {"starts": (ej.RandomStart(),), "purities": (0.5, 2.0), "factor": 2}


def scene(shape, mean, seed, n_channels=300):
    """Counts of three smooth spectra, their maps, and the spectra."""
    rng = np.random.default_rng(seed)
    spectra = rng.gamma(0.5, 1.0, (n_channels, 3))
    maps = rng.dirichlet(np.full(3, 0.5), shape).reshape(-1, 3).T
    expected = spectra @ maps
    counts = rng.poisson(expected * mean / expected.mean()).T.reshape(*shape, n_channels)
    return as_counts(counts), maps, spectra * mean / expected.mean()


def test_lengths_have_four_steps_an_octave():
    lengths = [roomy(n) for n in range(1, 1025)]
    assert all(0 <= length - n <= n / 4 for n, length in enumerate(lengths, 1))
    assert lengths == sorted(lengths)
    assert [roomy(length) for length in lengths] == lengths
    assert len({x for x in lengths if 64 < x <= 1024}) == 16


@pytest.mark.parametrize("mean", [0.02, 2.0])
@pytest.mark.parametrize("shape", [(11, 13), (16, 9), (1, 37), (41,)])
def test_counts_lie_in_a_corner_and_come_back(shape, mean):
    counts, maps, _ = scene(shape, mean, 0)
    frame = Frame(counts)
    placed = frame.placed(counts)
    assert placed.is_sparse == counts.is_sparse
    assert placed.scan_shape == frame.grid == tuple(map(roomy, shape))
    values = placed.to_dense().T
    np.testing.assert_array_equal(cropped(values, frame.grid, shape).T, counts.to_dense())
    np.testing.assert_array_equal(np.asarray(placed.exposure) > 0, np.ravel(frame.pixels))
    assert placed.total == counts.total
    assert cropped(maps, shape, shape) is maps


@pytest.mark.parametrize(
    ("mean", "shapes"), [(0.05, [(45, 47), (47, 46)]), (2.0, [(9, 9), (10, 9)])]
)
def test_images_of_like_sizes_have_the_same_shapes(mean, shapes):
    kinds = set()
    for shape in shapes:
        counts = scene(shape, mean, 0)[0]
        frame = Frame(counts)
        leaves = jax.tree.leaves((relative_to_counts(frame.placed(counts)), frame.pixels))
        kinds.add(tuple((x.shape, str(x.dtype)) for x in leaves))
    assert len(kinds) == 1


@pytest.mark.parametrize("strength", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_maps_in_a_grid_are_those_of_the_image_alone(strength, seed, x64):
    """The problem is convex, so that both end in the same maps."""
    shape = 11, 13
    counts, maps, spectra = scene(shape, 0.5, seed)
    frame = Frame(counts)
    found = []
    for own, pixels, start in (
        (counts, None, maps),
        (frame.placed(counts), frame.pixels, np.full((3, np.prod(frame.grid)), 1 / 3)),
    ):
        fit = ej.factorise(
            own,
            jnp.asarray(spectra),
            3,
            solver=AbundanceNewton(),
            start=GivenStart(np.eye(3), start),
            constraint=SumToOneAbundances(),
            regulariser=TotalVariation(strength, 0.1, pixels),
            fixed_weights=np.eye(3),
            tol=1e-9,
        )
        assert fit.converged
        found.append((cropped(np.asarray(fit.abundances), own.scan_shape, shape), fit.nll))
    # 1e-9 nats above the optimum, where a share has an information of some tens
    np.testing.assert_allclose(found[1][0], found[0][0], atol=2e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-10)


def test_a_fit_has_the_size_of_its_image():
    """All that is said of pixels is said of those of the scan."""
    counts = as_counts(np.random.default_rng(0).poisson(2.0, (17, 18, AXIS.size)))
    assert Frame(counts).grid == (20, 20)
    solver = ej.CoarseToFine(**QUICKLY)
    dataset = ej.fit(image_of(counts), model_of("O", "Si"), 2, solver=solver).dataset
    assert (dataset.sizes["y"], dataset.sizes["x"]) == (17, 18)
    np.testing.assert_allclose(dataset.abundance.sum("phase"), 1.0, rtol=1e-5)
    modelled = (dataset.spectra.sum("energy") * dataset.H * dataset.exposure).sum("phase")
    # as bright as its counts, up to the 0.1 nats to which 36,000 counts are fitted
    np.testing.assert_allclose(modelled, dataset.pixel_counts, rtol=np.sqrt(0.2 / 36_000))


@pytest.mark.parametrize("regulariser", [None, TotalVariation(1.0)])
def test_maps_compared_in_a_window_are_fitted_everywhere(regulariser):
    rng = np.random.default_rng(1)
    counts = as_counts(rng.poisson(2.0, (17, 18, AXIS.size)))
    solver = ej.CoarseToFine(max_pixels=100, **QUICKLY)
    found = ej.fit(image_of(counts), model_of("O", "Si"), 2, solver=solver, regulariser=regulariser)
    assert found.abundance.shape == (2, 17, 18)
    assert np.isfinite(found.abundance).all()


def test_dead_pixels_are_no_part_of_the_mean():
    """H is per exposure of the image, where dead pixels count as little as those outside."""
    rng = np.random.default_rng(3)
    values, exposure = rng.poisson(2.0, (12, 20)), np.ones(12)
    values[:3], exposure[:3] = 0, 0
    relative = relative_to_counts(as_counts(values, scan_shape=(12,), exposure=exposure))
    alone = relative_to_counts(as_counts(values[3:], scan_shape=(9,)))
    np.testing.assert_allclose(relative.exposure[3:], alone.exposure, rtol=1e-6)
    assert not np.asarray(relative.exposure[:3]).any()


def test_counts_on_several_devices_are_refused():
    counts = as_counts(np.random.default_rng(4).poisson(2.0, (9, 9, AXIS.size)))
    image = image_of(ej.sharding.shard(counts))
    for n in (2, "auto"):
        with pytest.raises(ej.InputError, match="give solver=VariableProjectionNewton"):
            ej.fit(image, model_of("O", "Si"), n)
