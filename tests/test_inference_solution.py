"""`Solution`: what its dataset holds, and that saving and loading keep all of it."""

import json
import pickle

import jax
import numpy as np
import pytest
import xarray as xr

import esmpy_jax as ej
from esmpy_jax.simulate import Phase, simulate

PHASES = (
    Phase("matrix", {"O": 60, "Mg": 25, "Fe": 15}, 3.5, stray={"Cu": 0.05}),
    Phase("grain", {"O": 50, "Mg": 20, "Fe": 30}, 4.5),
)
LABELS = ["O", "Mg", "Fe<3keV", "Fe", "Cu L", "brems 0", "brems 1"]


def fitted(absorption=False):
    """A few steps only: all here is about bookkeeping."""
    options = {"thickness": 200.0, "density": 4.0, "take_off_angle": 30.0} if absorption else {}
    axis = ej.EnergyAxis(0.3, 0.05, 140)
    stray = {"stray": ["Cu"], "split": {"Fe": 3.0}}
    model = ej.EDSModel.from_axis(axis, ["O", "Mg", "Fe"], beam_energy=200.0, **stray, **options)
    maps = np.zeros((2, 4, 5))
    maps[1, :, 3:] = 1.0
    maps[0] = 1 - maps[1]
    image = simulate(
        model,
        PHASES,
        maps,
        800.0,
        key=jax.random.key(2),
        pixel_size=(2.0, 3.0),
        pixel_unit="nm",
        title="two phases",
    )
    solution = ej.fit(
        image,
        model,
        2,
        solver=ej.MultiplicativeUpdate(),
        start=ej.RandomStart(),
        key=jax.random.key(7),
        max_steps=20,
    )
    return image, model, solution


@pytest.fixture(scope="module")
def example():
    return fitted()


SCHEMA = {
    # name: (dimensions, units)
    "counts_sum": (("energy",), None),
    "G": (("energy", "column"), None),
    "W": (("column", "phase"), None),
    "H": (("phase", "y", "x"), None),
    "spectra": (("energy", "phase"), None),
    "abundance": (("phase", "y", "x"), None),
    "composition": (("element", "phase"), "at%"),
    "composition_stderr": (("element", "phase"), "at%"),
    "weight_percent": (("element", "phase"), "wt%"),
    "weight_percent_stderr": (("element", "phase"), "wt%"),
}


def test_the_dataset_has_the_promised_names_dimensions_and_units(example):
    image, model, solution = example
    data = solution.dataset
    for name, (dims, units) in SCHEMA.items():
        assert data[name].dims == dims, name
        assert data[name].attrs.get("units") == units, name
    np.testing.assert_allclose(data["energy"], np.asarray(image.energy_axis.centres))
    assert data["energy"].attrs["units"] == "keV"
    assert list(data["element"].values) == ["O", "Mg", "Fe"]
    assert list(data["atomic_number"].values) == [8, 12, 26]
    assert [c for c in data["column"].values if c != "Cu K"] == LABELS
    np.testing.assert_allclose(data["y"], [0, 2, 4, 6])
    np.testing.assert_allclose(data["x"], [0, 3, 6, 9, 12])
    assert data["y"].attrs["units"] == data["x"].attrs["units"] == "nm"
    np.testing.assert_array_equal(data["counts_sum"], np.asarray(image.sum_spectrum()))
    np.testing.assert_array_equal(
        data["pixel_counts"].values.ravel(), np.asarray(image.counts.pixel_totals())
    )
    assert model.columns == solution.basis.columns


def test_the_attributes_tell_how_the_result_came_about(example):
    _, _, solution = example
    attrs = solution.dataset.attrs
    assert attrs["program_version"]
    assert attrs["title"] == "two phases"
    assert attrs["result"] == ej.RESULTS[ej.RESULTS.max_steps_reached] == solution.result
    assert attrs["converged"] == 0
    assert solution.converged is False
    assert attrs["n_steps"] == 20
    assert attrs["objective"] == solution.objective == solution.dataset["objective"].values[-1]
    assert attrs["nll"] == solution.nll == solution.objective  # without a penalty
    assert attrs["remaining_nats"] > 0.1  # more than tol, since it did not converge
    assert attrs["seed"] == "[0, 7]"
    settings = json.loads(attrs["settings"])
    assert settings["solver"] == "MultiplicativeUpdate()"
    assert settings["start"] == "RandomStart()"
    assert settings["constraint"] == "Unconstrained"
    assert settings["max_steps"] == 20
    np.testing.assert_array_equal(solution.dataset["steps"], [0, 10, 20])


