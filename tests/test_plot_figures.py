"""Figures show what the dataset says, in the right units, without touching pyplot."""

import itertools
import json
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from esmpy_jax import plot
from esmpy_jax._checks import InputError
from esmpy_jax.atomic import emission_lines

ELEMENTS = ["O", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Sm", "Hf"]
STRAY = ["Cu"]
PERCENT = np.array(
    [[43.6, 37.4, 57.2], [24.5, 52.2, 2.0], [2.4, 0, 1.0], [21.9, 0, 17.3], [3.1, 0, 18.8],
     [0, 0, 0.4], [3.5, 10.4, 2.6], [0, 0, 0.7], [1.0, 0, 0]]
)  # fmt: skip


def column(energy, lines):
    """Gaussian lines of an SDD's width, weighted by their cross sections."""
    width = np.sqrt(0.05**2 + 5.545 * 0.12 * 0.00364 * lines.energy) / 2.355
    strength = lines.cross_section * 1e24 * np.exp(-0.3 / lines.energy**1.5) / width
    return (strength * np.exp(-(((energy[:, None] - lines.energy) / width) ** 2) / 2)).sum(1)


def make_dataset(shape=(48, 64), counts=300.0, step=4.0, unit="nm", empty=6):
    """A solution's dataset: three mineral phases, discs in a matrix."""
    rng = np.random.default_rng(0)
    energy = 0.2 + 0.01 * np.arange(1980)
    found = {s: emission_lines([s], 200.0, (0.15, 20.1)) for s in (*ELEMENTS, *STRAY)}
    columns = [column(energy, found[s]) for s in ELEMENTS]
    records = [{"kind": "element", "label": s} for s in ELEMENTS]
    for family in ("K", "L"):
        mask = np.array([f == family for f in found["Cu"].family])
        columns.append(column(energy, found["Cu"].select(mask)))
        records.append({"kind": "stray", "label": f"Cu {family}"})
    columns += [(200 - energy) / 200**2 * 300, (200 - energy) ** 2 / 200**2 / energy * 15]
    columns[-1] = columns[-1] * np.exp(-0.3 / energy**1.5)
    records += [{"kind": "bremsstrahlung", "label": f"brems {i}"} for i in range(2)]
    g = np.stack(columns, 1)
    percent = 100 * PERCENT / PERCENT.sum(0)
    w = np.concatenate([percent / 100, np.full((2, 3), 0.03), [[0.3] * 3, [0.5, 0.4, 0.6]]])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    side = min(shape) / 48
    discs = [
        np.sqrt(np.maximum(1 - ((y - cy * side) ** 2 + (x - cx * side) ** 2) / (11 * side) ** 2, 0))
        for cy, cx in ((16, 18), (30, 46))
    ]
    abundance = np.stack([1 - sum(discs), *discs])
    spectra = g @ w
    h = abundance * counts / spectra.sum(0).mean()
    parts = spectra * h.sum((1, 2))
    if empty:
        h[:, 0, :empty] = 0
    stderr = np.sqrt(percent) * 0.08
    return xr.Dataset(
        {
            "counts_sum": ("energy", rng.poisson(parts.sum(1))),
            "fit_sum": (("energy", "phase"), parts),
            "G": (("energy", "column"), g),
            "W": (("column", "phase"), w),
            "H": (("phase", "y", "x"), h),
            "spectra": (("energy", "phase"), spectra),
            "abundance": (("phase", "y", "x"), abundance),
            "composition": (("element", "phase"), percent),
            "composition_stderr": (("element", "phase"), stderr),
            "objective": ("check", 5e5 * np.exp(-np.arange(40) / 3.0) - 1e6),
            "steps": ("check", 10 * np.arange(40)),
        },
        coords={
            "energy": ("energy", energy, {"units": "keV"}),
            "element": ELEMENTS,
            "column": [r["label"] for r in records],
            "y": ("y", step * np.arange(shape[0]), {"units": unit}),
            "x": ("x", step * np.arange(shape[1]), {"units": unit}),
        },
        attrs={"columns": json.dumps(records)},
    )


NAMES = ["bridgmanite", "ferropericlase", "Ca-perovskite"]
LINES = plot.strongest_lines(
    emission_lines([*ELEMENTS, *STRAY], 200.0, (0.25, 20.0)), energy_range=(0.25, 20.0)
)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def figures(data):
    return {
        "abundances": plot.plot_abundances(data, names=NAMES),
        "composition_maps": plot.plot_composition_maps(data),
        "spectra": plot.plot_spectra(data, lines=LINES, names=NAMES),
        "spectra_linear": plot.plot_spectra(
            data, lines=LINES, scale="linear", energy_range=(0.2, 9.0)
        ),
        "phase_spectra": plot.plot_phase_spectra(data, lines=LINES, names=NAMES),
        "basis": plot.plot_basis(data),
        "convergence": plot.plot_convergence(data),
        "composition": plot.plot_composition(data, names=NAMES),
        "composition_log": plot.plot_composition(data, scale="log"),
    }


@pytest.fixture(scope="module")
def drawn(dataset):
    made = figures(dataset)
    for figure in made.values():
        figure.draw_without_rendering()
    return made


def texts(axes):
    return [t.get_text() for t in axes.texts]


def map_axes(figure):
    return [axes for axes in figure.axes if axes.images]


def line_named(axes, start):
    return next(line for line in axes.lines if str(line.get_label()).startswith(start))


def test_every_figure_is_a_figure_and_saves(drawn, tmp_path):
    for name, figure in drawn.items():
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.png", dpi=30)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_abundance_maps_show_the_shares_on_one_scale(drawn, dataset):
    maps = map_axes(drawn["abundances"])
    assert len(maps) == 3
    for i, axes in enumerate(maps):
        shown = axes.images[0].get_array()
        np.testing.assert_allclose(shown[1:], dataset["abundance"].values[i, 1:])
        assert axes.images[0].get_clim() == (0.0, 1.0)
        assert axes.get_aspect() == 1.0
        assert NAMES[i] in texts(axes)
        square = next(t for t in axes.texts if t.get_gid() == "phase-colour")
        assert to_hex(square.get_color()).upper() == plot.phase_colour(i)


def test_pixels_without_counts_stand_out(drawn):
    for name in ("abundances", "composition_maps"):
        image = map_axes(drawn[name])[0].images[0]
        assert image.get_array().mask[0, :6].all()
        assert image.get_array().mask.sum() == 6
        missing = np.array(image.cmap.get_bad())
        scale = image.cmap(np.linspace(0, 1, 256))
        assert np.abs(scale - missing).max(1).min() > 0.15, "the grey is not a colour of the map"
        legend = drawn[name].legends[0]
        assert legend.get_texts()[0].get_text() == "no counts (6 pixels)"
    data = make_dataset(empty=0)
    assert not plot.plot_abundances(data).legends
    counts = np.ones((48, 64), int)
    counts[5, 7] = 0
    counted = plot.plot_abundances(data.assign(pixel_counts=(("y", "x"), counts)))
    mask = map_axes(counted)[0].images[0].get_array().mask
    np.testing.assert_array_equal(mask, counts == 0)


def test_the_map_lies_on_its_coordinates(drawn):
    """64 × 48 pixels of 4 nm with centres from 0: edges at half a pixel, first row on top."""
    axes = map_axes(drawn["abundances"])[0]
    assert axes.images[0].get_extent() == [-2.0, 254.0, 190.0, -2.0]


@pytest.mark.parametrize(
    ("step", "unit", "length", "text"),
    [(4.0, "nm", 50.0, "50 nm"), (0.05, "µm", 0.5, "500 nm"), (40.0, "nm", 500.0, "500 nm"),
     (90.0, "nm", 1000.0, "1 µm"), (1.0, "", 10.0, "10 px"), (0.01, "nm", 0.1, "100 pm")],
)  # fmt: skip
def test_scale_bar_has_its_length_in_the_scan_unit(step, unit, length, text):
    figure = plot.plot_abundances(make_dataset(step=step, unit=unit))
    axes = map_axes(figure)[0]
    (bar,) = [a for a in axes.artists if isinstance(a, AnchoredSizeBar)]
    assert bar.txt_label.get_text() == text
    (patch,) = bar.size_bar.get_children()
    assert patch.get_width() == pytest.approx(length)
    assert 0.1 < patch.get_width() / (64 * step) <= 0.3


@pytest.mark.parametrize(
    ("field", "unit", "expected"),
    [(100.0, "nm", (20.0, "20 nm")), (7000.0, "nm", (2000.0, "2 µm")), (1.0, "Å", (0.2, "20 pm")),
     (3.0, "mm", (0.5, "500 µm")), (128.0, "pixels", (20.0, "20 pixels"))],
)  # fmt: skip
def test_scale_bar_lengths_are_round(field, unit, expected):
    length, text = plot.scale_bar_length(field, unit)
    assert length == pytest.approx(expected[0])
    assert text == expected[1]


def test_composition_maps_mix_the_phases(drawn, dataset):
    maps = map_axes(drawn["composition_maps"])
    by_title = {texts(axes)[0]: axes.images[0].get_array() for axes in maps}
    assert len(by_title) == len(ELEMENTS)
    fe = np.tensordot(dataset["composition"].values[ELEMENTS.index("Fe")],
                      dataset["abundance"].values, 1)  # fmt: skip
    np.testing.assert_allclose(by_title["Fe (at%)"][1:], fe[1:])
    chosen = plot.plot_composition_maps(dataset, elements=["Ca", "O"])
    assert [texts(axes)[0] for axes in map_axes(chosen)] == ["Ca (at%)", "O (at%)"]


def test_mass_thickness_is_shown_in_micrograms(dataset):
    """An outlier above the 99.8th percentile does not take the scale; empty pixels are grey."""
    mass = np.full((48, 64), 2e-5)
    mass[20, 30] = 1e-3
    figure = plot.plot_mass_thickness(dataset.assign(mass_thickness=(("y", "x"), mass)))
    image = figure.axes[0].images[0]
    assert image.get_clim() == pytest.approx((0.0, 20.0))
    assert float(image.get_array()[20, 30]) == pytest.approx(1000.0)
    assert image.get_array().mask.sum() == 6
    assert figure.axes[-1].get_ylabel() == "µg/cm²"
    with pytest.raises(InputError, match="no variable 'mass_thickness'"):
        plot.plot_mass_thickness(dataset)


def test_spectra_show_counts_fit_shares_and_residuals(drawn, dataset):
    top, bottom = drawn["spectra"].axes[:2]
    parts = dataset["fit_sum"].values
    fit = line_named(top, "fit")
    np.testing.assert_allclose(fit.get_ydata(), parts.sum(1))
    for i, name in enumerate(NAMES):
        line = line_named(top, name)
        np.testing.assert_allclose(line.get_ydata(), parts[:, i])
        assert line.get_color() == plot.phase_colour(i)
        percent = 100 * parts[:, i].sum() / parts.sum()
        assert f"{percent:.3g} %" in line.get_label()
    assert top.get_yscale() == "log"
    residual = (dataset["counts_sum"].values - parts.sum(1)) / np.sqrt(parts.sum(1))
    dots = next(line for line in bottom.lines if line.get_marker() == ".")
    np.testing.assert_allclose(np.sort(dots.get_ydata()), np.sort(residual))
    assert bottom.get_ylabel() == "residual (σ)"
    assert top.get_ylabel() == "counts per 10 eV"


def test_large_residuals_are_marked_at_the_edge(dataset):
    spoiled = dataset.copy(deep=True)
    spoiled["counts_sum"][500] = spoiled["counts_sum"][500] + 10_000
    bottom = plot.plot_spectra(spoiled).axes[1]
    (up,) = [line for line in bottom.lines if line.get_marker() == "^"]
    np.testing.assert_allclose(up.get_xdata(), dataset["energy"].values[500])
    assert up.get_ydata()[0] < bottom.get_ylim()[1]


@pytest.mark.parametrize("names", [["a", "b", "c"], ["ferropericlase"] * 3, ["x" * 60] * 3])
def test_the_legend_of_the_spectra_fits_into_the_figure(dataset, names):
    figure = plot.plot_spectra(dataset, names=names)
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1


def test_without_fit_sum_the_shares_come_from_spectra_and_abundances():
    data = make_dataset(empty=0)
    expected = data["fit_sum"].values.sum(1)
    figure = plot.plot_spectra(data.drop_vars("fit_sum"), scale="linear")
    np.testing.assert_allclose(line_named(figure.axes[0], "fit").get_ydata(), expected)
    assert figure.axes[0].get_yscale() == "linear"


def test_an_energy_range_cuts_the_spectrum(drawn):
    shown = line_named(drawn["spectra_linear"].axes[0], "fit").get_xdata()
    assert shown.min() >= 0.2
    assert shown.max() <= 9.0


def label_artists(axes):
    return [t for t in axes.texts if t.get_gid() == "line-label"]


@pytest.mark.parametrize("name", ["spectra", "spectra_linear", "phase_spectra"])
def test_line_labels_do_not_overlap_and_stay_on_the_page(drawn, name):
    figure = drawn[name]
    page = figure.bbox
    count = 0
    for axes in figure.axes:
        boxes = [t.get_window_extent() for t in label_artists(axes)]
        count += len(boxes)
        boxes.sort(key=lambda box: box.x0)
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
        assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and b.y1 <= page.y1 for b in boxes)
    assert count >= 8


