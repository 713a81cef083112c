"""The commands do what they say: files, tables, a report that needs nothing else."""

import base64
import csv
import html
import json
import re

import jax
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import esmpy_jax as ej
from esmpy_jax import inference
from esmpy_jax.cli import app
from esmpy_jax.cli._figures import figures, line_labels, size
from esmpy_jax.cli._results import phase_shares, what_errors_hold, write_composition

FILES = {"solution.nc", "composition.csv", "report.html"}
PICTURES = {
    "maps.png",
    "spectra.png",
    "phase_spectra.png",
    "composition.png",
    "basis.png",
    "convergence.png",
}
ELEMENTS = ["O", "Mg", "Si", "Fe"]
QUICK = ["--solver=multiplicative", "--start=random", "--constraint=abundances", "--max-steps=20"]


def run(*words):
    """The command's standard output; it must succeed without a word on standard error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A simulated file of 16 x 16 pixels."""
    path = tmp_path_factory.mktemp("scan") / "minerals <1>.hspy"
    run("simulate", "--out", path, "--size", 16, "--counts", 60, "--thickness", 0, "--seed", 3)
    return path


def fit_words(scan, out, *more):
    return ("fit", scan, "--elements", ",".join(ELEMENTS), "--stray", "Cu", "--phases", "3",
            "--energy-range", "0.3,9", "--split", "Fe:3", "--out", out, *QUICK, *more)  # fmt: skip


@pytest.fixture(scope="module", params=["float32", pytest.param("float64", marks=pytest.mark.slow)])
def fitted(request, scan, tmp_path_factory):
    """(folder, stdout, precision) of one fit."""
    out = tmp_path_factory.mktemp("fit") / "below" / "results"
    with jax.enable_x64(request.param == "float64"):
        said = run(*fit_words(scan, out, "--seed", 5, "--phase-names", "A & B,C,D"))
    return out, said, request.param


@pytest.mark.slow
def test_what_is_known_of_phases_stays(scan, tmp_path):
    """By number and by name; a composition without errors, an element that is not there."""
    out = tmp_path / "known"
    known = ("--phase-names", "a,b:c,d", "--compositions", "1:MgSiO3", "--absent", "b:c:Si,Fe,3:Fe")
    run(*fit_words(scan, out, *known))
    with (out / "composition.csv").open(newline="", encoding="utf-8") as file:
        table = {(row["phase"], row["element"]): row for row in csv.DictReader(file)}
    for element, percent in (("Mg", 20.0), ("Si", 20.0), ("O", 60.0), ("Fe", 0.0)):
        row = table["a", element]
        assert float(row["at%"]) == pytest.approx(percent, abs=1e-3)
        assert float(row["at% stderr"]) < 1e-3
    for key in (("b:c", "Si"), ("b:c", "Fe"), ("d", "Fe")):
        assert float(table[key]["at%"]) == 0
    assert float(table["d", "Si"]["at%"]) > 0


def test_fit_writes_everything(fitted):
    out, said, precision = fitted
    assert {path.name for path in out.iterdir()} == FILES | PICTURES
    assert [path.name for path in out.parent.iterdir()] == ["results"]  # no temporary folder left
    for name in PICTURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    solution = ej.Solution.load(out / "solution.nc")
    assert solution.dataset.attrs["seed"] == 5
    assert solution.dataset.attrs["precision"] == precision
    assert list(solution.dataset["phase"].values) == ["A & B", "C", "D"]
    amounts = solution.dataset["fit_sum"].values.sum(0)
    assert (np.diff(amounts) <= 0).all()  # the names go from the phase with most counts down
    assert solution.dataset["energy"].values[[0, -1]] == pytest.approx([0.3, 9.0], abs=0.006)
    for element in ELEMENTS:
        assert re.search(rf"^{element} +[\d.]+ +[\d.]+ ± [\d.]+", said, re.MULTILINE)


