"""What a measurement can tell: the bound against noise, its figure, and the command."""

import csv
import itertools
import re

import jax
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import chi2
from typer.testing import CliRunner

import esmpy_jax as ej
from esmpy_jax import plot
from esmpy_jax.cli import app
from esmpy_jax.cli._planned import amount
from esmpy_jax.inference import expected_errors, needed_counts
from esmpy_jax.simulate import Phase, phase_weights

AMOUNTS = {"O": 60, "Mg": 15, "Si": 15, "Fe": 10}
SYMBOLS = list(AMOUNTS)


def make_model():
    axis = ej.EnergyAxis(0.3, 0.03, 250)
    return ej.EDSModel.from_axis(axis, SYMBOLS, beam_energy=200.0)


# --- the bound


@pytest.mark.parametrize(("seed", "counts"), [(0, 1e4), (1, 1e5)])
def test_maximum_likelihood_scatters_as_the_bound_says(seed, counts):
    """2000 spectra, each fitted by Newton's method in NumPy with the exact Hessian."""
    model, n = make_model(), 2000
    told = expected_errors(model, AMOUNTS, counts)["composition_stderr"].values[0]
    phase = Phase("all", AMOUNTS, density=3.0, bremsstrahlung=0.3)
    weights, basis = phase_weights(model, [phase])
    g, w = np.asarray(basis.matrix, float), weights[:, 0]
    g = g * w / (g @ w).sum() * counts  # so that the truth is one everywhere
    y = np.random.default_rng(seed).poisson(g.sum(1), (n, len(g)))
    x = np.ones((n, len(w)))
    for _ in range(8):
        mean = x @ g.T
        assert (mean > 0).all()
        slope = (y / mean - 1) @ g
        curvature = np.einsum("nc,ca,cb->nab", y / mean**2, g, g, optimize=True)
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        x = x + step
    assert np.abs(step).max() < 1e-8
    amounts = x[:, : len(SYMBOLS)] * w[: len(SYMBOLS)]
    percent = 100 * amounts / amounts.sum(1, keepdims=True)
    ratio = n * percent.var(0) / told**2
    # one in 10^5 for each of the elements, and 2 % for what is left of order 1 / counts
    low, high = chi2.ppf([1e-5, 1 - 1e-5], n - 1)
    assert (ratio > 0.98 * low).all()
    assert (ratio < 1.02 * high).all()
    np.testing.assert_allclose(
        percent.mean(0), list(AMOUNTS.values()), atol=5 * told.max() / np.sqrt(n)
    )


def table(sigma, counts):
    """Errors of one element."""
    return xr.DataArray(np.atleast_1d(sigma), {"counts": np.atleast_1d(counts)}, ["counts"])


def test_needed_counts_of_counting_alone_are_exact():
    counts = np.array([1e2, 1e4, 1e5])
    errors = table(40 / np.sqrt(counts), counts)
    for wanted in (20.0, 4.0, 1.0, 0.2, 0.001):  # before, on, between and behind the counts
        found = float(needed_counts(errors, wanted))
        assert found == pytest.approx((40 / wanted) ** 2, rel=1e-9)


def test_needed_counts_where_errors_end():
    """σ² = 100 / N + 0.01: between the counts as told, behind them not at all."""
    counts = np.logspace(2, 7, 81)
    errors = table(np.sqrt(100 / counts + 0.01), counts)
    assert float(needed_counts(errors, 0.2)) == pytest.approx(100 / 0.03, rel=1e-3)
    assert np.isnan(float(needed_counts(errors, 0.09)))
    assert np.isnan(float(needed_counts(table(np.zeros(2), counts[:2]), 1.0)))


def test_errors_of_100_say_nothing_of_what_is_needed():
    counts = np.array([1.0, 100.0, 1e4, 1e6])
    errors = table(np.minimum(900 / np.sqrt(counts), 100), counts)
    assert float(needed_counts(errors, 9.0)) == pytest.approx(1e4)
    assert float(needed_counts(errors, 95.0)) == pytest.approx((900 / 95) ** 2)


