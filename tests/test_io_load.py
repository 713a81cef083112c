"""Loading: formats, axes, several signals, cropping and lazy reading."""

import gc

import io_files as files
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.io import load
from esmpy_jax.io._signals import interpret

COUNTS = files.counts()


def dense(image):
    return np.asarray(image.counts.to_dense()).reshape(image.shape)


def sentence(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# ---- formats and axes


@pytest.mark.parametrize("extension", ["hspy", "zspy", "rpl"])
@pytest.mark.parametrize("lazy", [None, True, False])
def test_formats_give_the_counts_and_the_axis(tmp_path, extension, lazy):
    image = load(files.write(tmp_path / f"a.{extension}", files.signal(COUNTS)), lazy=lazy)
    np.testing.assert_array_equal(dense(image), COUNTS)
    np.testing.assert_allclose(image.energy_axis.centres, 0.5 + 0.01 * np.arange(50), rtol=1e-6)
    assert image.pixel_size == (2.5, 2.5)
    assert image.pixel_unit == "nm"
    assert image.title == "EDS"
    assert image.acquisition.beam_energy == 200.0
    assert image.provenance["file"].value == f"a.{extension}"
    assert image.notes == ()


def test_lazy_files_are_closed_again(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS))
    load(path)
    gc.collect()
    files.write(path, files.signal(COUNTS * 2))  # HDF5 refuses to truncate an open file
    assert load(path).counts.total == 2 * COUNTS.sum()


def test_small_chunks_and_many_blocks(tmp_path, monkeypatch):
    import rsciio.hspy

    path = tmp_path / "a.hspy"
    rsciio.hspy.file_writer(
        str(path), files.signal(COUNTS), chunks=(2, 3, 20), show_progressbar=False
    )
    monkeypatch.setattr("esmpy_jax.io._chunks.BLOCK", 4 * 50)
    for lazy in (True, False):
        np.testing.assert_array_equal(dense(load(path, lazy=lazy)), COUNTS)


def test_storage(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS))
    one, other = load(path, storage="dense"), load(path, storage="sparse")
    assert not one.counts.is_sparse
    assert other.counts.is_sparse
    np.testing.assert_array_equal(dense(one), dense(other))
    assert not load(path).counts.is_sparse  # mean 0.3: more than a quarter is filled
    rare = files.counts(mean=0.05)
    assert load(files.write(tmp_path / "b.hspy", files.signal(rare))).counts.is_sparse


def test_electronvolts_become_kiloelectronvolts(tmp_path):
    axes = [
        files.axis("y", 4, 1.0, units="nm"),
        files.axis("x", 6, 1.0, units="nm"),
        files.energy(50, 10.0, 500.0, "eV"),
    ]
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS, axes)))
    assert float(image.energy_axis.offset) == pytest.approx(0.5)
    assert float(image.energy_axis.gain) == pytest.approx(0.01)


@pytest.mark.parametrize("scan", [("y", "x"), ("x", "y")])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_axes_in_any_order(tmp_path, scan, position):
    """Whatever the order in the file, counts end as (y, x, energy)."""
    size, step = {"y": 4, "x": 6}, {"y": 2.0, "x": 3.0}
    axes = [files.axis(n, size[n], step[n], units="nm") for n in scan]
    axes.insert(position, files.energy(50))
    data = COUNTS if scan == ("y", "x") else COUNTS.transpose(1, 0, 2)
    data = np.ascontiguousarray(np.moveaxis(data, 2, position))
    image = load(files.write(tmp_path / "a.hspy", files.signal(data, axes)))
    np.testing.assert_array_equal(dense(image), COUNTS)
    assert image.pixel_size == (2.0, 3.0)


