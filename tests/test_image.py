"""SpectrumImage: cropping, binning and what travels with the counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.inference import GroundTruth, Provenance, SpectrumImage
from esmpy_jax.inference._image import select_window
from esmpy_jax.objective import as_counts
from esmpy_jax.physics import Acquisition, EnergyAxis

DATA = np.random.default_rng(0).poisson(0.4, (6, 8, 30))


def truth(shape=DATA.shape, n_phases=2, seed=1):
    rng = np.random.default_rng(seed)
    spectra = rng.random((shape[2], n_phases))
    abundance = rng.dirichlet(np.ones(n_phases), shape[:2]).transpose(2, 0, 1)
    return GroundTruth(
        abundance=abundance,
        spectra=spectra / spectra.sum(0),
        composition=np.array([[0.5, 0.25], [0.5, 0.75]]),
        element_symbols=("O", "Fe"),
        phase_names=("matrix", "grain"),
    )


@pytest.fixture(params=["dense", "sparse"])
def image(request):
    return SpectrumImage(
        counts=as_counts(DATA, storage=request.param),
        energy_axis=EnergyAxis(0.5, 0.01, 30),
        acquisition=Acquisition(beam_energy=200.0),
        pixel_size=(2.0, 3.0),
        pixel_unit="nm",
        provenance={
            "energy offset": Provenance(0.5, "keV", "read from the file"),
            "pixel size y": Provenance(2.0, "nm", "read from the file"),
            "pixel size x": Provenance(3.0, "nm", "read from the file"),
        },
        truth=truth(),
    )


def dense(image):
    return np.asarray(image.counts.to_dense()).reshape(image.shape)


def test_shape_and_sum(image, precision):
    assert image.shape == DATA.shape
    assert image.sum_spectrum().dtype == jnp.zeros(0).dtype
    np.testing.assert_array_equal(image.sum_spectrum(), DATA.sum((0, 1)))


def test_crop_energy_keeps_centres_inside_and_moves_the_offset(image):
    small = image.crop_energy(0.55, 0.6)
    np.testing.assert_array_equal(dense(small), DATA[:, :, 5:11])
    np.testing.assert_allclose(small.energy_axis.centres, 0.55 + 0.01 * np.arange(6), rtol=1e-6)
    assert small.provenance["energy offset"].value == pytest.approx(0.55)
    assert small.provenance["energy offset"].source == "read from the file"
    np.testing.assert_allclose(small.truth.spectra.sum(0), 1.0, rtol=1e-6)
    ratio = small.truth.spectra / image.truth.spectra[5:11]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-5)
    assert small.counts.is_sparse == image.counts.is_sparse


def test_crop_region(image):
    small = image.crop_region(1, 4, 2, 8)
    np.testing.assert_array_equal(dense(small), DATA[1:4, 2:8])
    np.testing.assert_array_equal(small.truth.abundance, image.truth.abundance[:, 1:4, 2:8])
    assert small.counts.is_sparse == image.counts.is_sparse


def test_bin_sums_counts_and_averages_shares(image):
    small = image.bin(2)
    expected = DATA.reshape(3, 2, 4, 2, 30).sum((1, 3))
    np.testing.assert_array_equal(dense(small), expected)
    assert small.pixel_size == (4.0, 6.0)
    assert small.provenance["pixel size x"].value == 6.0
    shares = np.asarray(image.truth.abundance)
    np.testing.assert_allclose(
        small.truth.abundance[0, 1, 2], shares[0, 2:4, 4:6].mean(), rtol=1e-6
    )
    assert image.bin(1) is image


def test_binning_past_the_type_of_the_counts_does_not_wrap():
    data = np.full((4, 4, 3), 200, np.uint8)
    image = SpectrumImage(as_counts(data), EnergyAxis(1.0, 0.01, 3), Acquisition())
    np.testing.assert_array_equal(dense(image.bin(4)), np.full((1, 1, 3), 3200))


def test_exposure_follows_the_pixels():
    exposure = np.arange(1.0, 49.0)
    image = SpectrumImage(
        as_counts(DATA, exposure=exposure), EnergyAxis(0.5, 0.01, 30), Acquisition()
    )
    cut = image.crop_region(1, 3, 2, 5).counts.exposure
    np.testing.assert_array_equal(cut, exposure.reshape(6, 8)[1:3, 2:5].ravel())
    means = exposure.reshape(3, 2, 4, 2).mean((1, 3)).ravel()
    np.testing.assert_allclose(image.bin(2).counts.exposure, means)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda i: i.bin(0), "at least 1"),
        (lambda i: i.bin(4), "does not divide the 6 × 8"),
        (lambda i: i.crop_region(0, 7, 0, 8), "6 × 8 pixels"),
        (lambda i: i.crop_region(3, 3, 0, 8), "y0 < y1"),
        (lambda i: i.crop_region(-1, 3, 0, 8), "counted from 0"),
        (lambda i: i.crop_energy(5.0, 6.0), "No channel"),
    ],
)
def test_bad_arguments_get_one_sentence(image, call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(image)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_parts_must_fit_together():
    counts = as_counts(DATA)
    axis = EnergyAxis(0.5, 0.01, 30)
    with pytest.raises(ValueError, match="30 channels"):
        SpectrumImage(counts, EnergyAxis(0.5, 0.01, 29), Acquisition())
    with pytest.raises(ValueError, match="shape"):
        SpectrumImage(counts, axis, Acquisition(), truth=truth((5, 8, 30)))
    with pytest.raises(ValueError, match="channels"):
        SpectrumImage(counts, axis, Acquisition(), truth=truth((6, 8, 29)))
    with pytest.raises(ValueError, match="scan shape"):
        SpectrumImage(as_counts(DATA.reshape(48, 30)), axis, Acquisition())


def test_ground_truth_must_fit_together():
    good = truth()
    with pytest.raises(ValueError, match="number of phases"):
        GroundTruth(good.abundance, good.spectra, good.composition, ("O", "Fe"), ("one",))
    with pytest.raises(ValueError, match="row per element"):
        GroundTruth(good.abundance, good.spectra, good.composition, ("O",), ("one", "two"))


def test_image_passes_through_jit_and_compares_its_provenance(image):
    total = jax.jit(lambda i: i.sum_spectrum().sum())(image)
    assert int(total) == DATA.sum()
    again = jax.tree.map(lambda x: x, image)
    assert again.provenance == image.provenance
    assert hash(again.provenance) == hash(image.provenance)
    assert dict(image.provenance)["pixel size y"].unit == "nm"


def test_a_part_keeps_its_place(image):
    """The centre of a pixel, in nm: y = 10 + 2 i, x = -5 + 3 j."""
    placed = dataclasses.replace(image, origin=(10.0, -5.0))
    assert image.origin == (0.0, 0.0)
    part = placed.crop_region(2, 6, 4, 8)
    assert part.origin == pytest.approx((14.0, 7.0))
    assert part.crop_region(1, 2, 1, 2).origin == pytest.approx((16.0, 10.0))
    assert part.bin(2).origin == pytest.approx((15.0, 8.5))  # between the first two
    assert placed.crop_energy(0.55, 0.7).origin == placed.origin


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_a_window_holds_its_pixels(storage, seed):
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random((9, 11)) < 0.1, 3.0, 0.02)  # bright pixels need overflow blocks
    values = rng.poisson(rate[:, :, None], (9, 11, 400))
    dose = rng.uniform(0.5, 2.0, (9, 11))
    counts = as_counts(values, storage=storage, exposure=dose)
    part = select_window(counts, (slice(2, 8), slice(0, 5)))
    assert part.scan_shape == (6, 5)
    assert part.is_sparse == (storage == "sparse")
    np.testing.assert_array_equal(part.to_dense(), values[2:8, :5].reshape(30, 400))
    np.testing.assert_allclose(part.exposure, dose[2:8, :5].ravel(), rtol=1e-6)
