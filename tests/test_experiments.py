"""The scripts of the figures run and write what their README shows."""

import csv
import functools
import importlib
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
    """Without self-absorption there is one G for all phases and half as much to compile."""
    monkeypatch.setattr(run, "demo_model", functools.partial(run.demo_model, thickness=None))


def test_figure1_model(script, tmp_path, monkeypatch):
    run = script("figure1_model")
    simpler(run, monkeypatch)
    run.main(["--quick", "--out", str(tmp_path)])
    assert figures(tmp_path) == ["abundances.png", "columns.png", "equation.png", "weights.png"]
    rows = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    oxygen = next(row for row in rows if row.startswith("| O |")).split("|")
    found, true = float(oxygen[2].split("±")[0]), float(oxygen[3])
    assert abs(found - true) < 3  # at%, of 43.6


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


def test_judge_of_the_truth_itself(script):
    """The truth, its phases shuffled, is found without error; a mixture of two phases is not."""
    script("figure2_low_snr")
    scenes = importlib.import_module("scenes")
    model = importlib.import_module("esmpy_jax").simulate.demo_model()
    image = scenes.make_image(model, "thick foil", 1.0, 3, 32)
    truth = image.truth
    maps = np.asarray(truth.abundance, float)
    assert maps[1:].max() < 0.5 + 1e-6
    shuffled = [2, 0, 1]
    spectra = np.asarray(truth.spectra, float)
    percent = 100 * np.asarray(truth.composition, float)
    found = scenes.judge(
        "x", truth, maps, maps[shuffled], 7 * spectra[:, shuffled], percent[:, shuffled], 0.0, 0
    )
    np.testing.assert_allclose(found.correlation, 1, rtol=1e-12)
    np.testing.assert_allclose(found.angle, 0, atol=1e-5)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)
    assert found.found
    mixed = spectra @ np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 0.5]]).T
    worse = scenes.judge("x", truth, maps, maps, mixed, percent, 0.0, 0)
    assert worse.angle[2] > 1
    assert worse.angle[1] < 1e-5
