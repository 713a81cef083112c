"""A point spectrum goes the way of an image: fit, refine, quantify, figures."""

import csv

import numpy as np
import pytest
import xarray as xr
from rsciio.msa import file_writer
from typer.testing import CliRunner

import esmpy_jax as ej
from esmpy_jax.cli import app

ATOMS = {"Mg": 0.5, "Si": 0.3, "Fe": 0.2}


@pytest.fixture(scope="module")
def spectrum(tmp_path_factory):
    """An .msa file of 200,000 counts, and its counts."""
    axis = ej.EnergyAxis(0.6, 0.01, 800)
    blank = ej.SpectrumImage(
        ej.as_counts(np.ones((1, 1, axis.size), np.int32)), axis, ej.Acquisition(beam_energy=200.0)
    )
    model = ej.EDSModel.from_image(blank, list(ATOMS))
    weights = np.zeros((len(model.columns), 1))
    weights[:3, 0] = list(ATOMS.values())
    matrix = np.asarray(model.basis().matrix, np.float64)
    weights[3:, 0] = 0.2 * (matrix @ weights).sum() / 2 / matrix[:, 3:].sum(0)
    mean = matrix @ weights[:, 0]
    counts = np.random.default_rng(0).poisson(mean * 2e5 / mean.sum())
    path = tmp_path_factory.mktemp("point") / "point.msa"
    about = {
        "data": counts.astype(float),
        "axes": [
            {
                "name": "Energy",
                "units": "keV",
                "size": axis.size,
                "scale": float(axis.gain),
                "offset": float(axis.offset),
                "navigate": False,
            }
        ],
        "metadata": {
            "General": {"title": "point"},
            "Signal": {"signal_type": "EDS_TEM"},
            "Acquisition_instrument": {"TEM": {"beam_energy": 200.0}},
        },
        "original_metadata": {},
    }
    file_writer(str(path), about, format="Y")
    return path, counts


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


@pytest.fixture(scope="module")
def results(spectrum, tmp_path_factory):
    """(folder, stdout) of a refinement, without --phases, from an energy scale 5 eV off."""
    path, _ = spectrum
    out = tmp_path_factory.mktemp("point") / "results"
    given = ("--elements", ",".join(ATOMS), "--energy-offset", 0.605)
    return out, run("refine", path, *given, "--out", out, "--parameters", "energy_offset")


def test_the_spectrum_is_refined_and_quantified(spectrum, results):
    out, said = results
    assert "1 phase in 1 × 1 pixel," in said
    with (out / "parameters.csv").open() as file:
        offset = next(csv.DictReader(file))
    assert abs(float(offset["after"]) - 0.6) < 4 * float(offset["stderr"]) < 1e-3
    with (out / "composition.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        error = float(row["at% stderr total"])
        assert error >= float(row["at% stderr"]) > 0
        assert abs(float(row["at%"]) - 100 * ATOMS[row["element"]]) < 4 * error < 4
    with xr.open_dataset(out / "solution.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["counts_sum"], spectrum[1])


def test_no_maps_of_a_single_spectrum(results):
    out, _ = results
    found = {path.name for path in out.glob("*.png")}
    assert {"spectra.png", "refinement.png", "composition.png", "basis.png"} <= found
    assert not found & {"maps.png", "phase_spectra.png"}
    assert "Where the phases are" not in (out / "report.html").read_text(encoding="utf-8")
    said = run("quantify", out)
    written = {path.name for path in (out / "quantification").iterdir()}
    assert written == {"composition.csv", "composition.png", "pixel_composition.nc"}
    assert "maps" not in said


def test_a_single_spectrum_has_one_phase(spectrum, tmp_path):
    given = [
        "fit",
        str(spectrum[0]),
        "--elements",
        "Mg",
        "--phases",
        "2",
        "--out",
        str(tmp_path / "x"),
    ]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "point.msa is a single spectrum" in result.stderr
    assert result.stderr.count("\n") == 1
