"""Where each quantity came from: strings, defaults of other programs, Velox's own metadata."""

import io_files as files
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.io import load, save_image

COUNTS = files.counts()


def write(path, **options):
    return files.write(path / "a.hspy", files.signal(COUNTS, **options))


def test_every_quantity_is_read_also_from_strings(tmp_path):
    image = load(write(tmp_path))
    a = image.acquisition
    assert a.beam_energy == 200.0
    assert a.beam_current == 0.5
    assert (a.tilt_alpha, a.tilt_beta) == (10.0, 1.5)
    assert (a.azimuth, a.elevation) == (45.0, 22.0)
    assert a.energy_resolution_mn_ka == 128.0
    assert (a.live_time, a.real_time) == (12.5, 20.0)
    assert a.solid_angle == 0.7
    assert a.elements == ("O", "Fe")
    assert image.provenance["elements"].value == "O, Fe"
    for label, unit in (("beam energy", "keV"), ("tilt alpha", "°"), ("live time", "s")):
        assert image.provenance[label].unit == unit
        assert image.provenance[label].source == "read from the file"


def test_what_is_given_wins_and_the_difference_is_said(tmp_path):
    image = load(write(tmp_path), beam_energy=300.0, azimuth=45.0, tilt_beta=-3.0)
    assert image.acquisition.beam_energy == 300.0
    assert image.acquisition.tilt_beta == -3.0
    assert image.acquisition.elevation == 22.0
    assert image.provenance["beam energy"].source == "given"
    assert image.provenance["elevation"].source == "read from the file"
    assert sum("replaces" in note for note in image.notes) == 2  # not for the same azimuth
    assert any("beam energy given, 300 keV, replaces the file's 200" in n for n in image.notes)


def test_missing_metadata_is_missing_and_no_error(tmp_path):
    image = load(write(tmp_path, tem={}, elements=()))
    assert image.acquisition.beam_energy is None
    assert image.acquisition.take_off_angle is None
    assert image.acquisition.elements == ()
    for label in ("beam energy", "elevation", "live time", "elements"):
        assert image.provenance[label].source == "missing"
        assert image.provenance[label].value is None
    assert load(write(tmp_path, tem={}), beam_energy=80.0).acquisition.beam_energy == 80.0


@pytest.mark.parametrize("value", [0.0, "unknown", np.nan, -5.0])
def test_impossible_metadata_is_left_out_and_said(tmp_path, value):
    tem = files.TEM | {"beam_energy": value}
    image = load(write(tmp_path, tem=tem))
    assert image.acquisition.beam_energy is None
    assert image.provenance["beam energy"].source == "missing"
    assert any("beam energy" in n and "not usable" in n for n in image.notes)


def test_scanning_microscope(tmp_path):
    sem = {"beam_energy": 15.0, "Detector": {"EDS": {"elevation_angle": 35.0}}}
    one = files.signal(
        COUNTS, kind="EDS_SEM", tem={}, metadata={"Acquisition_instrument": {"SEM": sem}}
    )
    image = load(files.write(tmp_path / "a.hspy", one))
    assert image.acquisition.beam_energy == 15.0
    assert image.acquisition.elevation == 35.0


def exspy_defaults(elevation=35.0, azimuth=0.0, resolution=130.0):
    angles = {"elevation_angle": elevation, "azimuth_angle": azimuth}
    return {
        "beam_energy": 200.0,
        "Detector": {"EDS": angles | {"energy_resolution_MnKa": resolution}},
    }


VELOX = {"Detectors": {}, "BinaryResult": {"Detector": "SuperXG2"}}


def test_defaults_of_other_programs_are_not_believed_for_velox(tmp_path):
    image = load(write(tmp_path, tem=exspy_defaults(), original_metadata=VELOX))
    a = image.acquisition
    assert (a.elevation, a.azimuth, a.energy_resolution_mn_ka) == (None, None, None)
    assert image.provenance["elevation"].source == "missing"
    assert sum("HyperSpy's default" in note for note in image.notes) == 3


def test_set_values_of_velox_files_are_believed(tmp_path):
    tem = exspy_defaults(elevation=18.0, azimuth=45.0, resolution=136.0)
    image = load(write(tmp_path, tem=tem, original_metadata=VELOX))
    a = image.acquisition
    assert (a.elevation, a.azimuth, a.energy_resolution_mn_ka) == (18.0, 45.0, 136.0)


def test_the_same_values_of_other_files_are_believed_with_a_note(tmp_path):
    image = load(write(tmp_path, tem=exspy_defaults()))
    assert image.acquisition.elevation == 35.0
    assert any("exactly the defaults" in note for note in image.notes)


def test_hyperspy_copy_of_a_velox_file_still_tells_its_angles(tmp_path):
    detector = {
        "DetectorName": "SuperXG21",
        "DetectorType": "AnalyticalDetector",
        "Enabled": "true",
        "ElevationAngle": str(np.radians(22.0)),
        "AzimuthAngle": str(np.radians(135.0)),
    }
    original = VELOX | {"Detectors": {"Detector-1": detector}}
    image = load(write(tmp_path, tem=exspy_defaults(), original_metadata=original))
    assert image.acquisition.elevation == pytest.approx(22.0)
    assert image.acquisition.azimuth == pytest.approx(135.0)
    assert image.provenance["azimuth"].source == "read from the file"


# ---- the dose


