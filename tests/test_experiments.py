"""The scripts of the figures run and write what their README shows."""

import csv
import dataclasses
import functools
import importlib
import json
import pathlib
import sys

import matplotlib.image
import numpy as np
import pytest

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture
def script(monkeypatch):
    """Imports `experiments/NAME/run.py` as the command line would, and forgets it afterwards."""
    before = set(sys.modules)

    def load(name):
        monkeypatch.syspath_prepend(str(EXPERIMENTS / name))
        return importlib.import_module("run")

    yield load
    for name in set(sys.modules) - before:
        if str(EXPERIMENTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def figures(folder):
    """Pictures of a folder; none may be blank."""
    found = sorted(folder.glob("*.png"))
    for path in found:
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert np.ptp(pixels[..., :3]) > 0.5
    return [path.name for path in found]


def simpler(run, monkeypatch):
    """Without self-absorption there is one G for all phases; channels are 40 instead of 10 eV."""
    ej = importlib.import_module("esmpy_jax")
    full = run.demo_model(thickness=None)
    model = ej.EDSModel.from_axis(
        ej.EnergyAxis(0.2, 0.04, 495),
        full.elements,
        beam_energy=full.beam_energy,
        stray=["Cu"],
        take_off_angle=float(full.take_off_angle),
    )
    monkeypatch.setattr(run, "demo_model", lambda: model)


@pytest.mark.slow
def test_figure1_model(script, tmp_path, monkeypatch):
    run = script("figure1_model")
    simpler(run, monkeypatch)
    run.main(["--quick", "--out", str(tmp_path)])
    assert figures(tmp_path) == ["abundances.png", "columns.png", "equation.png", "weights.png"]
    rows = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    oxygen = next(row for row in rows if row.startswith("| O |")).split("|")
    found, true = float(oxygen[2].split("±")[0]), float(oxygen[3])
    assert abs(found - true) < 3  # at%, of 43.6


@pytest.mark.slow
def test_figure2_low_snr(script, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    run = script("figure2_low_snr")
    simpler(run, monkeypatch)
    monkeypatch.setattr(run, "DOSES", (293.0,))
    run.main(["--quick", "--out", str(tmp_path)])
    assert figures(tmp_path) == ["maps_demo.png", "seeds.png", "spectra_demo.png"]
    assert "| 293 | scikit-learn |" in (tmp_path / "tables.md").read_text(encoding="utf-8")
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3  # methods × phases
    ours = [float(r["map_correlation"]) for r in rows if r["method"] == "esmpy_jax"]
    assert min(ours) > 0.9


@pytest.mark.slow
def test_low_counts(script, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    run = script("low_counts")
    simpler(importlib.import_module("scenes"), monkeypatch)
    programs = importlib.import_module("programs")
    # a solver that compiles fast; the defaults are tested with figure 2
    ej = importlib.import_module("esmpy_jax")
    fast = {"solver": ej.MultiplicativeUpdate(), "start": ej.RandomStart(), "max_steps": 200}
    monkeypatch.setattr(programs, "fit", functools.partial(programs.fit, **fast))
    monkeypatch.setattr(run, "QUICK_SCENES", ("spheres",))
    run.main(["--quick", "--no-espm", "--out", str(tmp_path)])
    assert figures(tmp_path) == ["low_counts.png"]
    table = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| spheres | 150 | scikit-learn | 1 |" in table
    assert "espm was left out" in table
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3  # programs × phases
    # the list of failures holds exactly the rows beyond the limits
    beyond = [
        r for r in rows if float(r["map_correlation"]) < 0.9 or float(r["spectral_angle_deg"]) > 10
    ]
    assert f"{len(beyond)} of {len(rows)} phases" in table
    assert table.count("\n- ") == len(beyond)


def test_low_counts_scenes(script):
    """Each scene is what its name says, and the profile of the truth peaks on the boundary."""
    script("low_counts")
    scenes = importlib.import_module("scenes")
    key = importlib.import_module("jax").random.key(1)
    for name, scene in scenes.SCENES.items():
        maps = scene.maps((64, 64), key)
        assert len(maps) == len(scene.phases), name
        np.testing.assert_allclose(maps.sum(0), 1, atol=1e-5)
        assert maps.min() >= -1e-6
    counts = [len(scenes.SCENES[f"{n} phases"].phases) for n in (2, 3, 4, 5)]
    assert counts == [2, 3, 4, 5]
    assert scenes.SCENES["thick foil"].maps((64, 64), key)[1:].max() < 0.5 + 1e-6
    assert scenes.SCENES["no pure matrix"].maps((64, 64), key)[0].max() < 0.8 + 1e-6
    matrix, alike = scenes.SCENES["same elements"].phases[:2]
    assert set(matrix.fractions()) == set(alike.fractions())
    maps = scenes.SCENES["grain boundary"].maps((64, 64), key)
    distance = scenes.boundary_distance(64)
    inside = np.isfinite(distance)
    bins = np.floor(distance[inside] + 0.5).astype(int)
    line = np.bincount(bins - bins.min(), weights=100 * maps[2][inside])
    line = line / np.bincount(bins - bins.min())
    assert np.argmax(line) == -bins.min()  # at no distance
    assert 50 < line.max() < 60  # of the layer's 60, averaged over a bin of one pixel


def test_judge_of_the_truth_itself(script):
    """The truth, its phases shuffled, is found without error; a mixture of two phases is not."""
    script("figure2_low_snr")
    scenes, judging = (importlib.import_module(name) for name in ("scenes", "judging"))
    model = importlib.import_module("esmpy_jax").simulate.demo_model()
    image = scenes.make_image(model, "thick foil", 1.0, 3, 32)
    truth = image.truth
    maps = np.asarray(truth.abundance, float)
    assert maps[1:].max() < 0.5 + 1e-6
    shuffled = [2, 0, 1]
    spectra = np.asarray(truth.spectra, float)
    percent = 100 * np.asarray(truth.composition, float)
    found = judging.judge(
        "x", truth, maps, maps[shuffled], 7 * spectra[:, shuffled], percent[:, shuffled], 0.0, 0
    )
    np.testing.assert_allclose(found.correlation, 1, rtol=1e-12)
    np.testing.assert_allclose(found.angle, 0, atol=1e-5)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)
    assert found.found
    mixed = spectra @ np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 0.5]]).T
    worse = judging.judge("x", truth, maps, maps, mixed, percent, 0.0, 0)
    assert worse.angle[2] > 1
    assert worse.angle[1] < 1e-5


