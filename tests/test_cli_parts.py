"""The parts of the command line: options, numbers, folders, progress, detectors."""

import io
import json
import math
import os
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import esmpy_jax as ej
from esmpy_jax.cli import _compiled, _output, _parse, _terminal
from esmpy_jax.cli._fit import _fit_options, renamed
from esmpy_jax.cli._model import read_detector, with_sources
from esmpy_jax.cli._results import as_sentence, print_composition, uncertain


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (43.6927, 0.1345, "43.69 ± 0.13"),
        (0.0551, 0.0371, "0.055 ± 0.037"),
        (3.3e-6, 0.0085, "0.000 ± 0.009"),  # no more than three decimals for nothing
        (0.00052, 0.0001, "0.00052 ± 0.00010"),  # but a trace shows
        (0.00002, 0.0001, "0.0000 ± 0.0001"),
        (43.6927, 1e-9, "43.69"),
        (0.0004, 0.0, "0.0004"),
        (2.9e-19, 0.0, "0.00"),
        (41.4, 15.6, "41.4 ± 15.6"),
        (100.0, 0.0, "100.00"),
        (12.3, math.nan, "12.30"),
        (math.nan, 1.0, "–"),
    ],
)
def test_numbers_are_as_long_as_their_error_allows(value, error, text):
    assert uncertain(value, error) == text


def test_sentences():
    assert as_sentence("the channels were left out") == "The channels were left out."
    assert as_sentence("Done.") == "Done."


def test_lists_in_options():
    assert _parse.words(" O, Mg ,,Si") == ["O", "Mg", "Si"]
    assert _parse.numbers("0.9, 20", ("LO", "HI"), "--energy-range") == (0.9, 20.0)
    assert _parse.numbers(None, ("LO", "HI"), "--energy-range") is None
    assert _parse.split_energies("Fe:3, Hf:5.5") == {"Fe": 3.0, "Hf": 5.5}
    for text in ("1", "1,2,3", "a,b", "1,nan", ""):
        with pytest.raises(ej.InputError, match="give 2 numbers"):
            _parse.numbers(text, ("LO", "HI"), "--energy-range")
    with pytest.raises(ej.InputError, match="twice"):
        _parse.split_energies("Fe:3,Fe:4")


@pytest.fixture
def image():
    counts = ej.as_counts(np.ones((2, 2, 20), np.uint8))
    known = ej.Acquisition(beam_energy=200.0, energy_resolution_mn_ka=140.0)
    return ej.SpectrumImage(counts, ej.EnergyAxis(0.4, 0.4, 20), known)


def sources(image, **options):
    detector, found = read_detector(
        image,
        options.get("efficiency"),
        options.get("window"),
        options.get("resolution"),
    )
    model = with_sources(ej.EDSModel.from_image(image, "O,Si", detector=detector), found)
    parameters = model.parameters()
    fwhm = 1e3 * float(model.detector.resolution.fwhm(jnp.asarray(5.895)))
    return {name: parameters[name].source for name in ("efficiency", "noise_fwhm", "fano")}, fwhm


def test_where_the_detector_comes_from(image, tmp_path):
    """What no option gives keeps the file's value, or the default, and its source."""
    given, read, default = "given", "read from the file", "default"
    names = ("efficiency", "noise_fwhm", "fano")
    found, fwhm = sources(image)
    assert tuple(found[n] for n in names) == (default, read, default)
    assert fwhm == pytest.approx(140, abs=0.01)
    found, fwhm = sources(image, resolution=125.0)
    assert tuple(found[n] for n in names) == (default, given, default)
    assert fwhm == pytest.approx(125, abs=0.01)
    found, fwhm = sources(image, window="be")
    assert tuple(found[n] for n in names) == (given, read, default)
    assert fwhm == pytest.approx(140, abs=0.01)
    curve = tmp_path / "curve.csv"
    curve.write_text("energy,efficiency\n0.1,0.5\n20,0.9\n")
    found, _ = sources(image, efficiency=curve, resolution=125.0)
    assert tuple(found[n] for n in names) == (given, given, default)


def test_options_of_the_fit():
    found = _fit_options("coarse-to-fine", None, None, None, None, None)
    assert set(found) == {"solver"}  # everything else is left to `fit`
    found = _fit_options("coarse-to-fine", None, None, None, 0.5, None)
    assert isinstance(found["regulariser"], ej.LogSparsity)
    found = _fit_options("coarse-to-fine", None, "shares", 0.0, None, None)
    assert isinstance(found["regulariser"], ej.NoRegulariser)
    found = _fit_options("multiplicative", "nndsvd", "weights", 3.0, None, None)
    assert isinstance(found["solver"], ej.MultiplicativeUpdate)
    assert isinstance(found["start"], ej.NNDSVDStart)
    assert isinstance(found["constraint"], ej.SumToOneWeights)
    assert float(found["regulariser"].strength) == 3.0
    found = _fit_options("newton", None, "shares", None, None, 2.0)
    assert isinstance(found["solver"], ej.VariableProjectionNewton)
    assert isinstance(found["regulariser"], ej.TotalVariation)


def fill(out, text, failure):
    """Fill a folder until something fails; what that raised in the end."""

    def filling():
        with _output.filled(out) as hidden:
            (hidden / "x.txt").write_text(text)
            raise failure

    with pytest.raises((type(failure), ej.InputError)) as caught:
        filling()
    return caught.value