def test_phase_spectra_are_normalised_and_label_what_each_phase_has(drawn, dataset):
    panels = drawn["phase_spectra"].axes
    assert len(panels) == 3
    for i, axes in enumerate(panels):
        curve = next(line for line in axes.lines if len(line.get_xdata()) == 1980)
        assert curve.get_ydata().sum() == pytest.approx(1.0)
        assert curve.get_color() == plot.phase_colour(i)
        labelled = {t.get_text() for t in label_artists(axes)}
        percent = dict(zip(ELEMENTS, dataset["composition"].values[:, i], strict=True))
        assert all(percent.get(t.split()[0], 1.0) > 0 for t in labelled), "a line it lacks"
        assert {"O Kα", "Mg Kα", "Fe Kα", "Cu Kα"} <= labelled
    assert "Si Kα" not in {t.get_text() for t in label_artists(panels[1])}
    assert any("Mg 52.2  O 37.4  Fe 10.4 at%" in text for text in texts(panels[1]))


def test_basis_is_grouped_by_kind(drawn, dataset):
    groups = {axes.texts[0].get_text(): axes for axes in drawn["basis"].axes}
    assert list(groups) == ["elements", "stray lines", "continuum"]
    assert [t.get_text() for t in groups["stray lines"].get_yticklabels()] == ["Cu K", "Cu L"]
    for axes in groups.values():
        for line in axes.lines:
            column = dataset["G"].sel(column=line.get_label()).values
            curve = np.asarray(line.get_ydata())
            floor = np.floor(curve.min() + 0.01 if curve.min() % 1 > 0.99 else curve.min())
            scaled = (curve - floor) / 0.92
            np.testing.assert_allclose(scaled**2, column / column.max(), atol=1e-9)