def test_every_parameter_has_a_value_a_unit_and_a_source(example):
    image, _, solution = example
    found = solution.parameters
    assert found["beam energy"] == ej.Provenance(200.0, "keV", "given")
    assert found["energy offset"].value == pytest.approx(0.3)
    assert found["energy gain"].unit == "keV/channel"
    assert found["Fano factor"].value == pytest.approx(0.12)
    assert found["Fano factor"].source == "default"
    assert found["detector efficiency"].source == "default"
    assert found["mass-thickness"].value == 0.0
    assert found["pixel size x"] == ej.Provenance(3.0, "nm", "given")
    assert set(image.provenance) <= set(found)
    sources = {"given", "read from the file", "default", "refined", "missing"}
    assert {entry.source for entry in found.values()} <= sources
    assert any("Fano factor" in sentence for sentence in solution.warnings)
    assert any("absorption" in sentence for sentence in solution.warnings)
    assert any("did not converge" in sentence for sentence in solution.warnings)


def test_the_gauge_is_the_canonical_one(example):
    image, _, solution = example
    data = solution.dataset
    rows = solution.basis.composition_rows
    np.testing.assert_array_equal(rows.nonzero()[0], [0, 1, 3])
    np.testing.assert_allclose(data["W"].values[rows].sum(0), 1, rtol=1e-12)
    np.testing.assert_allclose(data["composition"], 100 * data["W"].values[rows], rtol=1e-12)
    weight = data["W"].values[rows] * np.array([15.999, 24.305, 55.845])[:, None]
    np.testing.assert_allclose(data["weight_percent"], 100 * weight / weight.sum(0), rtol=1e-3)
    np.testing.assert_allclose(data["spectra"], data["G"].values @ data["W"].values, rtol=1e-6)
    np.testing.assert_allclose(data["abundance"].sum("phase"), 1, rtol=1e-6)
    h = data["H"].values
    np.testing.assert_allclose(data["abundance"], h / h.sum(0), rtol=1e-5)
    fit_sum = data["spectra"].values * h.sum((1, 2))
    np.testing.assert_allclose(data["fit_sum"], fit_sum, rtol=1e-5)
    # multiplicative updates end with the total of the counts
    assert data["fit_sum"].values.sum() == pytest.approx(image.counts.total, rel=1e-5)
    # the factors' own likelihood is the one reported
    nll = ej.poisson_nll(image.counts, solution.basis, solution.weights, solution.abundances)
    assert solution.nll == pytest.approx(float(nll), rel=1e-5)


def test_the_covariance_is_that_of_the_reported_errors(example):
    data = example[2].dataset
    covariance, w = data["W_covariance"].values, data["W"].values
    assert covariance.shape == (w.size, w.size)
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-6, atol=1e-20)
    rows = np.flatnonzero(example[2].basis.composition_rows)
    index = rows * 2 + 1
    block = covariance[np.ix_(index, index)]
    jacobian = np.eye(3) - w[rows, 1][:, None]
    expected = np.sqrt(np.diag(jacobian @ block @ jacobian.T))
    expected = 100 * np.minimum(expected, 1)
    np.testing.assert_allclose(data["composition_stderr"].values[:, 1], expected, rtol=1e-6)


def test_saving_and_loading_keep_everything(precision, tmp_path):
    absorption = precision == "float64"  # both kinds of G
    _, _, solution = fitted(absorption)
    path = tmp_path / "scan.nc"
    solution.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nc"]
    again = ej.Solution.load(path)
    xr.testing.assert_identical(again.dataset, solution.dataset)
    assert again.basis.columns == solution.basis.columns
    assert again.basis.depends_on_phase == absorption
    np.testing.assert_array_equal(again.basis.matrix, solution.basis.matrix)
    np.testing.assert_array_equal(again.weights, solution.weights)
    np.testing.assert_array_equal(again.abundances, solution.abundances)
    assert again.weights.dtype == solution.weights.dtype == precision
    assert again.parameters == solution.parameters
    assert again.warnings == solution.warnings
    assert again.result == solution.result
    assert again.nll == solution.nll
    assert again.objective == solution.objective
    assert again.dataset.attrs["remaining_nats"] == solution.dataset.attrs["remaining_nats"]
    assert again.dataset["abundance"].attrs["share_of"] == "atoms"
    assert again.converged == solution.converged
    for name in ("offset", "gain"):
        new, old = (float(getattr(s.energy_axis, name)) for s in (again, solution))
        assert new == pytest.approx(old)
    xr.testing.assert_identical(again.pixel_composition(), solution.pixel_composition())