def test_ripple_image_stack(tmp_path):
    """The energy axis of a stack of images is its navigation axis."""
    stack = np.ascontiguousarray(COUNTS.transpose(2, 0, 1))
    stack.tofile(tmp_path / "a.raw")
    keys = {
        "width": 6, "height": 4, "depth": 50, "offset": 0, "data-type": "unsigned",
        "data-length": 1, "byte-order": "dont-care", "record-by": "image", "ev-per-chan": 10,
        "beam-energy": 20.0,
    }  # fmt: skip
    text = "key\tvalue\n" + "".join(f"{k}\t{v}\n" for k, v in keys.items())
    (tmp_path / "a.rpl").write_text(text)
    image = load(tmp_path / "a.rpl")
    np.testing.assert_array_equal(dense(image), COUNTS[:, :, 1:])  # channel 0 is at 0 keV
    assert float(image.energy_axis.offset) == pytest.approx(0.01)
    assert image.acquisition.beam_energy == 20.0
    assert image.pixel_unit == "px"


def test_single_spectrum(tmp_path):
    data = np.arange(50, dtype=np.uint16)
    image = load(files.write(tmp_path / "a.hspy", files.signal(data)))
    assert image.shape == (1, 1, 50)
    np.testing.assert_array_equal(image.sum_spectrum(), data)


def test_msa_spectrum_without_beam_energy(tmp_path):
    data = np.arange(1, 51, dtype=np.uint16)
    path = files.write(
        tmp_path / "a.msa", files.signal(data, tem={"Detector": {"EDS": {"live_time": 5.0}}})
    )
    image = load(path)
    np.testing.assert_array_equal(image.sum_spectrum(), data)
    assert image.acquisition.beam_energy is None
    assert image.provenance["beam energy"].source == "missing"
    assert image.provenance["beam energy"].value is None


@pytest.mark.parametrize(("name", "shape"), [("x", (1, 6, 50)), ("y", (6, 1, 50))])
def test_line_scan(tmp_path, name, shape):
    axes = [files.axis(name, 6, 4.0, units="nm"), files.energy(50)]
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS[0], axes)))
    assert image.shape == shape
    np.testing.assert_array_equal(dense(image).reshape(6, 50), COUNTS[0])
    assert image.pixel_size == (4.0, 4.0)


def test_different_length_units_are_reconciled(tmp_path):
    axes = [
        files.axis("y", 4, 0.5, units="µm"),
        files.axis("x", 6, 200.0, units="nm"),
        files.energy(50),
    ]
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS, axes)))
    assert image.pixel_size == pytest.approx((500.0, 200.0))
    assert image.pixel_unit == "nm"


def test_floats_that_are_whole_numbers_are_counts(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS.astype(np.float32)))
    image = load(path)
    assert image.counts.to_dense().dtype.kind == "u"
    np.testing.assert_array_equal(dense(image), COUNTS)


def test_bin_sums_past_the_files_type(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(np.full((4, 4, 5), 200, np.uint8)))
    image = load(path, bin=4)
    np.testing.assert_array_equal(dense(image), np.full((1, 1, 5), 3200))
    assert image.provenance["pixel size x"].value == 10.0
    assert image.provenance["bin"].value == 4


# ---- several signals in one file


def several(path):
    eels = files.signal(
        COUNTS * 0, [*files.signal(COUNTS)["axes"][:2], files.energy(50, 1.0, 0.0, "eV")],
        kind="EELS", title="EELS",
    )  # fmt: skip
    picture = files.signal(
        COUNTS[:, :, 0], files.signal(COUNTS)["axes"][:2], kind="", title="HAADF"
    )
    first = files.signal(COUNTS, title="first")
    second = files.signal(COUNTS * 2, title="second")
    return files.write(path, eels, first, picture, second)


@pytest.mark.parametrize("choice", [1, "1", "second"])
def test_signal_by_number_or_title(tmp_path, choice):
    image = load(several(tmp_path / "a.hspy"), signal=choice)
    np.testing.assert_array_equal(dense(image), COUNTS * 2)