def test_benchmark_storage(script):
    """Every pass in both storages."""
    script("benchmark")
    storage, limits, plan = map(importlib.import_module, ("storage", "limits", "plan"))
    tiny = dataclasses.replace(plan.QUICK, small=6, shares=(0.05,), repeats=1)
    (point,) = storage.storage(tiny)["points"]
    assert set(point["ratios"]) == set(limits.PASSES)
    assert min(point["ratios"].values()) > 0


@pytest.mark.slow
def test_benchmark(script, tmp_path, monkeypatch):
    """All sections of a tiny run without espm, in two goes that end in one table."""
    pytest.importorskip("sklearn")
    run = script("benchmark")
    names = "limits", "scaling", "memory", "optimum"
    limits, scaling, memory, optimum = map(importlib.import_module, names)
    tiny = dataclasses.replace(
        run.QUICK,
        size=20,
        rounds=1,
        solvers=("MultiplicativeUpdate",),
        binned=False,
        stream=2**16,
        gathers=2**16,
        matrix=64,
        repeats=1,
        starts=1,
        small=20,
    )
    monkeypatch.setattr(run, "QUICK", tiny)
    monkeypatch.setattr(limits, "PASSES", ("channel_pass", "cross_pass"))
    monkeypatch.setattr(memory, "PROGRAMS", ("scikit-learn, sparse",))

    def costs(counts_per_pixel, size, columns, phases, plan):  # whose exponents are known
        cost = counts_per_pixel * size * columns**1.5 * phases**2
        return {"multiplicative": 1e-6 * cost, "Newton": 1e-4 * cost}

    monkeypatch.setattr(scaling, "costs", costs)
    least = []

    def polish(problem, *factors):  # half a nat below where it is first asked
        least.append(optimum.exact_nll(problem, *factors) - 0.5)
        return least[0]

    monkeypatch.setattr(optimum, "polish", polish)
    common = ["--quick", "--without-espm", "--out", str(tmp_path)]
    run.main([*common, "--only", "limits", "scaling", "memory", "starts"])
    run.main([*common, "--only", "iterations", "optimum"])

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ["limits", "scaling", "memory", "starts", "iterations", "optimum"]
    exponents = [a["exponents"]["Newton"] for a in results["scaling"]["axes"].values()]
    np.testing.assert_allclose(exponents, [1, 0.5, 1.5, 2], rtol=1e-9)  # size² pixels
    (dose,) = results["optimum"]["doses"]
    found = dose["rows"]["MultiplicativeUpdate"]
    assert found["within"]
    assert 0.5 <= found["above"] <= 1
    assert found["above after factorise"] == pytest.approx(found["above"], abs=0.1)
    peaks = results["memory"]["doses"][0]["programs"]["scikit-learn, dense"]
    assert peaks["peak"] > peaks["imports"] > 10
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "A quick run" in tables
    assert "| esmpy_jax, sparse |" in tables
    assert figures(tmp_path) == ["benchmark.png", "scaling.png"]


