"""`refine` finds what is wrong with the physics, writes what it found, and then fits."""

import csv
import inspect
import json
import re
import types

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import esmpy_jax as ej
from esmpy_jax import inference, plot
from esmpy_jax.cli import app
from esmpy_jax.cli._fit import fit
from esmpy_jax.cli._refine import refine
from esmpy_jax.cli._refine import refined as refine_model
from esmpy_jax.cli._refined import Refined, measured
from esmpy_jax.inference._refine import FIRST_LOOK

ELEMENTS = ["O", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Nd", "Sm", "Lu", "Hf"]
NAMES = ["energy_offset", "noise_fwhm", "crystal_thickness"]
OFFSET = 0.2  # keV, of simulated files
WRONG = 0.01
NEW = {"parameters.csv", "sensitivity.csv", "refinement.png"}


def run(*words):
    """The command's standard output; it must succeed without a word on standard error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == ""
    return result.stdout


def words(command, scan, out, *more):
    return (command, scan, "--elements", ",".join(ELEMENTS), "--stray", "Cu", "--phases", "2",
            "--energy-range", "0.3,9.5", "--out", out, "--solver=multiplicative",
            "--start=random", "--max-steps=10", *more)  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A simulated file of 12 x 12 pixels."""
    path = tmp_path_factory.mktemp("scan") / "minerals.hspy"
    run("simulate", "--out", path, "--size", 12, "--counts", 200, "--thickness", 0, "--seed", 3)
    return path


@pytest.fixture(scope="module")
def refined(scan, tmp_path_factory):
    """(folder, stdout) of a refinement that starts from an energy scale that is off."""
    out = tmp_path_factory.mktemp("refine") / "results"
    more = ("--energy-offset", OFFSET - WRONG, "--phase-names", "A & B,C")
    return out, run(*words("refine", scan, out, "--parameters", ",".join(NAMES), *more))


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_wrong_offset_is_found(refined):
    found = {row["name"]: row for row in rows(refined[0] / "parameters.csv")}
    assert list(found) == NAMES
    offset = found["energy_offset"]
    moved = float(offset["after"]) - float(offset["before"])
    assert moved == pytest.approx(WRONG, abs=3 * float(offset["stderr"]))
    assert float(offset["stderr"]) < WRONG / 10
    assert offset["unit"] == "keV"
    assert offset["determined"] == "yes"
    assert float(offset["prior sds from its median"]) == pytest.approx(moved / 0.01, rel=1e-4)
    # hard X-rays, of which there are few here, pass the crystal or not
    assert found["crystal_thickness"]["determined"] == "no"


def test_the_fit_has_the_refined_parameters(refined):
    solution = ej.Solution.load(refined[0] / "solution.nc")
    record = json.loads(solution.dataset.attrs["refinement"])
    assert list(record) == NAMES
    for row in rows(refined[0] / "parameters.csv"):
        stored = record[row["name"]]
        assert set(stored) == {"before", "after", "stderr", "unit", "prior", "determined"}
        assert stored["stderr"] == pytest.approx(float(row["stderr"]), rel=1e-5)
        assert stored["determined"] is (row["determined"] == "yes")
    offset = solution.parameters["energy offset"]
    assert offset.source == "refined"
    assert offset.value == pytest.approx(record["energy_offset"]["after"], rel=1e-6)
    assert float(solution.energy_axis.offset) == pytest.approx(offset.value, abs=1e-5)


@pytest.mark.slow
def test_pools_of_a_first_fit(scan, tmp_path):
    wrong = ("--energy-offset", OFFSET - WRONG, "--parameters", "energy_offset")
    run(*words("refine", scan, tmp_path / "pools", "--loss", "pools", *wrong))
    found = rows(tmp_path / "pools" / "parameters.csv")[0]
    first = OFFSET + 0.11  # the channel at 0.30 keV of the wrong axis
    assert abs(float(found["after"]) - first) < 4 * float(found["stderr"]) < WRONG
    result = CliRunner().invoke(app, list(map(str, words("refine", scan, tmp_path, "--loss", "x"))))
    assert result.exit_code == 2
    assert "--loss" in result.stderr


def test_errors_of_the_physics_reach_the_compositions(refined):
    out, _ = refined
    data = ej.Solution.load(out / "solution.nc").dataset
    table = rows(out / "composition.csv")
    assert list(table[0])[-3:] == ["verdict", "at% stderr total", "wt% stderr total"]
    for row in table:
        where = {"phase": row["phase"], "element": row["element"]}
        total = float(row["at% stderr total"])
        assert total >= float(row["at% stderr"])
        assert total == pytest.approx(
            float(data["composition_stderr_total"].sel(where)), rel=1e-5, abs=1e-6
        )
    assert (data["composition_stderr_physics"] > 0).any()
    changes = rows(out / "sensitivity.csv")
    assert list(changes[0]) == ["parameter", "step", "phase", "element", "change of at%"]
    assert len(changes) == data["composition_sensitivity"].size
    assert {"A & B", "C"} == {row["phase"] for row in changes}
    sums = np.zeros((2, len(data["parameter"])))
    for row in changes:
        at = list(data["parameter"].values).index(row["parameter"])
        sums[int(row["phase"] == "C"), at] += float(row["change of at%"])
    assert sums == pytest.approx(0, abs=1e-3)  # what one element gains, others lose


def test_the_folder_holds_all_that_a_fit_writes(refined):
    out, said = refined
    names = {path.name for path in out.iterdir()}
    assert NEW | {"report.html", "composition.csv", "solution.nc", "maps.png"} < names
    assert (out / "refinement.png").read_bytes().startswith(b"\x89PNG")
    for name in NAMES:
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+ ± [\d.]+", said, re.MULTILINE)
    assert re.search(r"^crystal_thickness .* not determined *$", said, re.MULTILINE)
    deviance = re.search(r"^Deviance per degree of freedom: ([\d.]+) → ([\d.]+)\.$", said, re.M)
    assert deviance is not None
    before, after = map(float, deviance.groups())
    assert after < 0.7 * before
    assert after == pytest.approx(1, abs=0.25)
    assert "Note: The counts do not determine crystal_thickness" in said
    assert said.index("energy_offset") < said.index("Deviance") < said.index("Written to")


def test_the_report_tells_of_the_refinement(refined):
    page = (refined[0] / "report.html").read_text(encoding="utf-8")
    section = page[page.index("What was refined") :].partition("</section>")[0]
    assert "A &amp; B" in section
    assert "Deviance per degree of freedom" in section
    assert "The counts do not determine crystal_thickness" in page[page.index('id="notes"') :]
    for name in NAMES:
        assert section.count(f">{name}</td>") == 2  # as refined, and what it does
    assert section.count("data:image/png") == 1
    assert "$" not in re.sub(r'src="[^"]*"', "", page)


def test_fit_over_a_refinement_leaves_nothing_of_it(refined, scan, tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    for path in refined[0].iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    said = run(*words("fit", scan, out, "--overwrite"))
    assert not NEW & {path.name for path in out.iterdir()}
    assert "total" not in (out / "composition.csv").read_text().splitlines()[0]
    assert "Deviance" not in said
    assert "What was refined" not in (out / "report.html").read_text(encoding="utf-8")


BAD = {
    "unknown": ("none.hspy", "energy_ofset", "perhaps energy_offset is meant"),
    "nothing": ("none.hspy", ",", "--parameters names nothing"),
    "absorption": ("none.hspy", "mass_thickness", "add both"),
    "order": ("none.hspy", "continuum_correction_0", "which the model has not"),
    "no element": ("none.hspy", "Mgg K ratio", "Mgg"),
    "no group": ("none.hspy", "Mg ratio", "'Mg K-M'"),
    "no line": (None, "Mg Z ratio", "no line Mg Z"),
    "no file": ("none.hspy", "Mg K-M ratio,tail_depth,escape_strength", "no file none.hspy"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_names_get_one_sentence(scan, tmp_path, monkeypatch, name):
    """Before the file is read, where it is not needed for that."""
    monkeypatch.chdir(tmp_path)
    file, parameters, expected = BAD[name]
    given = [str(w) for w in words("refine", file or scan, "new", "--parameters", parameters)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2, result.exception
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert lines[0].endswith((".", "?"))
    assert "--energy-offset" not in lines[0]  # names of parameters are not those of flags
    assert list(tmp_path.iterdir()) == []


def test_refine_has_the_options_of_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    said = {c: CliRunner().invoke(app, [c, "--help"]).stdout for c in ("fit", "refine")}
    flags = {c: set(re.findall(r"--[a-z][a-z-]*", text)) for c, text in said.items()}
    assert len(flags["fit"]) > 30
    assert flags["refine"] - flags["fit"] == {"--parameters", "--loss"}
    assert flags["fit"] <= flags["refine"]
    own, theirs = (inspect.signature(command).parameters for command in (refine, fit))
    assert {n: p for n, p in own.items() if n not in ("parameters", "loss")} == dict(theirs)


def test_notes_of_what_was_left_out_come_first():
    found = types.SimpleNamespace(notes=("the counts do not determine fano",))
    assert Refined(found, ("without it fano was left out",)).notes == (
        "without it fano was left out",
        "the counts do not determine fano",
    )


def test_notes_and_ranges_stay_with_the_solution(refined):
    out, said = refined
    solution = ej.Solution.load(out / "solution.nc")
    (note,) = [w for w in solution.warnings if "do not determine crystal_thickness" in w]
    assert said.count(note[1:]) == 1
    assert note[1:] in run("quantify", out, "--out", out.parent / "again")
    data = solution.dataset
    wider = 1.96 * data["composition_stderr_total"]
    high, low = data["composition_high"].values, data["composition_low"].values
    assert (high + 1e-6 >= np.minimum(data["composition"] + wider, 100).values).all()
    assert (low - 1e-6 <= np.maximum(data["composition"] - wider, 0).values).all()


def test_what_is_left_out_is_said(monkeypatch):
    """The default without self-absorption; nothing is said where names were given."""
    axis = ej.EnergyAxis(0.4, 0.05, 100)
    known = ej.Acquisition(beam_energy=200.0)
    image = ej.SpectrumImage(ej.as_counts(np.ones((1, 1, 100), np.uint8)), axis, known)
    model = ej.EDSModel.from_image(image, "O,Si")

    def quick(image, model, solution, parameters, *, loss):
        names = parameters or [name for name in FIRST_LOOK if name != "mass_thickness"]
        return types.SimpleNamespace(parameters=dict.fromkeys(names), notes=())

    monkeypatch.setattr(inference, "refine", quick)
    (note,) = refine_model(image, model, names=None).notes
    assert note.startswith("without self-absorption mass_thickness was left out")
    assert refine_model(image, model, names=["fano"]).notes == ()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.199972, 0.00017018, "0.19997 ± 0.00017"),
        (0.0100002969, 7.798e-7, "0.01000030 ± 0.00000078"),
        (3.99925e-5, 1.152e-6, "(4.00 ± 0.12)e-05"),
        (1.2e-5, 3.4e-5, "(1.2 ± 3.4)e-05"),
        (15.23, 10.61, "15 ± 11"),
        (450.3, 124.0, "450 ± 124"),
        (0.0, 0.31, "0.00 ± 0.31"),
        (-0.0004, 0.31, "0.00 ± 0.31"),
        (1.25, 0.0, "1.25"),
    ],
)
def test_numbers_are_as_long_as_their_error_allows(value, error, text):
    assert measured(value, error) == text


def test_the_figure_shows_what_each_fit_leaves():
    energy = 0.205 + 0.01 * np.arange(400)
    fit = 100 * np.exp(-energy)
    counts = fit + 3 * np.sqrt(fit)
    data = xr.Dataset(
        {"counts_sum": ("energy", counts), "fit_sum": ("energy", counts),
         "fit_sum_before": ("energy", fit)},
        {"energy": energy},
    )  # fmt: skip
    figure = plot.plot_refinement(data, scale="linear", energy_range=(1.0, 3.0))
    _, before, after = figure.axes
    for axes, level in ((before, 3.0), (after, 0.0)):
        points = axes.lines[-3].get_ydata()
        assert points == pytest.approx(level)
        assert len(points) == 200
        assert axes.get_ylim() == before.get_ylim()
    with pytest.raises(ej.InputError, match="fit_sum_before"):
        plot.plot_refinement(data.drop_vars("fit_sum_before"))