def test_basis_of_one_phase_where_g_depends_on_it(dataset):
    g = dataset["G"].values
    data = dataset.drop_vars("G").assign(
        G=(("phase", "energy", "column"), np.stack([g, g, np.roll(g, 100, axis=0)]))
    )
    first, last = plot.plot_basis(data), plot.plot_basis(data, phase=2)
    oxygen = [np.argmax(f.axes[0].lines[0].get_ydata()) for f in (first, last)]
    assert oxygen[1] - oxygen[0] == 100
    with pytest.raises(InputError, match="phase 3"):
        plot.plot_basis(data, phase=3)


def test_composition_bars_and_errors(drawn, dataset):
    axes = drawn["composition"].axes[0]
    order = np.argsort(-dataset["composition"].values.mean(1), kind="stable")
    assert [t.get_text() for t in axes.get_xticklabels()] == [ELEMENTS[i] for i in order]
    bars = [c for c in axes.containers if hasattr(c, "patches")]
    for i, container in enumerate(bars):
        heights = [bar.get_height() for bar in container.patches]
        np.testing.assert_allclose(heights, dataset["composition"].values[order, i])
        assert container.patches[0].get_facecolor() == to_rgba(plot.phase_colour(i))
        assert container.get_label() == NAMES[i]
    segments = axes.collections[0].get_segments()
    error = dataset["composition_stderr"].values[order, 0]
    spans = [segment[1, 1] - segment[0, 1] for segment in segments]
    np.testing.assert_allclose(spans, 2 * error[error > 0])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_composition_ranges(dataset, scale):
    """A grey bar from end to end, within the axis, named in the legend; from zero on a log axis."""
    percent = dataset["composition"]
    low, high = np.maximum(percent - 3, 0), percent + 6
    data = dataset.assign(composition_low=low, composition_high=high)
    axes = plot.plot_composition(data, scale=scale).axes[0]
    order = np.argsort(-percent.values.mean(1), kind="stable")
    ends = np.array([s[:, 1] for s in axes.collections[0].get_segments()])
    np.testing.assert_allclose(ends[:, 0], low.values[order, 0], atol=2e-9)
    np.testing.assert_allclose(ends[:, 1], high.values[order, 0])
    assert axes.get_ylim()[1] >= ends.max()
    words = [t.get_text() for t in axes.get_legend().get_texts()]
    assert words[-2:] == ["range (95 %)", "± standard error"]