@pytest.mark.parametrize(
    ("counts", "wanted", "sentence"),
    [([100.0], 1.0, "two or more"), ([10.0, 5.0], 1.0, "increasing"), ([1.0, 2.0], 0.0, "is 0")],
)
def test_what_is_needed_cannot_be_told(counts, wanted, sentence):
    with pytest.raises(ej.InputError, match=sentence):
        needed_counts(table(np.ones(len(counts)), counts), wanted)


# --- the figure


def planned(n_absent=3, amounts=(60.0, 38.5, 1.5), phases=0):
    """As `expected_errors` would tell it, with errors of 3, 5, 7, ... % at 1000 counts."""
    counts = np.logspace(2, 6, 9)
    symbols = [f"E{i}" for i in range(len(amounts) + n_absent)]
    present = np.append(amounts, np.zeros(n_absent))
    errors = (3 + 2 * np.arange(len(symbols))) * np.sqrt(1e3 / counts)[:, None]
    data = xr.Dataset(
        {
            "composition": ("element", present),
            "composition_stderr": (("counts", "element"), np.minimum(errors, 100)),
            "detection_limit": (("counts", "element"), np.minimum(3.29 * errors, 100)),
        },
        {"counts": counts, "element": symbols},
    )
    if not phases:
        return data
    return xr.concat([data] * phases, "phase").assign_coords(phase=[f"p{i}" for i in range(phases)])


def curves(axes):
    """The lines that follow all counts."""
    return [line for line in axes.lines if len(line.get_xdata()) == 9]


def elements(axes):
    return [t.get_text() for t in axes.texts if t.get_gid() == "element"]


def test_errors_on_the_left_and_limits_on_the_right():
    data = planned()
    left, right = plot.plot_planning(data).axes
    assert elements(left) == ["E0 (60 at%)", "E1 (38.5 at%)", "E2 (1.5 at%)"]
    assert elements(right) == ["E3", "E4", "E5"]
    for axes, name, shown in (
        (left, "composition_stderr", slice(0, 2)),
        (right, "detection_limit", slice(3, 6)),
    ):
        for line, e in zip(curves(axes), range(6)[shown], strict=True):
            expected = data[name].values[:, e]
            kept = expected < 100
            np.testing.assert_allclose(np.asarray(line.get_ydata())[kept], expected[kept])
            assert np.isnan(np.asarray(line.get_ydata())[~kept]).all()
            assert line.get_color() == plot.phase_colour(e)
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert left.get_ylabel() == "standard error (at%)"
    assert right.get_ylabel() == "limit of detection (at%)"


