"""Bad input: exit status 2, one sentence on standard error, and nothing written."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from io_files import counts, energy, signal, write
from typer.testing import CliRunner

import esmpy_jax as ej
from esmpy_jax import inference
from esmpy_jax.cli import app
from esmpy_jax.cli._app import _with_flags

ROOT = pathlib.Path(__file__).resolve().parents[1]


def contents(folder):
    """Every path below a folder with its bytes."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files good and bad."""
    path = tmp_path_factory.mktemp("files")
    data = counts((8, 8, 400), mean=0.5)
    axes = [*signal(data)["axes"][:2], energy(400, 0.02, 0.2)]
    bad = {
        "ok": data,
        "nan": np.where(np.arange(400) == 7, np.nan, data.astype(float)),
        "inf": np.where(np.arange(400) == 7, np.inf, data.astype(float)),
        "negative": data.astype(np.int32) - 1,
        "zero": 0 * data,
    }
    for name, values in bad.items():
        write(path / f"{name}.hspy", signal(values, axes))
    write(path / "nobeam.hspy", signal(data, axes, tem={}))
    loss = [*axes[:2], {**axes[2], "name": "Energy loss", "units": "eV"}]
    write(path / "eels.hspy", signal(data, loss, kind="EELS"))
    (path / "short.hspy").write_bytes((path / "ok.hspy").read_bytes()[:4000])
    (path / "text.foo").write_text("not a spectrum image")
    (path / "picture.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    (path / "narrow.csv").write_text("0.5,0.5\n5,0.9\n")
    (path / "there").mkdir()
    (path / "there" / "mine.txt").write_text("keep me")
    return path


FIT = "--elements O,Fe --phases 2 --out new"
CASES = {
    "no file": ("fit none.hspy " + FIT, "no file none.hspy"),
    "truncated": ("fit short.hspy " + FIT, "short.hspy cannot be read"),
    "unknown format": ("fit text.foo " + FIT, "'.foo'"),
    "picture": ("fit picture.PNG " + FIT, "picture.PNG is a picture and holds no spectra"),
    "no EDS": ("fit eels.hspy " + FIT, "holds no EDS signal"),
    "unknown element": ("fit ok.hspy --elements O,Fee --phases 2 --out new", "mean Fe"),
    "no line": ("fit ok.hspy --elements O,Fe --phases 2 --energy-range 2,6 --out new", "O has no"),
    "no beam energy": ("fit nobeam.hspy " + FIT, "--beam-energy"),
    "negative": ("fit negative.hspy " + FIT, "negative at pixel"),
    "NaN": ("fit nan.hspy " + FIT, "not finite at pixel"),
    "infinite": ("fit inf.hspy " + FIT, "not finite at pixel"),
    "no counts": ("fit zero.hspy " + FIT, "no counts"),
    "no phase": ("fit ok.hspy --elements O,Fe --phases 0 --out new", "--phases is 0"),
    "too many": ("fit ok.hspy --elements O,Fe --phases 70 --out new", "70 phases are more"),
    "stray in sample": (f"fit ok.hspy {FIT} --stray O", "both"),
    "start and solver": (f"fit ok.hspy {FIT} --start random", "contradicts"),
    "penalty alone": (f"fit ok.hspy {FIT} --solver multiplicative --sparsity 1", "--constraint"),
    "constraint": (f"fit ok.hspy {FIT} --constraint sum", "choose none, abundances"),
    "narrow curve": (f"fit ok.hspy {FIT} --efficiency narrow.csv", "covers 0.5 to 5 keV"),
    "no curve": (f"fit ok.hspy {FIT} --efficiency none.csv", "no efficiency curve none.csv"),
    "two curves": (f"fit ok.hspy {FIT} --efficiency narrow.csv --detector be", "give one"),
    "folder exists": ("fit ok.hspy --elements O,Fe --phases 2 --out there", "--overwrite"),
    "folder is a file": ("fit ok.hspy --elements O --phases 1 --out ok.hspy", "is a file"),
    "no folder": ("fit ok.hspy --elements O,Fe --phases 2", "--out"),
    "no elements": ("fit ok.hspy --phases 2 --out new", "--elements O,Fe"),
    "no phases": ("fit ok.hspy --elements O,Fe --out new", "--phases 3"),
    "density alone": (f"fit ok.hspy {FIT} --density 4", "give thickness"),
    "no angle": (f"fit nobeam.hspy {FIT} --beam-energy 200 --thickness 9 --density 4",
                 "--take-off-angle"),
    "NaN option": (f"fit ok.hspy {FIT} --beam-energy nan", "--beam-energy is nan"),
    "wild angle": (f"fit ok.hspy {FIT} --elevation 500", "-360 to 360 degrees"),
    "split": (f"fit ok.hspy {FIT} --split Fe", "such as Fe:3"),
    "region": (f"fit ok.hspy {FIT} --region 0,4,0", "Y0,Y1,X0,X1"),
    "region outside": (f"fit ok.hspy {FIT} --region 0,40,0,4", "8 × 8 pixels"),
    "range": (f"fit ok.hspy {FIT} --energy-range 5,1", "low < high"),
    "names": (f"fit ok.hspy {FIT} --phase-names a", "--phase-names"),
    "composition": (f"fit ok.hspy {FIT} --compositions MgO", "such as 1:MgSiO3"),
    "composition of none": (f"fit ok.hspy {FIT} --compositions 9:MgO", "from 1 to 2"),
    "two compositions": (f"fit ok.hspy {FIT} --compositions 1:FeO,1:Fe2O3", "two compositions"),
    "composition unknown": (f"fit ok.hspy {FIT} --compositions 1:AuO", "holds Au, which"),
    "absent": (f"fit ok.hspy {FIT} --absent Fe", "such as 2:Si"),
    "absent of none": (f"fit ok.hspy {FIT} --absent 1:Au", "the model has no Au"),
    "absent auto": ("fit ok.hspy --elements O,Fe --phases auto --absent 1:Fe --out new",
                    "--phases"),
    "bin": (f"fit ok.hspy {FIT} --bin 3", "does not divide"),
    "unknown option": (f"fit ok.hspy {FIT} --bogus", "--help"),
    "not a number": ("fit ok.hspy --elements O --phases two --out new", "--phases"),
    "unknown command": ("fitt ok.hspy", "fitt"),
    "info": ("info none.hspy", "no file none.hspy"),
    "quantify": ("quantify ok.hspy", "not a solution"),
    "quantify nothing": ("quantify there", "There is no solution"),
    "simulate over": ("simulate --out ok.hspy", "--overwrite"),
    "simulate format": ("simulate --out new.txt", ".hspy, .zspy or .rpl"),
    "demo over": ("demo --out there", "--overwrite"),
    "demo dark": ("demo --counts 0 --out new", "--counts is 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_sentence(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    before = contents(folder)
    command, expected = CASES[name]
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2, result.exception
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert lines[0].endswith((".", "?"))
    assert contents(folder) == before


def failing(error):
    def fit(*_, **__):
        raise error

    return fit


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (RuntimeError("The fit met values that are not finite."), 1, "not finite"),
        (MemoryError(), 1, "memory"),
        (KeyboardInterrupt(), 130, "nothing was written"),
    ],
    ids=["nonfinite", "memory", "interrupt"],
)
def test_a_failed_fit_leaves_nothing(folder, monkeypatch, error, status, expected):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(inference, "fit", failing(error))
    before = contents(folder)
    result = CliRunner().invoke(app, f"fit ok.hspy {FIT}".split())
    assert result.exit_code == status
    assert len(result.stderr.splitlines()) == 1
    assert expected in result.stderr
    assert contents(folder) == before


def test_a_bug_is_not_hidden(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(inference, "fit", failing(ZeroDivisionError("a bug")))
    result = CliRunner().invoke(app, f"fit ok.hspy {FIT}".split())
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_program_in_its_own_process(folder):
    words = ["fit", "ok.hspy", "--elements", "O,Unobtainium", "--phases", "2", "--out", "new"]
    done = subprocess.run(
        [sys.executable, "-c", "from esmpy_jax.cli import main; main()", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Unobtainium" in done.stderr
    assert not (folder / "new").exists()


def test_version_and_help():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("esmpy-jax ")
    for words in ([], ["--help"], ["fit", "-h"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0
        assert "Usage" in result.stdout


def test_input_errors_reach_the_user_unchanged(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ej.InputError) as caught:
        ej.load("none.hspy")
    result = CliRunner().invoke(app, ["info", "none.hspy"])
    assert result.stderr.strip() == str(caught.value)


def test_arguments_are_named_by_their_options():
    said = _with_flags("Leave bound_oxygen out and give dwell_time and `bin`.")
    assert said == "Leave --oxides out and give --dwell-time and --bin."