def test_composition_without_errors(dataset):
    axes = plot.plot_composition(dataset.drop_vars("composition_stderr")).axes[0]
    assert not axes.collections


def test_convergence_is_above_the_optimum(drawn, dataset):
    """Every point shows, the last one too: as far above the optimum as the fit believed."""
    objective = dataset["objective"].values
    told = plot.plot_convergence(dataset.assign_attrs(remaining_nats=0.04))
    for figure, left in ((drawn["convergence"], np.diff(objective)[-1] / -2), (told, 0.04)):
        axes = figure.axes[0]
        expected = objective - objective.min() + left
        np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), dataset["steps"].values)
        assert axes.get_yscale() == "log"
        assert axes.get_ylabel() == "objective above the optimum (nats)"


def test_convergence_has_one_point_for_each_step():
    """G follows W after step 20: of the two values there the later one is shown."""
    data = xr.Dataset(
        {
            "objective": ("check", [50.0, 30.0, 20.0, 24.0, 11.0, 10.0]),
            "steps": ("check", [0, 10, 20, 20, 30, 40]),
        },
        attrs={"remaining_nats": 0.5},
    )
    line = plot.plot_convergence(data).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20, 30, 40])
    np.testing.assert_allclose(line.get_ydata(), [40.5, 20.5, 14.5, 1.5, 0.5])