def test_where_the_error_is_as_large_as_theamount():
    """7 % at 1000 counts of an element of 1.5 at%: at 1000 (7 / 1.5)² counts."""
    figure = plot.plot_planning(planned())
    (circle,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert circle.get_xdata()[0] == pytest.approx(1e3 * (7 / 1.5) ** 2)
    assert circle.get_ydata()[0] == pytest.approx(1.5)
    (faint,) = [line for line in figure.axes[0].lines if line.get_alpha() == 0.35]
    clear = [line for line in figure.axes[0].lines if line.get_color() == faint.get_color()]
    assert min(np.nanmax(line.get_ydata()) for line in clear if line is not faint) <= 1.5
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == ["error as large as the amount", "error larger than the amount"]
    assert not plot.plot_planning(planned(amounts=(60.0, 40.0))).legends


def test_the_wanted_error_and_the_pixels():
    figure = plot.plot_planning(planned(), error=0.05, counts_per_pixel=50)
    for axes in figure.axes[:2]:
        (level,) = [line for line in axes.lines if line.get_gid() == "wanted"]
        assert set(level.get_ydata()) == {0.05}
        assert axes.get_ylim()[0] < 0.05
        (above,) = axes.child_axes
        figure.draw_without_rendering()
        np.testing.assert_allclose(np.array(above.get_xlim()) * 50, axes.get_xlim())
        assert above.get_xlabel() == "pixels of the phase, at 50 counts each"
    assert figure.legends[0].get_texts()[-1].get_text() == "wanted: 0.05 at%"


@pytest.mark.parametrize(("n_absent", "phases"), [(0, 0), (1, 2), (30, 1)])
def test_nothing_is_cut_off_or_written_over(n_absent, phases):
    names = [f"phase {i} of a long name" for i in range(phases)] or None
    figure = plot.plot_planning(
        planned(n_absent, phases=phases), names=names, error=1, counts_per_pixel=30
    )
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    written = [figure.legends[0].get_window_extent()]
    for axes in figure.axes:
        own = [t.get_window_extent() for t in axes.texts]
        own.sort(key=lambda box: box.y0)
        # letters have room above and below them in their box
        assert all(b.y0 - a.y1 > -0.02 * figure.dpi for a, b in itertools.pairwise(own))
        assert all(box.x0 > axes.get_window_extent().x1 for box in own)
        written += [*own, axes.get_tightbbox()]
    for box in written:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    for one, other in itertools.pairwise(figure.axes):
        assert not one.get_tightbbox().overlaps(other.get_tightbbox())
    assert not any(axes.get_tightbbox().overlaps(written[0]) for axes in figure.axes)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (lambda d: d.drop_vars("detection_limit"), {}, "no variable 'detection_limit'"),
        (lambda d: d.isel(counts=[0]), {}, "two or more"),
        (lambda d: d * 0, {}, "between 0 and 100"),
        (lambda d: d, {"error": 0}, "wanted error is 0"),
        (lambda d: d, {"counts_per_pixel": -1}, "counts per pixel is -1"),
        (lambda d: d, {"names": ["a", "b"]}, "2 phase names"),
    ],
)
def test_what_the_figure_cannot_show(change, options, sentence):
    with pytest.raises(ej.InputError, match=sentence):
        plot.plot_planning(change(planned()), **options)


# --- the command