def test_a_folder_is_filled_at_once_or_not_at_all(tmp_path):
    out = tmp_path / "a" / "b"
    _output.check_folder(out, False)
    fill(out, "half", ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []
    with _output.filled(out) as hidden:
        (hidden / "x.txt").write_text("whole")
        assert not out.exists()
    assert (out / "x.txt").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_overwriting_keeps_what_is_not_ours(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("mine.txt", "old.png", "new.png"):
        (out / name).write_text("before")
    with pytest.raises(ej.InputError, match="exists already"):
        _output.check_folder(out, False)
    _output.check_folder(out, True)
    with _output.filled(out, ("old.png", "new.png")) as hidden:
        (hidden / "new.png").write_text("after")
    assert {p.name: p.read_text() for p in out.iterdir()} == {
        "mine.txt": "before",
        "new.png": "after",
    }


def test_a_disk_that_refuses_is_reported(tmp_path):
    error = fill(tmp_path / "out", "half", OSError(28, "No space left on device"))
    assert isinstance(error, ej.InputError)
    assert "cannot be written into" in str(error)
    assert "No space left on device" in str(error)
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_only_in_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with _terminal.fit_progress() as progress, _terminal.working("reading"):
        assert progress is None
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", screen)
    with _terminal.fit_progress() as progress:
        assert progress is not None
        for step in (10, 20, 10):
            progress(step, 100, -1234.5)
    assert "pass 2" in screen.getvalue()
    assert "step 10 of at most 100, objective -1,234.5" in screen.getvalue()


def test_notes_follow_the_names():
    """Anywhere in a sentence, whole names only, and each once even where names are swapped."""
    notes = [
        "phase 1 and phase 12 contain practically no element of the sample.",
        "The counts hardly determine the composition of phase 2: the standard error is 30 at%.",
        "A phase 20 there is not, and a subphase 1 neither.",
    ]
    data = xr.Dataset(
        coords={"phase": ["phase 1", "phase 2", "phase 12"]}, attrs={"warnings": json.dumps(notes)}
    )
    found = renamed(ej.Solution(data), ["phase 2", "grain (a)", "hole"])
    assert list(found.dataset["phase"].values) == ["phase 2", "grain (a)", "hole"]
    assert found.warnings == (
        "phase 2 and hole contain practically no element of the sample.",
        "The counts hardly determine the composition of grain (a): the standard error is 30 at%.",
        "A phase 20 there is not, and a subphase 1 neither.",
    )


def test_open_phases_are_marked_where_the_numbers_are():
    """In the terminal's table; nothing is marked where nothing was asked."""
    percent = np.array([[60.0, 30.0], [40.0, 70.0]])
    data = xr.Dataset(
        {
            "composition": (("element", "phase"), percent),
            "composition_stderr": (("element", "phase"), 0 * percent + 1),
            "H": (("phase", "y", "x"), np.ones((2, 1, 1))),
            "abundance": (("phase", "y", "x"), np.full((2, 1, 1), 0.5), {"share_of": "atoms"}),
        },
        {"element": ["O", "Mg"], "phase": ["matrix", "grain"]},
    )

    def table(dataset):
        out = io.StringIO()
        print_composition(
            types.SimpleNamespace(dataset=dataset), Console(file=out, width=200, highlight=False)
        )
        return out.getvalue()

    assert "open" not in table(data)
    marked = table(data.assign(determined=("phase", [1, 0])))
    assert "grain (open)" in marked
    assert "matrix (open)" not in marked


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """The user's folder for caches."""
    folder = tmp_path / "caches"
    monkeypatch.setattr(_compiled.platformdirs, "user_cache_path", lambda name: folder / name)
    return folder


def test_compiled_programs_are_kept_by_kind_of_processor(caches, monkeypatch):
    found = {}
    _compiled.keep_compiled(found)
    folder = found["JAX_COMPILATION_CACHE_DIR"]
    assert [str(f) for f in (caches / "esmpy_jax").iterdir()] == [folder]
    assert all(hasattr(jax.config, name.lower()) for name in found)  # JAX reads all of them
    again = {}
    _compiled.keep_compiled(again)
    assert again == found
    monkeypatch.setattr(_compiled.platform, "machine", lambda: "another")
    other = {}
    _compiled.keep_compiled(other)
    assert other["JAX_COMPILATION_CACHE_DIR"] != folder


def test_what_the_user_says_of_the_cache_stays(caches):
    found = {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
    _compiled.keep_compiled(found)
    assert found == {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}
    assert not caches.exists()
    found = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "10"}
    _compiled.keep_compiled(found)
    assert found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "10"


def test_no_cache_where_the_folder_cannot_be_written(caches, monkeypatch):
    caches.write_text("a file where the folder should be")
    found = {}
    _compiled.keep_compiled(found)
    assert found == {}
    caches.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    _compiled.keep_compiled(found)
    assert found == {}


def test_no_cache_without_a_home(monkeypatch):
    def homeless(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(_compiled.platformdirs, "user_cache_path", homeless)
    found = {}
    _compiled.keep_compiled(found)
    assert found == {}


def test_the_oldest_programs_go_where_there_are_too_many(caches, monkeypatch):
    monkeypatch.setattr(_compiled, "_MOST", 1000)
    found = {}
    _compiled.keep_compiled(found)
    folder = pathlib.Path(found["JAX_COMPILATION_CACHE_DIR"])
    for i in (3, 0, 2, 1):
        file = folder / str(i)
        file.write_bytes(bytes(250))
        os.utime(file, (i, i))
    _compiled.keep_compiled({})
    assert len(list(folder.iterdir())) == 4  # as many as there may be
    (folder / "new").write_bytes(bytes(1))
    _compiled.keep_compiled({})
    assert {file.name for file in folder.iterdir()} == {"3", "new"}