def test_shares_of_counts_are_named_and_turned_into_atoms(dataset):
    """A phase without elements takes part in the abundances but holds none of the atoms."""
    data = dataset.isel(y=slice(10, 14), x=slice(10, 14)).copy(deep=True)
    data["composition"][:, 2] = 0.0
    shares = np.array([0.3, 0.2, 0.5])[:, None, None]
    data["abundance"].values[:] = shares
    data["abundance"].attrs["share_of"] = "counts"
    assert plot.plot_abundances(data).axes[-1].get_ylabel() == "abundance (share of the counts)"
    per_atom = data["spectra"].values.sum(0)
    atoms = np.array([0.3, 0.2]) / per_atom[:2]
    figure = plot.plot_composition_maps(data, elements=[ELEMENTS[1]])
    expected = data["composition"].values[1, :2] @ atoms / atoms.sum()
    np.testing.assert_allclose(map_axes(figure)[0].images[0].get_array(), expected)


def test_a_fit_of_one_step_still_draws(dataset):
    short = dataset.isel(check=slice(0, 1))
    plot.plot_convergence(short).draw_without_rendering()


def test_one_pixel_one_phase_and_gaps_still_draw():
    data = make_dataset(shape=(48, 64)).isel(y=slice(20, 21), x=slice(20, 21), phase=slice(0, 1))
    data["fit_sum"][:] = 0.0
    for figure in figures_without_names(data):
        figure.draw_without_rendering()


def figures_without_names(data):
    yield plot.plot_abundances(data)
    yield plot.plot_composition_maps(data)
    yield plot.plot_spectra(data)
    yield plot.plot_phase_spectra(data)
    yield plot.plot_composition(data)


def test_many_phases_keep_their_colours_and_names():
    data = make_dataset()
    wide = data.isel(phase=[0, 1, 2, 0, 1, 2, 0, 1]).assign_coords(
        phase=[f"p{i}" for i in range(8)]
    )
    axes = plot.plot_composition(wide).axes[0]
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts[:8] == [f"p{i}" for i in range(8)]
    assert len({plot.phase_colour(i) for i in range(7)}) == 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: plot.plot_abundances(d.drop_vars("abundance")), "no variable 'abundance'"),
        (lambda d: plot.plot_abundances(d, names=["a"]), "1 phase names"),
        (lambda d: plot.plot_composition_maps(d, elements=["Xe"]), "no element 'Xe'"),
        (lambda d: plot.plot_spectra(d, scale="cubic"), "'cubic'"),
        (lambda d: plot.plot_spectra(d, energy_range=(50.0, 60.0)), "No channels"),
        (lambda d: plot.plot_composition(d, scale="cubic"), "'cubic'"),
    ],
)
def test_bad_requests_get_one_sentence(dataset, call, words):
    with pytest.raises(InputError, match=words):
        call(dataset)


def test_settings_of_the_user_are_left_alone(dataset):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 33.0, "axes.spines.top": True}):
        figure = plot.plot_composition(dataset)
        assert matplotlib.rcParams["font.size"] == 33.0
        assert figure.axes[0].xaxis.label.get_fontsize() == 11
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported():
    code = "import sys, esmpy_jax.plot; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
