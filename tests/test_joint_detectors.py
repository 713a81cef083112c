"""Several detectors of one scan: images joined, W and H shared, physics of each its own."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax import plot
from esmpy_jax.inference import expected_errors, propagate, with_mass_thickness
from esmpy_jax.inference._detectors import joined_provenance
from esmpy_jax.inference._refine import _of_filter
from esmpy_jax.inference._tangents import parametrised, spectra, tangents
from esmpy_jax.inference._warnings import of_misfit
from esmpy_jax.model import adjustables, adjusted, switched_on
from esmpy_jax.physics import (
    Acquisition,
    Detector,
    Layer,
    LayeredEfficiency,
    Resolution,
    StackedAxis,
    detector_window,
)
from esmpy_jax.simulate import Phase, simulate

ELEMENTS = ["O", "Mg", "Si"]
PHASES = (
    Phase("silicate", {"O": 60, "Mg": 20, "Si": 20}, 3.2, 0.3, {"Al": 0.02}),
    Phase("oxide", {"O": 50, "Mg": 50}, 3.6, 0.4, {"Al": 0.01}),
)


def make_part(angle=20.0, window=50.0, fwhm=125.0, offset=0.3, size=100, thickness=400, **options):
    efficiency = LayeredEfficiency(
        (Layer.of("Si", 2.33, window),), detector_window("windowless").active
    )
    return ej.EDSModel.from_axis(
        ej.EnergyAxis(offset, 0.02, size),
        options.pop("elements", ELEMENTS),
        stray=["Al"],
        beam_energy=options.pop("beam_energy", 200.0),
        detector=Detector(efficiency, Resolution.from_mn_ka(fwhm)),
        take_off_angle=angle,
        thickness=thickness,
        density=options.pop("density", 3.5),
        **options,
    )


def make_parts(uneven=False):
    """Low and high above the sample, with other windows and widths of lines, maybe channels."""
    axis = {"offset": 0.25, "size": 110} if uneven else {}
    return [make_part(), make_part(65.0, 250.0, 140.0, **axis)]


def make_model(sensitivity=(0.6,), uneven=False):
    return ej.JointModel.of(make_parts(uneven), sensitivity)


def make_images():
    """Counts of each detector without physics, and what their files would tell."""
    rng, images = np.random.default_rng(0), []
    for angle, part in zip((20.0, 65.0), make_parts(uneven=True), strict=True):
        acquisition = Acquisition(beam_energy=200.0, elevation=angle, energy_resolution_mn_ka=130)
        offset = float(part.energy_axis.offset)
        images.append(
            ej.SpectrumImage(
                ej.as_counts(rng.poisson(0.2, (4, 4, part.energy_axis.size))),
                part.energy_axis,
                acquisition,
                provenance={
                    "beam energy": ej.Provenance(200.0, "keV", "read from the file"),
                    "elevation": ej.Provenance(angle, "°", "read from the file"),
                    "energy offset": ej.Provenance(offset, "keV", "given"),
                },
                notes=("left out", f"seen at {angle:g}°"),
            )
        )
    return images


def make_image(model, phases=PHASES, seed=0, size=4, dose=5000.0):
    """Half of each phase, some pixels mixed."""
    share = np.clip(np.linspace(-0.5, 1.5, size), 0, 1)[None, :].repeat(size, 0)
    maps = np.stack([1 - share, share]) if len(phases) == 2 else np.ones((1, size, size))
    return simulate(model, phases, maps, dose, key=jax.random.key(seed))


def quick_fit(image, model, n_phases, **options):
    solver = ej.VariableProjectionNewton()
    return ej.fit(image, model, n_phases, solver=solver, max_steps=200, **options)


def known(model, truth):
    """Start at the truth, the pure pixels told: mixtures of the phases are another matter."""
    weights = np.full((len(model.columns), 2), 0.05)
    weights[:3] = truth.composition
    share = np.asarray(truth.abundance).reshape(2, -1)
    return {
        "start": ej.GivenStart(weights, 1000.0 * share),
        "fixed_abundances": np.where(share > 0, np.nan, 0.0),
    }


@pytest.fixture(scope="module")
def example():
    model = make_model()
    image = make_image(model)
    return model, image, quick_fit(image, model, 2, **known(model, image.truth))


# --- G


def test_g_is_that_of_the_parts_one_above_the_other():
    model = make_model(uneven=True)
    weights = np.random.default_rng(0).uniform(0.1, 1, (len(model.columns), 2))
    w = jnp.asarray(weights, float)
    basis = model.basis(w)
    assert basis.matrix.shape == (2, 210, 3 + 2 * 3)
    labels = ["Al K, detector 1", "brems 0, detector 1", "brems 1, detector 1"]
    assert list(basis.labels[:6]) == [*ELEMENTS, *labels]
    assert [c.detector for c in basis.columns] == [None] * 3 + [1] * 3 + [2] * 3
    assert list(basis.composition_rows) == [True] * 3 + [False] * 6
    for part, rows, own, factor in zip(
        model.parts, ([0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7, 8]), (slice(100), slice(100, None)),
        (1.0, 0.6), strict=True,
    ):  # fmt: skip
        alone = factor * np.asarray(part.basis(w[np.array(rows)]).matrix)
        np.testing.assert_allclose(basis.matrix[:, own][:, :, rows], alone, rtol=1e-6)
        assert not np.delete(np.asarray(basis.matrix[:, own]), rows, axis=2).any()
    expected = np.asarray(basis.endmembers(w))
    np.testing.assert_allclose(model.endmembers(w), expected, rtol=2e-5, atol=1e-6 * expected.max())
    np.testing.assert_allclose(
        np.asarray(model.energy_axis.centres)[[0, 100]], [0.3, 0.25], rtol=1e-6
    )


@pytest.mark.slow
def test_derivatives_by_parameters_of_each_detector_and_of_the_sample(x64):
    # no channel centred on an absorption edge, where G has a kink
    places = {f"energy_offset of detector {k}": 0.3033 for k in (1, 2)}
    model = adjusted(make_model(), places)
    every, start = parametrised(model)
    weights = np.random.default_rng(1).uniform(0.1, 1, (len(model.columns), 2))
    u, w = jnp.asarray(start), jnp.asarray(weights)
    found = tangents(every, u, w, range(len(u)))
    own = {1: slice(0, 100), 2: slice(100, 200)}
    for k, name in enumerate(every.names):
        ends = [np.asarray(spectra(every, u.at[k].add(h), w)[0]) for h in (1e-4, -1e-4)]
        numeric = (ends[0] - ends[1]).T / 2e-4
        # differences of second order: relative to 1e-8 times the curvature in units of the prior
        error = np.abs(found.parameters[:, :, k] - numeric).max()
        assert error < 1e-5 * np.abs(numeric).max() + 1e-10 * np.abs(found.endmembers).max(), name
        for number, other in ((1, 2), (2, 1)):
            if name.endswith(f"detector {number}"):
                assert not found.parameters[:, own[other], k].any(), name


def test_names_of_parameters():
    model = make_model()
    before = model.parameters()
    for name, parameter in adjustables(model).items():
        value = float(parameter.of(model))
        changed = adjusted(model, {name: 1.1 * value or 1e-6}).parameters()
        assert changed[name].value == pytest.approx(1.1 * value or 1e-6, rel=1e-5)
        others = {n: entry for n, entry in changed.items() if entry != before[n]}
        # the thickness follows the mass-thickness, the words for the efficiency its layers
        assert {n.split(" of ")[0] for n in others} <= {
            name.split(" of ")[0], "thickness", "efficiency"
        }  # fmt: skip
        assert all(n.split(" of ")[1:] == name.split(" of ")[1:] for n in others)
    assert "noise_fwhm of detector 2" in adjustables(model)
    assert model.meant("noise_fwhm") == ("noise_fwhm of detector 1", "noise_fwhm of detector 2")
    assert model.meant("sensitivity") == ("sensitivity of detector 2",)
    assert model.meant("fano of detector 2") == ("fano of detector 2",)
    assert model.meant("mass_thickness") == ("mass_thickness",)
    thicker = adjusted(model, {"mass_thickness": 2e-4})
    assert [float(p.mass_thickness) for p in thicker.parts] == pytest.approx([2e-4] * 2)
    nothing = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: m.detectors[1].take_off_angle, nothing, True)
    assert _of_filter(model, spec) == ["take_off_angle of detector 2"]


def test_parts_are_switched_on_for_the_detector_that_is_named():
    model = switched_on(make_model(), ["tail_depth of detector 2", "Si K ratio"], np.ones(200))
    assert model.parts[0].detector.response is None
    assert "shelf_depth of detector 2" in adjustables(model)
    assert [n for n in adjustables(model) if n.startswith("Si")] == ["Si K ratio", "Si K energy"]
    changed = adjusted(model, {"Si K ratio": 1.2})
    assert [float(p.line_corrections.ratio[0]) for p in changed.parts] == pytest.approx([1.2] * 2)


def test_sensitivity_from_solid_angles():
    images = make_images()
    model = ej.JointModel.from_images(images, ELEMENTS, stray=["Al"])
    assert model.parameters()["sensitivity of detector 2"] == (1.0, "", "default")
    told = [
        dataclasses.replace(
            one, acquisition=dataclasses.replace(one.acquisition, solid_angle=s, live_time=t)
        )
        for one, s, t in zip(images, (0.2, 0.3), (100.0, 80.0), strict=True)
    ]
    known = ej.JointModel.from_images(told, ELEMENTS)
    parameter = known.parameters()["sensitivity of detector 2"]
    assert parameter.value == pytest.approx(1.2)
    assert parameter.source == "read from the file"
    sds = [
        float(adjustables(m)["sensitivity of detector 2"].usual_prior(m).sd) for m in (model, known)
    ]
    assert sds == pytest.approx([1.0, 0.1])
    assert [float(p.take_off_angle) for p in known.parts] == pytest.approx([20.0, 65.0])


# --- images


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_join_and_take_apart(storage):
    dose = np.arange(1.0, 17.0)
    images = [
        dataclasses.replace(
            one,
            counts=ej.as_counts(
                one.counts.to_dense(), scan_shape=(4, 4), storage=storage, exposure=dose
            ),
        )
        for one in make_images()
    ]
    image = ej.join_detectors(images)
    cube = np.concatenate([one.counts.to_dense() for one in images], 1)
    assert image.shape == (4, 4, 210)
    assert image.counts.is_sparse == (storage == "sparse")
    np.testing.assert_array_equal(image.counts.to_dense(), cube)
    np.testing.assert_array_equal(image.counts.exposure, dose)
    assert image.provenance["elevation of detector 2"].value == 65.0
    assert image.provenance["beam energy"].value == 200.0
    assert [a.elevation for a in image.acquisitions] == [20.0, 65.0]
    assert image.notes == ("left out", "detector 1: seen at 20°", "detector 2: seen at 65°")
    for number, one in enumerate(images, 1):
        again = image.of_detector(number)
        np.testing.assert_array_equal(again.counts.to_dense(), one.counts.to_dense())
        assert again.provenance == one.provenance
        assert again.acquisition == one.acquisition
    cut = image.crop_energy(0.5, 1.5)
    assert cut.shape == (4, 4, 51 + 50)
    ends = np.asarray(cut.energy_axis.centres)[[0, 50, 51, 100]]
    np.testing.assert_allclose(ends, [0.5, 1.5, 0.51, 1.49], rtol=1e-6)
    one = images[1].crop_energy(0.5, 1.5)
    np.testing.assert_array_equal(cut.of_detector(2).counts.to_dense(), one.counts.to_dense())
    assert cut.provenance["energy offset of detector 2"].value == pytest.approx(0.51)
    small = image.crop_region(0, 2, 0, 4).bin(2)
    np.testing.assert_array_equal(small.counts.to_dense()[0], cube[[0, 1, 4, 5]].sum(0))
    assert small.of_detector(1).shape == (1, 2, 100)


# --- fits


@pytest.mark.slow
def test_two_halves_of_one_detector_are_that_detector(x64):
    """With the same counts in both halves, the optimum and its curvature are those of the sum."""
    part = make_part(thickness=None, density=None)
    image = make_image(part)
    half = ej.as_counts(image.counts.to_dense().reshape(4, 4, -1) // 2)
    halved = dataclasses.replace(image, counts=half, truth=None)
    whole = dataclasses.replace(halved, counts=ej.as_counts(2 * half.to_dense().reshape(4, 4, -1)))
    model = ej.JointModel.of([part, part], [1.0])
    found = [
        quick_fit(i, m, 2, tol=1e-7, **known(m, image.truth))
        for i, m in ((whole, part), (ej.join_detectors([halved, halved]), model))
    ]
    one, two = (s.dataset for s in found)
    assert all(s.converged for s in found)
    np.testing.assert_allclose(two["composition"], one["composition"], atol=1e-3)
    np.testing.assert_allclose(two["composition_stderr"], one["composition_stderr"], rtol=1e-4)
    np.testing.assert_allclose(2 * two["H"], one["H"], rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_compositions_are_recovered_with_smaller_errors_than_by_either_detector():
    model, pulls = make_model(), []
    for seed in range(3):
        image = make_image(model, seed=seed, dose=2000.0)
        truth = 100 * np.asarray(image.truth.composition)
        joint = quick_fit(image, model, 2, **known(model, image.truth)).dataset
        error = joint["composition_stderr"].values
        pulls.append((joint["composition"].values - truth) / np.maximum(error, 0.05))
        for number, part in enumerate(model.parts if seed == 0 else (), 1):
            own = quick_fit(image.of_detector(number), part, 2, **known(part, image.truth))
            assert (error[:2] < own.dataset["composition_stderr"].values[:2]).all()
    # 18 numbers that are about standard normal, fewer of them independent
    assert np.abs(pulls).max() < 3.5
    assert np.sqrt(np.mean(np.square(pulls))) < 1.6


@pytest.mark.slow
def test_two_angles_determine_the_mass_thickness():
    """Of elements with one line each, whose amounts and absorption one spectrum can hardly part."""
    true = make_model()
    believed = adjusted(true, {"mass_thickness": 8e-5})
    names = ["mass_thickness"]
    for seed in range(3):
        image = make_image(true, PHASES[:1], seed, 1, 3e5)
        joint = ej.refine(image, believed, parameters=names).parameters["mass_thickness"]
        assert abs(joint.after - 1.4e-4) < 3 * joint.stderr
        assert joint.determined
        for number, part in enumerate(believed.parts if seed == 0 else (), 1):
            one = ej.refine(image.of_detector(number), part, parameters=names)
            assert joint.stderr < 0.5 * one.parameters["mass_thickness"].stderr


@pytest.mark.slow
def test_everything_of_each_detector_is_refined_with_the_sensitivity():
    true, believed = make_model(), make_model([0.5])
    wrong = {"energy_offset of detector 2": 0.257, "noise_fwhm of detector 1": 45.0}
    true = adjusted(true, wrong)
    image = make_image(true, PHASES[:1], 0, 1, 3e5)
    names = ["energy_offset", "noise_fwhm", "sensitivity"]
    result = ej.refine(image, believed, parameters=names)
    assert list(result.parameters) == [
        "energy_offset of detector 1", "energy_offset of detector 2", "noise_fwhm of detector 1",
        "noise_fwhm of detector 2", "sensitivity of detector 2",
    ]  # fmt: skip
    for name, found in result.parameters.items():
        assert abs(found.after - adjustables(true)[name].of(true)) < 3.5 * found.stderr, name
        assert result.model.parameters()[name].source == "refined"
    assert result.deviance_after / result.dof < 1.3
    assert result.deviance_before / result.dof_before > 3
    assert list(np.unique(result.dataset["detector"])) == [1, 2]


@pytest.mark.slow
def test_the_other_losses_and_what_follows(example):
    model, image, solution = example
    off = adjusted(model, {"noise_fwhm of detector 2": 80.0, "sensitivity of detector 2": 0.5})
    names = ["noise_fwhm of detector 2", "sensitivity"]
    for loss in ("pools", "pixels"):
        result = ej.refine(image, off, solution, names, loss=loss)
        for name, found in result.parameters.items():
            expected = float(adjustables(model)[name].of(model))
            assert abs(found.after - expected) < 4 * found.stderr, (loss, name)
    changes = propagate(image, result.model, solution, result)
    assert "take_off_angle of detector 1" in changes["parameter"].values
    total, own = changes["composition_stderr_total"].values, changes["composition_stderr"].values
    assert (total >= own).all()
    told = [expected_errors(m, "MgSiO3", 1e4) for m in (model, *model.parts)]
    # as many counts of all detectors together as of each: between the two, nearly
    errors = [t["composition_stderr"].values[0] for t in told]
    assert (errors[0] < 1.02 * np.maximum(errors[1], errors[2])).all()


# --- results


def test_results_tell_the_detectors_apart(example, tmp_path):
    model, _, solution = example
    assert not [w for w in solution.warnings if "poor" in w]
    solution.save(tmp_path / "solution.nc")
    again = ej.Solution.load(tmp_path / "solution.nc")
    for one in (solution, again):
        np.testing.assert_array_equal(one.dataset["detector"], np.repeat([1, 2], 100))
        assert isinstance(one.energy_axis, StackedAxis)
        np.testing.assert_allclose(
            one.energy_axis.centres, model.energy_axis.centres, rtol=1e-5, atol=1e-6
        )
        assert one.basis.columns == model.columns
        assert one.parameters["take-off angle of detector 2"].value == pytest.approx(65.0)
        assert one.parameters["mass-thickness"].value == pytest.approx(1.4e-4)
    np.testing.assert_array_equal(again.dataset["G"], solution.dataset["G"])
    mixed = solution.pixel_composition()["composition"].values
    np.testing.assert_allclose(mixed.sum(0), 100.0, rtol=1e-5)
    told = json.loads(solution.dataset.attrs["columns"])
    for record in told:
        record.pop("detector")
    older = solution.dataset.assign_attrs(columns=json.dumps(told))
    assert {c.detector for c in ej.Solution(older).basis.columns} == {None}


def test_amounts_are_by_the_dose_of_the_first_detector(example):
    """H is per unit of G of the first detector, whatever the others count."""
    model, image, _ = example
    told = [
        dataclasses.replace(a, beam_current=1.0, dwell_time=0.1, solid_angle=angle)
        for a, angle in zip(image.acquisitions, (0.2, 0.3), strict=True)
    ]
    known_image = dataclasses.replace(image, acquisition=told[0], further_acquisitions=(told[1],))
    record = joined_provenance(
        [{"solid angle": ej.Provenance(a.solid_angle, "sr", "given")} for a in told]
    )
    known_image = dataclasses.replace(known_image, provenance={**image.provenance, **record})
    solution = quick_fit(known_image, model, 2, **known(model, image.truth))
    assert "solid angle" not in solution.parameters
    assert solution.dose.solid_angle == 0.2
    electrons = 1e-9 * 0.1 / 1.602176634e-19
    atoms = solution.dataset["H"].values / (electrons * 0.2 / (4 * np.pi) * 1e-10)
    np.testing.assert_allclose(solution.dataset["atoms_per_area"], atoms, rtol=1e-5)
    thicker = with_mass_thickness(model, solution)
    assert {float(p.mass_thickness) for p in thicker.parts} == {float(thicker.mass_thickness)}
    assert thicker.parameters()["mass_thickness"].source == "derived"


def test_no_line_of_a_figure_runs_back(example):
    data = example[2].dataset
    refinement = data.assign(fit_sum_before=data["fit_sum"].sum("phase")).assign(
        fit_sum=data["fit_sum"].sum("phase")
    )
    figures = {
        "spectra": (plot.plot_spectra(data), 4),
        "phases": (plot.plot_phase_spectra(data), 4),
        "basis": (plot.plot_basis(data), 6),
        "refinement": (plot.plot_refinement(refinement), 6),
    }
    for name, (figure, panels) in figures.items():
        assert len(figure.axes) == panels, name
        sizes = set()
        for axes in figure.axes:
            for line in axes.lines:
                x = np.asarray(line.get_xdata(), float)
                if len(x) > 50:
                    assert (np.diff(x) > 0).all(), name
                    sizes.add(len(x))
        assert max(sizes) == 100, name
        words = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert {1, 2} == {k for k in (1, 2) if any(f"detector {k}" in w for w in words)}, name


def test_a_poor_fit_says_of_which_detector():
    fit = np.full(200, 1e4)
    counts = fit.copy()
    counts[150] = 2e4
    (poor,) = of_misfit(make_model(), counts, fit)
    assert "the most at 1.30 keV of detector 2;" in poor


# --- what is refused


@pytest.mark.parametrize(
    ("parts", "options", "sentence"),
    [
        ([{}], {}, "at least two detectors; 1 were given"),
        ([{}, {"elements": ["O", "Si"]}], {}, "Detector 2 has the elements O, Si"),
        ([{}, {"beam_energy": 100.0}], {}, "beam energy is 100 keV for detector 2"),
        ([{}, {"density": 3.0}], {}, "mass-thickness is 0.00012 g/cm² for detector 2"),
        ([{}, {"thickness": None, "density": None}], {}, "mass-thickness is none for detector 2"),
        ([{}, {}], {"sensitivity": [1.0, 0.5]}, "2 sensitivities are given for 2 detectors"),
        ([{}, {}], {"sensitivity": [0.0]}, "sensitivity of detector 2 is 0"),
        (
            [{}, {"reference_composition": ej.Composition.from_formula("MgO")}],
            {},
            "another reference composition",
        ),
    ],
)
def test_models_that_are_not_of_one_scan(parts, options, sentence):
    with pytest.raises(ej.InputError, match=sentence):
        ej.JointModel.of([make_part(**own) for own in parts], **options)


def test_models_that_differ_in_what_is_split_or_corrected():
    split = make_part(elements=["O", "Fe"], size=400, split={"Fe": 2.0})
    plain = make_part(elements=["O", "Fe"], size=400)
    with pytest.raises(ej.InputError, match="other elements split"):
        ej.JointModel.of([split, plain])
    joint = ej.JointModel.of([split, split])
    assert [c.label for c in joint.columns[:3]] == ["O", "Fe<2keV", "Fe"]
    with pytest.raises(ej.InputError, match="add them to the joint model"):
        ej.JointModel.of([plain, plain.with_line_groups("Fe K")])
    with pytest.raises(ej.InputError, match="no line Mg M"):
        make_model().with_line_groups("Mg M")


def test_images_that_are_not_of_one_scan(tmp_path):
    one, two = make_images()
    image, uneven = ej.join_detectors([one, two]), make_model(uneven=True)
    dose = eqx.tree_at(
        lambda i: i.counts.exposure, two, jnp.arange(16.0) + 1, is_leaf=lambda x: x is None
    )
    slow = dataclasses.replace(
        two, acquisition=dataclasses.replace(two.acquisition, beam_energy=80.0)
    )
    for images, sentence in (
        ([one], "1 image cannot be joined"),
        ([one, image], "Image 2 holds the spectra of several detectors"),
        ([one, two.crop_region(0, 2, 0, 4)], "detector 2 has 2 × 4 pixels"),
        ([one, dataclasses.replace(two, pixel_size=(2.0, 2.0))], "another size or place"),
        ([one, slow], "80.0 keV for detector 2"),
        ([one, dose], "exposure of detector 2"),
    ):
        with pytest.raises(ej.InputError, match=sentence):
            ej.join_detectors(images)
    for wrong, sentence in (
        (lambda: image.of_detector(3), "no detector 3; it holds the spectra of 2"),
        (lambda: ej.EDSModel.from_image(image, ELEMENTS), "build a JointModel"),
        (lambda: ej.save_image(image, tmp_path / "scan.hspy"), "spectra of 2 detectors"),
        (
            lambda: ej.refine(image, uneven, parameters=["gain"]),
            "'gain of detector 1'",
        ),
        (
            lambda: ej.JointModel.from_images([one, two], ELEMENTS, take_off_angles=[20.0]),
            "1 take-off angles are given for 2 images",
        ),
    ):
        with pytest.raises(ej.InputError, match=sentence):
            wrong()
