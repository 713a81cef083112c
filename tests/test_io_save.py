"""save_image and load are inverse: counts, axes, acquisition and ground truth come back."""

import dataclasses

import io_files as files
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.inference import GroundTruth, SpectrumImage
from esmpy_jax.io import load, save_image
from esmpy_jax.objective import as_counts
from esmpy_jax.physics import Acquisition, EnergyAxis

ACQUISITION = Acquisition(
    beam_energy=200.0,
    elevation=22.0,
    azimuth=45.0,
    tilt_alpha=10.0,
    tilt_beta=1.0,
    live_time=12.5,
    real_time=20.0,
    beam_current=0.3,
    solid_angle=0.7,
    energy_resolution_mn_ka=128.0,
    elements=("O", "Fe"),
)


def image(shape=(5, 7, 40), *, truth=True, mean=0.3, storage="auto"):
    rng = np.random.default_rng(3)
    ny, nx, channels = shape
    spectra = rng.random((channels, 2))
    return SpectrumImage(
        counts=as_counts(rng.poisson(mean, shape), storage=storage),
        energy_axis=EnergyAxis(0.25, 0.01, channels),
        acquisition=ACQUISITION,
        pixel_size=(2.0, 3.0),
        pixel_unit="nm",
        origin=(-4.0, 6.0),
        title="two phases / test",
        truth=GroundTruth(
            abundance=rng.dirichlet([1.0, 1.0], (ny, nx)).transpose(2, 0, 1),
            spectra=spectra / spectra.sum(0),
            composition=np.array([[0.6, 0.5], [0.4, 0.5]]),
            element_symbols=("O", "Fe"),
            phase_names=("matrix", "grain"),
        )
        if truth
        else None,
    )


@pytest.mark.parametrize("extension", ["hspy", "zspy", "rpl"])
@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_round_trip(tmp_path, extension, storage, precision):
    before = image(storage=storage)
    path = save_image(before, tmp_path / f"a.{extension}")
    after = load(path, storage=storage)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.counts.to_dense(), before.counts.to_dense())
    np.testing.assert_allclose(
        after.energy_axis.centres, before.energy_axis.centres, rtol=4 * jnp.finfo(float).eps
    )
    assert after.pixel_size == before.pixel_size
    assert after.pixel_unit == "nm"
    assert after.origin == before.origin
    assert after.title == before.title
    assert after.truth is not None
    for name in ("abundance", "spectra", "composition"):
        np.testing.assert_allclose(
            getattr(after.truth, name), getattr(before.truth, name), rtol=1e-6, err_msg=name
        )
    assert after.truth.element_symbols == ("O", "Fe")
    assert after.truth.phase_names == ("matrix", "grain")
    expected = ACQUISITION
    if extension == "rpl":  # the format has no room for the rest, as documented
        expected = dataclasses.replace(
            ACQUISITION,
            tilt_beta=None,
            real_time=None,
            beam_current=None,
            solid_angle=None,
            elements=(),
        )
    assert after.acquisition == expected


@pytest.mark.parametrize("extension", ["hspy", "zspy", "rpl"])
@pytest.mark.parametrize("shape", [(1, 1, 40), (1, 7, 40), (5, 1, 40)])
def test_spectra_and_line_scans(tmp_path, extension, shape):
    before = image(shape)
    after = load(save_image(before, tmp_path / f"a.{extension}"))
    assert after.shape == shape
    np.testing.assert_array_equal(after.counts.to_dense(), before.counts.to_dense())
    assert after.truth is not None


def test_many_blocks_and_large_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("esmpy_jax.io._save._BLOCK", 2 * 7 * 40)
    before = image(mean=70_000.0)
    for extension in ("hspy", "zspy", "rpl"):
        after = load(save_image(before, tmp_path / f"a.{extension}"))
        np.testing.assert_array_equal(after.counts.to_dense(), before.counts.to_dense())


def test_truth_follows_region_energy_and_bin(tmp_path):
    before = image((4, 6, 40))
    path = save_image(before, tmp_path / "a.hspy")
    after = load(path, region=(0, 4, 2, 6), energy_range=(0.3, 0.5), bin=2)
    expected = before.crop_region(0, 4, 2, 6).crop_energy(0.3, 0.5).bin(2)
    np.testing.assert_array_equal(after.counts.to_dense(), expected.counts.to_dense())
    np.testing.assert_allclose(after.truth.abundance, expected.truth.abundance, rtol=1e-6)
    np.testing.assert_allclose(after.truth.spectra, expected.truth.spectra, rtol=1e-5)


def test_truth_that_does_not_fit_is_left_out_and_said(tmp_path):
    path = save_image(image(), tmp_path / "a.rpl")
    save_image(image((4, 6, 40), truth=True), tmp_path / "b.rpl")
    (tmp_path / "b.truth.npz").replace(tmp_path / "a.truth.npz")
    after = load(path)
    assert after.truth is None
    assert any("another shape" in note for note in after.notes)
    (tmp_path / "a.truth.npz").write_bytes(b"junk")
    after = load(path)
    assert after.truth is None
    assert any("cannot be read" in note for note in after.notes)


def test_without_truth_no_old_truth_stays(tmp_path):
    path = save_image(image(), tmp_path / "a.rpl")
    save_image(image(truth=False), path, overwrite=True)
    assert load(path).truth is None
    assert load(save_image(image(truth=False), tmp_path / "a.hspy")).truth is None


def test_nothing_is_known_of_the_acquisition(tmp_path):
    before = dataclasses.replace(image(truth=False), acquisition=Acquisition(), title="")
    for extension in ("hspy", "zspy", "rpl"):
        after = load(save_image(before, tmp_path / f"a.{extension}"))
        assert after.acquisition == Acquisition()


def test_a_file_is_overwritten_only_when_asked(tmp_path):
    for extension in ("hspy", "zspy", "rpl"):
        path = save_image(image(), tmp_path / f"a.{extension}")
        with pytest.raises(InputError, match="is there already"):
            save_image(image(), path)
        save_image(image((2, 3, 40)), path, overwrite=True)
        assert load(path).shape == (2, 3, 40)


def test_bad_paths_and_images(tmp_path):
    with pytest.raises(InputError, match=r"'\.txt'.*\.hspy"):
        save_image(image(), tmp_path / "a.txt")
    with pytest.raises(InputError, match="There is no folder"):
        save_image(image(), tmp_path / "nowhere" / "a.hspy")
    exposed = dataclasses.replace(
        image(), counts=as_counts(files.counts((5, 7, 40)), exposure=np.ones(35))
    )
    with pytest.raises(InputError, match="exposure"):
        save_image(exposed, tmp_path / "a.hspy")


def test_overwriting_the_file_an_image_came_from(tmp_path):
    before = image()
    path = save_image(before, tmp_path / "a.hspy")
    after = load(path, lazy=True).bin(1).crop_region(0, 2, 0, 2)
    save_image(after, path, overwrite=True)
    assert load(path).counts.total == after.counts.total