@pytest.mark.parametrize("choice", [None, 7, "third"])
def test_several_signals_are_listed(tmp_path, choice):
    with pytest.raises(InputError, match="signal") as caught:
        load(several(tmp_path / "a.hspy"), signal=choice)
    text = sentence(caught)
    assert "'first' (EDS_TEM, 4 × 6 × 50)" in text
    assert "'second'" in text
    assert "EELS" not in text


def test_the_only_image_goes_before_spectra(tmp_path):
    path = files.write(
        tmp_path / "a.hspy",
        files.signal(COUNTS[0, 0], title="spectrum"),
        files.signal(COUNTS, title="image"),
    )
    image = load(path)
    assert image.shape == COUNTS.shape
    assert any("1 other EDS spectrum" in note for note in image.notes)


def test_untyped_signal_is_taken_by_its_axis_and_said(tmp_path):
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS, kind="")))
    assert image.counts.total == COUNTS.sum()
    assert any("does not name its signal EDS" in note for note in image.notes)


# ---- energies


def test_channels_at_or_below_zero_are_left_out_and_reported(tmp_path):
    axes = [*files.signal(COUNTS)["axes"][:2], files.energy(50, 0.01, -0.1)]
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS, axes)))
    np.testing.assert_array_equal(dense(image), COUNTS[:, :, 11:])
    assert float(image.energy_axis.offset) == pytest.approx(0.01)
    assert image.provenance["energy offset"].value == pytest.approx(0.01)
    assert image.provenance["energy range"].source == "default"
    assert any("at or below 0 keV" in note for note in image.notes)


@pytest.mark.parametrize("size", [500, 4096])
def test_the_channel_at_zero_goes_whatever_its_rounding(tmp_path, size, precision):
    data = np.ones((2, 2, size), np.uint8)
    axes = [*files.signal(data)["axes"][:2], files.energy(size, 0.01, -0.1)]
    image = load(files.write(tmp_path / "a.hspy", files.signal(data, axes)))
    assert image.shape[2] == size - 11
    assert float(image.energy_axis.offset) == pytest.approx(0.01, rel=1e-6)


def test_strobe_peak_of_bruker_files(tmp_path):
    axes = [*files.signal(COUNTS)["axes"][:2], files.energy(50, 0.01, -0.1)]
    one = files.signal(COUNTS, axes, original_metadata={"DSP Configuration": {"a": 1}})
    path = files.write(tmp_path / "a.hspy", one)
    image = load(path)
    np.testing.assert_array_equal(dense(image), COUNTS[:, :, 26:])  # 0.16 keV and above
    assert any("strobe" in note for note in image.notes)
    wanted = load(path, energy_range=(0.05, 0.3))
    np.testing.assert_array_equal(dense(wanted), COUNTS[:, :, 15:41])
    assert wanted.provenance["energy range"].source == "given"


def test_energy_range_and_calibration(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS))
    image = load(path, energy_range=(0.6, 0.7))
    np.testing.assert_array_equal(dense(image), COUNTS[:, :, 10:21])
    image = load(path, energy_offset=1.0, energy_gain=0.02)
    np.testing.assert_allclose(image.energy_axis.centres, 1 + 0.02 * np.arange(50), rtol=1e-6)
    assert image.provenance["energy gain"].source == "given"
    assert load(path).provenance["energy gain"].source == "read from the file"


@pytest.mark.parametrize(
    ("scale", "unit", "kev"), [(10.0, None, 0.01), (0.005, "", 0.005), (5.0, "<undefined>", 0.005)]
)
def test_missing_energy_unit_is_guessed_and_said(tmp_path, scale, unit, kev):
    axes = [*files.signal(COUNTS)["axes"][:2], files.energy(50, scale, 100 * scale, unit)]
    image = load(files.write(tmp_path / "a.hspy", files.signal(COUNTS, axes)))
    assert float(image.energy_axis.gain) == pytest.approx(kev)
    assert any("has no unit" in note for note in image.notes)