def test_dwell_time_and_the_like_are_given(tmp_path):
    path = write(tmp_path)
    image = load(path)  # what the file's live time is the time of, nobody knows
    assert image.acquisition.dwell_time is None
    assert image.provenance["dwell time"].source == "missing"
    image = load(path, beam_current=0.25, dwell_time=0.01, solid_angle=0.9, region=(0, 4, 0, 4))
    a = image.acquisition
    assert (a.beam_current, a.dwell_time, a.solid_angle) == (0.25, 0.01, 0.9)
    assert a.live_time == 12.5
    for label, unit in (("beam current", "nA"), ("dwell time", "s"), ("solid angle", "sr")):
        assert image.provenance[label].unit == unit
        assert image.provenance[label].source == "given"
    binned = load(path, dwell_time=0.01, bin=2)
    assert binned.acquisition.dwell_time == pytest.approx(0.04)
    assert binned.provenance["dwell time"].value == pytest.approx(0.04)
    again = load(save_image(image, tmp_path / "b.hspy"))
    assert again.acquisition.dwell_time == 0.01
    assert again.provenance["dwell time"].source == "read from the file"


def test_the_live_time_of_a_scan_is_shared_by_the_pixels_of_the_file(tmp_path):
    path = write(tmp_path)  # 4 x 6 pixels
    image = load(path, live_time=48.0, region=(0, 2, 0, 2))
    assert image.acquisition.dwell_time == pytest.approx(2.0)
    assert image.provenance["dwell time"].source == "derived"
    assert image.provenance["live time"].source == "given"
    with pytest.raises(InputError, match="Both dwell_time"):
        load(path, live_time=48.0, dwell_time=2.0)
    with pytest.raises(InputError, match=r"solid angle is 13\.0 sr"):
        load(path, solid_angle=13.0)


@pytest.mark.parametrize(("angle", "found"), [("0.2", 0.4), ("4.35", None)])
def test_velox_current_and_solid_angle(tmp_path, angle, found):
    """Some files give the solid angle of all detectors to each."""
    detector = {"DetectorType": "AnalyticalDetector", "CollectionAngle": angle}
    original = VELOX | {
        "Detectors": {"Detector-1": detector, "Detector-2": dict(detector)},
        "Optics": {"ScreenCurrent": "0", "LastMeasuredScreenCurrent": "2.5e-010"},
    }
    tem = {"beam_energy": 200.0}
    image = load(write(tmp_path, tem=tem, original_metadata=original))
    assert image.acquisition.beam_current == pytest.approx(0.25)
    assert image.acquisition.solid_angle == (None if found is None else pytest.approx(found))
    assert any("collection angles" in note for note in image.notes) == (found is None)


# ---- Velox files themselves


STREAMS = [files.counts((3, 4, 60), seed) for seed in (1, 2)]


@pytest.mark.parametrize("lazy", [None, False])
def test_velox_streams_are_summed_and_described(tmp_path, lazy):
    image = load(files.velox(tmp_path / "a.emd", STREAMS), lazy=lazy)
    expected = (STREAMS[0].astype(int) + STREAMS[1])[:, :, 4:]  # -30 eV offset, 10 eV channels
    np.testing.assert_array_equal(image.counts.to_dense(), expected.reshape(12, 56))
    assert float(image.energy_axis.offset) == pytest.approx(0.01)
    assert image.pixel_size == pytest.approx((2.0, 2.0))
    assert image.pixel_unit == "nm"
    a = image.acquisition
    assert a.beam_energy == 300.0
    assert a.elevation == pytest.approx(18.0)
    assert a.azimuth is None  # two detectors at 45 and 135 degrees
    assert a.tilt_alpha == pytest.approx(np.degrees(0.1), abs=1e-3)
    assert a.live_time == pytest.approx(9.5)
    assert a.solid_angle == pytest.approx(0.4)
    assert a.elements == ("O", "Fe")
    assert any("sum of 2 detector streams" in note for note in image.notes)
    assert any("azimuths 45, 135°" in note for note in image.notes)


def test_velox_detector_stream(tmp_path):
    path = files.velox(tmp_path / "a.emd", STREAMS)
    image = load(path, signal="detector 2")
    np.testing.assert_array_equal(image.counts.to_dense(), STREAMS[1][:, :, 4:].reshape(12, 56))
    assert image.acquisition.azimuth == pytest.approx(135.0)
    assert image.acquisition.solid_angle == pytest.approx(0.2)
    with pytest.raises(InputError, match="holds 2 detector streams"):
        load(path, signal="detector 3")
    files.velox(path, STREAMS)  # nothing holds the file open


def test_velox_image_before_its_sum_spectrum(tmp_path):
    spectrum = np.arange(60, dtype=np.uint32)
    image = load(files.velox(tmp_path / "a.emd", STREAMS, spectrum=spectrum))
    assert image.shape == (3, 4, 56)
    assert any("1 other EDS spectrum" in note for note in image.notes)


def test_pruned_velox_file(tmp_path):
    path = files.velox(tmp_path / "a.emd", STREAMS, pruned=True)
    with pytest.raises(InputError, match=r"no EDS signal.*No spectrum stream"):
        load(path)


def test_counts_of_summed_streams_do_not_wrap(tmp_path):
    """Each stream alone fits 16 bits, their sum does not."""
    bright = np.zeros((1, 1, 60), np.int64)
    bright[0, 0, 30] = 40_000
    image = load(files.velox(tmp_path / "a.emd", [bright, bright]), lazy=False)
    assert image.counts.total == 80_000