def test_benchmark_needs_of_a_pass(script):
    """Bounds of a pass by hand, for three counts in two pixels and four channels."""
    script("benchmark")
    scenes, limits = (importlib.import_module(name) for name in ("scene", "limits"))
    sparse = importlib.import_module("scipy.sparse")
    counts = sparse.csr_matrix(([1.0, 2.0, 300.0], ([0, 0, 1], [0, 3, 2])), (2, 4))
    basis = importlib.import_module("esmpy_jax").Basis.from_matrix(np.ones((4, 5)))
    scene = scenes.Scene(counts, (1, 2), basis, np.ones((5, 3)), np.ones((3, 2)))
    need = limits.needs(scene, "pixel_pass")
    # an index and a value of two bytes each; D, H and the sums in four
    assert need["bytes"] == 3 * (2 + 2) + 4 * (4 * 3 + 3 * 2 + 3 * 2)
    assert need["gathers"] == 3 * 3
    assert need["operations"] == 3 * (5 + 1 + 6)
    assert limits.needs(scene, "cross_pass")["gathers"] == 3 * (3 + 5)


def test_benchmark_binned_start(script):
    """The binned route starts from the means of H over the bins, of which the last is smaller."""
    script("benchmark")
    scenes, to_optimum = (importlib.import_module(name) for name in ("scene", "to_optimum"))
    scene = scenes.make_scene(18.0, 17)
    start = to_optimum.binned_start(scene, importlib.import_module("optimum").problem_of(scene))
    assert start.factor == 2
    maps = scene.abundances.reshape(3, 17, 17)
    means = np.asarray(start.inner.abundances).reshape(3, 9, 9)
    np.testing.assert_allclose(means[:, 2, 1], maps[:, 4:6, 2:4].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(means[:, 8, 8], maps[:, 16, 16], rtol=1e-5)


@pytest.mark.parametrize("name", ["real_bridgmanite", "fept"])
def test_studies_of_measured_files_without_the_file(script, name, tmp_path, capsys):
    run = script(name)
    assert (
        run.main(["--file", str(tmp_path / "absent.hspy"), "--out", str(tmp_path / "out")]) is None
    )
    assert capsys.readouterr().out.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_fept_k_factors(script):
    """The published composition from published counts, and a given one from the model's factors."""
    run = script("fept")
    ratio = run.K_FACTORS["Fe"] / run.K_FACTORS["Pt"]
    assert run.at_percent(ratio, run.INTENSITIES) == pytest.approx(15.41, abs=0.005)
    ej = importlib.import_module("esmpy_jax")
    axis = ej.EnergyAxis(5.0, 0.02, 700)
    model = ej.EDSModel.from_axis(axis, ["Fe", "Pt"], beam_energy=200.0)
    counts = {
        symbol: share * run.produced(model, symbol)[1]
        for symbol, share in zip(("Fe", "Pt"), (0.2, 0.8), strict=True)
    }
    assert run.at_percent(run.k_ratio(model), counts) == pytest.approx(20.0, rel=1e-6)


def test_bridgmanite_columns_that_explain(script):
    """A column that was left out takes much of the deviance away, one that is not there little."""
    script("real_bridgmanite")
    residuals = importlib.import_module("residuals")
    place = np.arange(200.0)[:, None]
    peaks = np.exp(-(((place - np.array([40.0, 90.0, 150.0])) / 6) ** 2))
    matrix = np.column_stack([peaks, np.ones(200)])
    weights = np.array([900.0, 300.0, 500.0, 50.0])
    counts = np.random.default_rng(0).poisson(matrix @ weights).astype(float)
    start = np.full(200, counts.mean())
    found, whole = residuals.fitted(matrix, counts, start)
    np.testing.assert_allclose(found / matrix.sum(0), weights, rtol=0.1)
    assert 140 < whole < 260  # degrees of freedom: 196
    assert residuals.fitted(matrix[:, [0, 2, 3]], counts, start)[1] > 10 * whole
    other = np.column_stack([matrix, np.exp(-(((place - 120) / 6) ** 2))])
    assert whole - residuals.fitted(other, counts, start)[1] < 10
