"""Loading what cannot be loaded: one sentence that says what, where and what to do."""

import io_files as files
import numpy as np
import pytest

from esmpy_jax._checks import InputError
from esmpy_jax.io import load

COUNTS = files.counts()


def sentence(caught):
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region": (0, 5, 0, 6)}, "4 × 6 pixels"),
        ({"region": (2, 2, 0, 6)}, "y0 < y1"),
        ({"region": (0, 2, 0)}, "four"),
        ({"bin": 0}, "at least 1"),
        ({"bin": 3}, "does not divide"),
        ({"energy_range": (30.0, 40.0)}, "No channel"),
        ({"energy_range": (2.0, 1.0)}, "low < high"),
        ({"energy_range": (1.0,)}, "two energies"),
        ({"energy_gain": -0.01}, "below zero|positive width"),
        ({"energy_offset": -9.0}, "below zero"),
        ({"beam_energy": -1.0}, "beam energy is -1"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, words):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS))
    with pytest.raises(InputError, match=words) as caught:
        load(path, **options)
    sentence(caught)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-2, "are negative"),
        (np.nan, "are not finite"),
        (np.inf, "are not finite"),
        (0.5, "are not whole numbers"),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_values_that_are_no_counts_are_named_by_place(tmp_path, value, words, lazy):
    data = COUNTS.astype(float)
    data[2, 3, 17] = value
    path = files.write(tmp_path / "a.hspy", files.signal(data))
    with pytest.raises(InputError, match=words) as caught:
        load(path, region=(1, 4, 2, 6), energy_range=(0.6, 0.9), lazy=lazy)
    assert "pixel y 2, x 3, channel 17" in sentence(caught)


def test_complex_values(tmp_path):
    path = files.write(tmp_path / "a.hspy", files.signal(COUNTS.astype(complex)))
    with pytest.raises(InputError, match="complex128") as caught:
        load(path)
    sentence(caught)


def test_missing_file_folder_and_unknown_extension(tmp_path):
    with pytest.raises(InputError, match="There is no file") as caught:
        load(tmp_path / "nothing.hspy")
    sentence(caught)
    with pytest.raises(InputError, match="is a folder") as caught:
        load(tmp_path)
    sentence(caught)
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(InputError, match=r"'\.docx'.*\.hspy, .*\.bcf") as caught:
        load(tmp_path / "a.docx")
    sentence(caught)


@pytest.mark.parametrize("extension", ["hspy", "emd", "bcf", "rpl", "dm4", "msa", "spd", "pts"])
def test_files_of_another_kind(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(b"this is no spectrum image\n" * 40)
    with pytest.raises(InputError, match=path.name) as caught:
        load(path)
    assert len(sentence(caught)) < 700


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_hspy(tmp_path, part):
    data = files.counts((16, 16, 200), mean=3.0)
    path = files.write(tmp_path / "a.hspy", files.signal(data))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match="cut short") as caught:
        load(path)
    sentence(caught)


@pytest.mark.parametrize("lazy", [None, False])
def test_truncated_raw_of_a_ripple_file(tmp_path, lazy):
    path = files.write(tmp_path / "a.rpl", files.signal(COUNTS))
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-7])
    with pytest.raises(InputError, match="cut short") as caught:
        load(path, lazy=lazy)
    sentence(caught)
    raw.unlink()
    with pytest.raises(InputError, match=r"a\.rpl cannot be read") as caught:
        load(path, lazy=lazy)
    sentence(caught)


def test_truncated_msa(tmp_path):
    path = files.write(tmp_path / "a.msa", files.signal(COUNTS[0, 0]))
    text = path.read_text()
    path.write_text(text[: len(text) - 200])
    with pytest.raises(InputError, match="announces 50 points") as caught:
        load(path)
    sentence(caught)


def test_chunks_damaged_inside_an_hspy_file(tmp_path):
    """The damage shows only when the lazily read block is computed."""
    data = files.counts((16, 16, 200), mean=3.0)
    path = files.write(tmp_path / "a.hspy", files.signal(data))
    import h5py

    with h5py.File(path) as f:
        where = f["Experiments/EDS/data"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(InputError, match="cut short") as caught:
        load(path, lazy=True)
    sentence(caught)


def test_no_eds_signal_says_what_there_is(tmp_path):
    picture = files.signal(
        COUNTS[:, :, 0], files.signal(COUNTS)["axes"][:2], kind="", title="HAADF"
    )
    path = files.write(tmp_path / "a.hspy", picture)
    with pytest.raises(InputError, match=r"no EDS signal.*HAADF") as caught:
        load(path)
    sentence(caught)


def test_frames_must_be_summed(tmp_path):
    data = COUNTS[None].repeat(2, 0)
    axes = [files.axis("Time", 2, units="s"), *files.signal(COUNTS)["axes"]]
    path = files.write(tmp_path / "a.hspy", files.signal(data, axes))
    with pytest.raises(InputError, match=r"3 scan axes \(Time, y, x\)") as caught:
        load(path)
    sentence(caught)


def test_reader_that_cannot_be_lazy(tmp_path):
    path = files.write(tmp_path / "a.msa", files.signal(COUNTS[0, 0]))
    assert load(path).counts.total == COUNTS[0, 0].sum()
    with pytest.raises(InputError, match=r"cannot read a\.msa lazily") as caught:
        load(path, lazy=True)
    sentence(caught)