def test_csv_holds_the_composition(fitted):
    out, _, _ = fitted
    data = ej.Solution.load(out / "solution.nc").dataset
    with (out / "composition.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    titles = ["at%", "at% stderr", "at% low", "at% high", "wt%", "wt% stderr", "at% limit"]
    assert list(rows[0]) == ["phase", "element", *titles, "verdict"]
    assert [(r["phase"], r["element"]) for r in rows] == [
        (p, e) for p in ("A & B", "C", "D") for e in ELEMENTS
    ]
    for row in rows:
        where = {"phase": row["phase"], "element": row["element"]}
        known = int(data["determined"].sel(phase=row["phase"]))
        assert row["verdict"] == {1: "determined", 0: "open", -1: "not known"}[known]
        for column, name in (
            ("at%", "composition"),
            ("at% stderr", "composition_stderr"),
            ("at% low", "composition_low"),
            ("at% high", "composition_high"),
            ("wt%", "weight_percent"),
            ("wt% stderr", "weight_percent_stderr"),
        ):
            assert float(row[column]) == pytest.approx(
                float(data[name].sel(where)), rel=1e-5, abs=1e-6
            )


def test_report_is_one_page_on_its_own(fitted):
    out, _, _ = fitted
    page = (out / "report.html").read_text(encoding="utf-8")
    outside = re.findall(r"""(?:src|href)=(?!["'](?:data:|#))|url\(|@import|<script""", page)
    assert outside == []
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert {base64.b64decode(image) for image in images} == {
        (out / name).read_bytes() for name in PICTURES
    }
    assert "$" not in re.sub(r'src="[^"]*"', "", page)  # no place of the template left unfilled


def test_report_says_what_a_reader_needs(fitted):
    out, _, _ = fitted
    page = (out / "report.html").read_text(encoding="utf-8")
    solution = ej.Solution.load(out / "solution.nc")
    assert "<h1>minerals &lt;1&gt;</h1>" in page
    assert "<b>A &amp; B</b>" in page
    assert page.count("± ") >= 2 * 3 * len(ELEMENTS)
    assert '<span class="pill warn">not converged</span>' in page  # 20 steps are too few
    for warning in solution.warnings:
        assert html.escape(warning.split(":")[0]) in page
    command = solution.dataset.attrs["command"]
    assert command.startswith("esmpy-jax fit ")
    assert "--seed 5" in command
    assert "--seed 5" in page
    for quantity, kind, source in (
        ("beam energy", "read", "read from the file"),
        ("Fano factor", "default", "default"),
        ("elements of the sample", "given", "given"),
    ):
        row = re.search(rf"<tr class=\"{kind}\"><td>{quantity}</td>.*?</tr>", page)
        assert row is not None
        assert f">{source}<" in row[0]
    assert "Against the truth" in page
    told = what_errors_hold(solution)
    assert page.count(told) == 2  # under the compositions, and beside the truth
    assert len(re.findall(r"\d % of the atoms in the scan", page)) == 3
    assert "Share of each phase in the atoms of each pixel" in page


def test_quantify_prints_and_writes(fitted):
    out, _, precision = fitted
    with jax.enable_x64(precision == "float64"):
        said = run("quantify", out)
    assert len(re.findall(r"^Fe +[\d.]+ ± [\d.]+", said, re.MULTILINE)) == 2  # at% and wt%
    folder = out / "quantification"
    assert (folder / "composition.csv").read_text() == (out / "composition.csv").read_text()
    assert (folder / "composition_maps.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(folder / "pixel_composition.nc", engine="h5netcdf") as maps:
        assert maps["composition"].dims == ("element", "y", "x")
        for name in ("composition", "weight_percent"):
            assert maps[name].sum("element").values == pytest.approx(100, abs=0.01)
            assert (maps[f"{name}_stderr"] >= 0).all()
    again = CliRunner().invoke(app, ["quantify", str(out / "solution.nc")])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_the_dose_gives_amounts(scan, tmp_path):
    """The map of `fit`, its sentence, and the amounts of elements that `quantify` adds."""
    out = tmp_path / "dose"
    dose = ("--beam-current", 0.5, "--live-time", 25.6, "--solid-angle", 0.7)
    said = run(*fit_words(scan, out, *dose))
    given = "0.5 nA (given), 0.1 s per pixel (derived), 0.7 sr (given)"  # 25.6 s over 16 x 16
    assert given in " ".join(said.split())
    assert (out / "mass_thickness.png").read_bytes().startswith(b"\x89PNG")
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    assert "How much there is" in page
    assert given in page
    atoms = ej.Solution.load(out / "solution.nc").dataset["atoms_per_area"].sum("phase").values
    said = run("quantify", out, "--density", 4)
    assert "pixel_amounts.nc" in said
    with xr.open_dataset(out / "quantification" / "pixel_amounts.nc") as found:
        np.testing.assert_allclose(found["atoms_per_area"].sum("element"), atoms, rtol=1e-4)
        assert found["thickness"].attrs["units"] == "nm"
    assert (out / "quantification" / "mass_thickness.png").exists()
    bad = CliRunner().invoke(
        app, [str(w) for w in fit_words(scan, out / "y", *dose, "--dwell-time", 1)]
    )
    assert bad.exit_code == 2
    assert "give one" in bad.stderr


def test_quantify_says_what_the_dose_lacks(fitted):
    out, _, _ = fitted
    bad = CliRunner().invoke(app, ["quantify", str(out), "--beam-current", "0.5"])
    assert bad.exit_code == 2
    assert "need the dwell time and the solid angle, which are not known" in bad.stderr
    assert not (out / "quantification").exists()


@pytest.mark.slow
def test_demo_compares_with_the_truth(tmp_path, monkeypatch):
    """With a solver that compiles faster than the demo's own."""
    real = inference.fit

    def quick(image, model, n_phases, **options):
        return real(
            image,
            model,
            n_phases,
            solver=ej.MultiplicativeUpdate(),
            start=ej.VertexStart(1.5),
            constraint=ej.SumToOneShares(),
            **options,
        )

    monkeypatch.setattr(inference, "fit", quick)
    monkeypatch.chdir(tmp_path)
    said = run("demo", "--size", 16, "--counts", 300, "--max-steps", 30)
    out = tmp_path / "esmpy_jax_demo"
    assert {path.name for path in out.iterdir()} == FILES | PICTURES
    found = re.findall(r"(bridgmanite|ferropericlase|Ca-perovskite)", said.partition("Note")[0])
    assert sorted(found) == ["Ca-perovskite", "bridgmanite", "ferropericlase"]
    # Far more Ca in Ca-perovskite, and no Si in ferropericlase: the phases are matched.
    data = ej.Solution.load(out / "solution.nc").dataset["composition"]
    assert float(data.sel(element="Ca", phase="Ca-perovskite")) > 10
    assert float(data.sel(element="Si", phase="ferropericlase")) < 8
    correlation = re.search(r"^map correlation +([\d.]+) +([\d.]+) +([\d.]+)$", said, re.MULTILINE)
    assert correlation is not None
    assert min(float(c) for c in correlation.groups()) > 0.8
    assert what_errors_hold(ej.Solution.load(out / "solution.nc")) in " ".join(said.split())
    assert "esmpy-jax demo --size 16" in (out / "report.html").read_text(encoding="utf-8")


def test_info_tells_what_is_there_and_what_is_missing(scan):
    said = run("info", scan)
    assert "16 × 16 pixels" in said
    assert re.search(r"beam energy +200 keV +read from the file", said)
    assert re.search(r"live time +– +missing", said)
    assert re.search(r"per pixel [56]\d\.\d", said)
    assert "O, Mg, Al, Si, Ca, Ti, Fe, Nd, Sm, Lu, Hf" in said


@pytest.mark.parametrize("fitted", ["float32"], indirect=True)
def test_a_binned_fit_shows_its_convergence_too(fitted):
    solution = ej.Solution.load(fitted[0] / "solution.nc")
    trace = {"coarse_objective": ("coarse_check", [30.0, 20.0, 10.0]),
             "coarse_steps": ("coarse_check", [0, 10, 20])}  # fmt: skip
    made = figures(ej.Solution(solution.dataset.assign(trace)))
    assert set(made) == PICTURES | {"convergence_binned.png"}
    assert min(size(made["convergence_binned.png"])) > 300


def test_only_lines_that_carry_counts_are_labelled(fitted):
    """Mg, with no counts left, has no line to label; Fe, split, has its K line."""
    solution = ej.Solution.load(fitted[0] / "solution.nc")
    labels = {label for _, label in line_labels(solution)}
    assert {"Mg Kα", "Fe Kα", "Cu Kα"} <= labels
    data = solution.dataset.copy(deep=True)
    data["W"].loc[{"column": "Mg"}] = 0
    without = {label for _, label in line_labels(ej.Solution(data))}
    assert without == {label for label in labels if not label.startswith("Mg")}


@pytest.mark.parametrize("phantom", ["grain-boundary", "texture"])
def test_simulated_files_can_be_loaded(tmp_path, phantom):
    path = tmp_path / "sample.zspy"
    run("simulate", "--out", path, "--phantom", phantom, "--size", 12, "--counts", 20)
    image = ej.load(path)
    assert image.shape == (12, 12, 1980)
    assert image.truth is not None
    assert image.truth.abundance.shape == (3, 12, 12)
    assert image.counts.total == pytest.approx(20 * 144, rel=0.1)


def test_settings_are_kept(fitted):
    out, _, _ = fitted
    settings = json.loads(ej.Solution.load(out / "solution.nc").dataset.attrs["settings"])
    assert settings["constraint"] == "SumToOneAbundances"
    assert settings["max_steps"] == 20
    assert settings["start"].startswith("RandomStart")


@pytest.mark.parametrize("fitted", ["float32"], indirect=True)
def test_shares_of_a_scan_are_those_of_its_maps(fitted):
    """Where a phase has no atoms H of it is in counts, and only counts can be compared."""
    data = ej.Solution.load(fitted[0] / "solution.nc").dataset
    atoms = data["H"].values.sum((1, 2))
    np.testing.assert_allclose(phase_shares(ej.Solution(data)), 100 * atoms / atoms.sum())
    data = data.copy(deep=True)
    data["abundance"].attrs["share_of"] = "counts"
    counts = data["fit_sum"].values.sum(0)
    np.testing.assert_allclose(phase_shares(ej.Solution(data)), 100 * counts / counts.sum())


@pytest.mark.parametrize("fitted", ["float32"], indirect=True)
def test_less_than_a_millionth_of_a_percent_is_written_as_zero(fitted, tmp_path):
    data = ej.Solution.load(fitted[0] / "solution.nc").dataset.copy(deep=True)
    data["composition"].values[0, 0], data["composition"].values[1, 0] = 2.9e-19, 4.2e-5
    write_composition(ej.Solution(data), tmp_path / "c.csv")
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert rows[1].split(",")[2] == "0"
    assert float(rows[2].split(",")[2]) == pytest.approx(4.2e-5)