def run(*words):
    """The command's standard output; it must succeed without a word on standard error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == ""
    return result.stdout


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


AXIS = ("--energy-offset", 0.3, "--energy-gain", 0.03, "--energy-range", "0.3,7.78")


def test_the_command_tells_what_the_library_does(tmp_path):
    out = tmp_path / "plan"
    said = run(
        "plan", "--composition", "MgSiO3,MgO", "--elements", "Fe", "--beam-energy", 200, *AXIS,
        "--counts", "1e4,100", "--error", 0.5, "--counts-per-pixel", 20, "--out", out,
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"plan.csv", "needed.csv", "plan.png"}
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    model = ej.EDSModel.from_axis(
        ej.EnergyAxis(0.3, 0.03, 250), ["O", "Mg", "Si", "Fe"], beam_energy=200.0
    )
    told = expected_errors(model, "MgSiO3", [100, 1e4])
    found = [row for row in rows(out / "plan.csv") if row["phase"] == "MgSiO3"]
    assert len(found) == 8
    for row in found:
        own = told.sel(element=row["element"], counts=float(row["counts"]))
        assert float(row["at%"]) == pytest.approx(own["composition"].item(), rel=1e-5)
        for column, name in (
            ("at% stderr", "composition_stderr"),
            ("detection limit", "detection_limit"),
        ):
            assert float(row[column]) == pytest.approx(own[name].item(), rel=1e-4)
    needed = {(r["phase"], r["element"]): r for r in rows(out / "needed.csv")}
    for element in ("Mg", "Fe"):
        row, own = needed["MgSiO3", element], told.sel(element=element, counts=1e4)
        assert row["wanted at%"] == "0.5"
        for column, name in (
            ("counts for this error", "composition_stderr"),
            ("counts to detect it", "detection_limit"),
        ):
            expected = 1e4 * (own[name].item() / 0.5) ** 2
            assert float(row[column]) == pytest.approx(expected, rel=1e-3)
    assert re.search(r"^energy axis +250 channels of 30 eV.* given *$", said, re.MULTILINE)
    assert re.search(r"^efficiency .* default *$", said, re.MULTILINE)
    error, pixels = float(needed["MgSiO3", "Mg"]["counts for this error"]), "[0-9,]+"
    shown = re.search(rf"^Mg +20 +± .* ([0-9,]+) +({pixels}) *$", said, re.MULTILINE)
    assert shown is not None
    assert error <= float(shown[1].replace(",", "")) < 1.1 * error
    assert float(shown[2].replace(",", "")) == pytest.approx(error / 20, rel=0.1)
    limit = told["detection_limit"].sel(element="Fe", counts=100).item()
    assert re.search(rf"^Fe +– +< {limit:#.2g} ", said, re.MULTILINE)


def test_a_file_gives_the_axis_and_the_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    phase = Phase("all", AMOUNTS, density=3.0)
    image = ej.simulate.simulate(
        model, [phase], np.ones((1, 4, 4)), 25.0, key=jax.random.key(0), title="scan"
    )
    ej.save_image(image, "scan.hspy")
    said = run("plan", "scan.hspy", "--composition", "FeO", "--elements", "Mg,Si",
               "--counts", "1000", "--parameters", "noise_fwhm", "--out", "plan")  # fmt: skip
    assert "250 channels of 30 eV" in said
    assert re.search(r"beam energy +200 keV +", said)
    mean = image.counts.total / 16
    assert f"{mean:.4g} counts" in said
    assert "Known no better than their priors: noise_fwhm." in said
    assert len(rows(tmp_path / "plan" / "plan.csv")) == 4


BAD = {
    "no folder": ("--composition MgO --beam-energy 200", "--out"),
    "folder exists": ("--composition MgO --beam-energy 200 --out .", "--overwrite"),
    "no composition": ("--beam-energy 200 --out new", "--composition MgSiO3"),
    "no formula": ("--composition Mgg --beam-energy 200 --out new", "Mgg"),
    "twice": ("--composition MgO,MgO --beam-energy 200 --out new", "twice"),
    "no beam energy": ("--composition MgO --out new", "--beam-energy 200"),
    "no element": ("--composition MgO --elements Qq --beam-energy 200 --out new", "Qq"),
    "one element": ("--composition Si --beam-energy 200 --out new", "--elements"),
    "counts": ("--composition MgO --beam-energy 200 --counts 1,x --out new", "--counts is '1,x'"),
    "few counts": ("--composition MgO --beam-energy 200 --counts 0 --out new", "--counts is '0'"),
    "error": ("--composition MgO --beam-energy 200 --error 0 --out new", "--error is 0"),
    "axis": ("--composition MgO --beam-energy 200 --energy-offset 30 --out new", "channels"),
    "range": ("--composition MgO --beam-energy 200 --energy-range 5,1 --out new", "low < high"),
    "signal": ("--composition MgO --beam-energy 200 --signal 1 --out new", "--signal"),
    "density": ("--composition MgO --beam-energy 200 --density 3 --out new", "thickness"),
    "angle": ("--composition MgO --beam-energy 200 --density 3 --thickness 9 --out new",
              "--take-off-angle"),
    "parameter": ("--composition MgO --beam-energy 200 --parameters mass_thickness --out new",
                  "add both"),
    "no file": ("none.hspy --composition MgO --out new", "no file none.hspy"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    given, expected = BAD[name]
    result = CliRunner().invoke(app, ["plan", *given.split()])
    assert result.exit_code == 2, result.exception
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert lines[0].endswith((".", "?"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2, "1"), (2961.69, "3,000"), (1000.0, "1,000"), (1001.0, "1,100"), (7.2, "8"),
     (1.1e7, "11,000,000"), (np.nan, "out of reach")],
)  # fmt: skip
def test_counts_are_rounded_up(value, text):
    assert amount(value) == text