def test_no_calibration_at_all(tmp_path):
    axes = [*files.signal(COUNTS)["axes"][:2], files.energy(50, 1.0, 0.0, None)]
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS, axes))
    with pytest.raises(InputError, match="energy_offset and energy_gain") as caught:
        load(path)
    sentence(caught)
    image = load(path, energy_offset=0.5, energy_gain=0.01)
    assert image.counts.total == COUNTS.sum()


def test_region_before_bin(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS))
    image = load(path, region=(0, 4, 1, 5), bin=2)
    expected = COUNTS[:, 1:5].astype(int).reshape(2, 2, 2, 2, 50).sum((1, 3))
    np.testing.assert_array_equal(dense(image), expected)
    assert image.provenance["region"].source == "given"


# ---- a real file


def test_real_image(shared_image, precision):
    image = load(shared_image)
    assert image.shape == (80, 80, 1917)
    assert image.counts.total == 716_887
    assert image.counts.is_sparse
    assert float(image.energy_axis.offset) == pytest.approx(0.8315, abs=5e-5)
    assert float(image.energy_axis.gain) == pytest.approx(0.010005, abs=1e-6)
    a = image.acquisition
    assert (a.beam_energy, a.elevation, a.azimuth, a.tilt_alpha) == (200.0, 22.0, 45.0, 0.0)
    assert a.live_time == pytest.approx(28.085)
    assert a.real_time == pytest.approx(410.872)
    assert set(a.elements) >= {"O", "Mg", "Al", "Si", "Ca", "Fe"}
    assert image.pixel_unit == "µm"
    assert image.pixel_size[0] == pytest.approx(0.009859, abs=1e-6)
    energies = np.asarray(image.energy_axis.centres)
    spectrum = np.asarray(image.sum_spectrum())
    for line in (1.2536, 1.7400, 6.4038):  # Mg, Si and Fe K-L3: peaks lie where they should
        near = np.abs(energies - line) < 0.08
        assert abs(energies[near][np.argmax(spectrum[near])] - line) < 0.025


def test_the_place_of_the_scan_is_read_and_kept(tmp_path):
    """Coordinates are those of the file, whatever part is read; steps of 2 nm in y, 0.5 in x."""
    data = files.counts((6, 8, 50))
    axes = [
        files.axis("y", 6, 2.0, 100.0, "nm"),
        files.axis("x", 8, 0.5, -3.0, "nm"),
        files.energy(50),
    ]
    path = files.write(tmp_path / "a.hspy", files.signal(data, axes))
    assert load(path).origin == pytest.approx((100.0, -3.0))
    assert load(path, region=(2, 6, 4, 8)).origin == pytest.approx((104.0, -1.0))
    assert load(path, region=(2, 6, 4, 8), bin=2).origin == pytest.approx((105.0, -0.75))
    whole = load(path).crop_region(2, 6, 4, 8).bin(2)
    assert load(path, region=(2, 6, 4, 8), bin=2).origin == pytest.approx(whole.origin)


@pytest.mark.parametrize(
    ("steps", "offset", "units", "expected"),
    [
        (1.0, 7.0, None, 7.0),  # pixels, cut from a larger image
        (0.5, 7.0, None, 14.0),  # a step without unit: left in pixels
        (-0.5, 7.0, "nm", 0.0),  # runs backwards
        (0.5, float("nan"), "nm", 0.0),
    ],
)
def test_a_place_that_is_not_clear(steps, offset, units, expected):
    data = files.counts((2, 3, 50))
    axes = [
        files.axis("y", 2, steps, offset, units),
        files.axis("x", 3, steps, offset, units),
        files.energy(50),
    ]
    assert interpret(files.signal(data, axes), "a.hspy").origin == (expected, expected)


def test_a_line_has_a_place_along_itself():
    data = files.counts((3, 50))
    for name, expected in (("y", (4.0, 0.0)), ("x", (0.0, 4.0))):
        line = files.signal(data, [files.axis(name, 3, 2.0, 4.0, "nm"), files.energy(50)])
        assert interpret(line, "a.hspy").origin == pytest.approx(expected)