def test_composition_of_pixels_is_the_mix_of_the_phases(example):
    _, model, solution = example
    data = solution.dataset
    rows = solution.basis.composition_rows
    atoms = np.einsum("jp,pyx->jyx", data["W"].values[rows], data["H"].values)
    pixels = solution.pixel_composition()
    assert pixels["composition"].dims == ("element", "y", "x")
    assert pixels["composition"].attrs["units"] == "at%"
    np.testing.assert_allclose(pixels["composition"], 100 * atoms / atoms.sum(0), rtol=1e-4)
    by_weight = solution.pixel_composition(weight_percent=True)
    mass = atoms * model.atomic_weights[:, None, None]
    assert by_weight["composition"].attrs["units"] == "wt%"
    np.testing.assert_allclose(by_weight["composition"], 100 * mass / mass.sum(0), rtol=1e-4)
    error = pixels["composition_stderr"].values
    assert np.isfinite(error).all()
    assert (error > 0).all()


def test_nothing_is_overwritten_unasked(example, tmp_path):
    solution = example[2]
    path = tmp_path / "scan.nc"
    path.write_text("mine")
    with pytest.raises(ej.InputError, match="exists already"):
        solution.save(path)
    assert path.read_text() == "mine"
    solution.save(path, overwrite=True)
    xr.testing.assert_identical(ej.Solution.load(path).dataset, solution.dataset)
    with pytest.raises(ej.InputError, match="is a folder"):
        solution.save(tmp_path, overwrite=True)
    with pytest.raises(ej.InputError, match="no folder"):
        solution.save(tmp_path / "none" / "scan.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nc"]


def test_a_file_is_only_replaced_by_a_complete_one(example, tmp_path, monkeypatch):
    solution = example[2]
    path = tmp_path / "scan.nc"
    path.write_text("old")

    def broken(self, target, **_):
        target.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", broken)
    with pytest.raises(OSError, match="disk full"):
        solution.save(path, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nc"]


def test_other_files_are_refused_with_a_sentence(example, tmp_path):
    with pytest.raises(ej.InputError, match="There is no file"):
        ej.Solution.load(tmp_path / "none.nc")
    foreign = tmp_path / "foreign.nc"
    xr.Dataset({"t": ("x", np.arange(3.0))}).to_netcdf(foreign, engine="h5netcdf")
    with pytest.raises(ej.InputError, match="is not a solution of this program"):
        ej.Solution.load(foreign)
    text = tmp_path / "text.nc"
    text.write_text("energy, counts\n1, 2\n")
    with pytest.raises(ej.InputError, match="cannot be read as a saved solution"):
        ej.Solution.load(text)
    whole, cut = tmp_path / "whole.nc", tmp_path / "cut.nc"
    example[2].save(whole)
    content = whole.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1000):
        cut.write_bytes(content[:length])
        with pytest.raises(ej.InputError, match="cannot be read as a saved solution"):
            ej.Solution.load(cut)


def test_a_time_limit_is_told(example):
    image, model, _ = example
    solution = ej.fit(
        image,
        model,
        2,
        solver=ej.MultiplicativeUpdate(),
        start=ej.RandomStart(),
        max_steps=1000,
        tol=-1.0,
        max_seconds=1e-9,
    )
    assert solution.dataset.attrs["n_steps"] == 10  # the first look
    assert "time limit" in solution.result
    assert any("time limit" in sentence for sentence in solution.warnings)
    assert json.loads(solution.dataset.attrs["settings"])["max_seconds"] == 1e-9


def test_a_solution_is_small_in_print_and_survives_pickling(example):
    solution = example[2]
    assert repr(solution) == f"Solution(phases: phase 1, phase 2; {solution.result})"
    before = len(pickle.dumps(solution))
    assert solution.dataset["W"].shape == (7, 2)
    again = pickle.dumps(solution)
    assert len(again) == before  # what is derived is not stored with it
    xr.testing.assert_identical(pickle.loads(again).dataset, solution.dataset)


def test_the_energy_axis_is_that_of_the_energies(example):
    data = example[2].dataset
    centres = ej.Solution(data).energy_axis.centres
    eps = np.finfo(centres.dtype).eps  # of gain and offset, which are rounded
    np.testing.assert_allclose(centres, data["energy"].values, rtol=2 * eps)
    dyadic = ej.EnergyAxis(0.25, 0.0625, 140).centres  # nothing to round
    moved = ej.Solution(data.assign_coords(energy=np.asarray(dyadic)))
    np.testing.assert_array_equal(moved.energy_axis.centres, dyadic)
