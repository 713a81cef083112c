"""Physical parameters by the counts: derivatives, recovery, errors, and what is refused."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import esmpy_jax as ej
from esmpy_jax.inference import expected_errors, propagate
from esmpy_jax.inference._pools import pooled_amounts
from esmpy_jax.inference._refine import _of_filter
from esmpy_jax.inference._scoring import best_abundances, excess, score
from esmpy_jax.inference._tangents import parametrised, spectra, tangents
from esmpy_jax.model import (
    Exponential,
    LogitNormal,
    LogNormal,
    Normal,
    adjustables,
    adjusted,
    switched_on,
)
from esmpy_jax.physics import (
    Detector,
    IncompleteCharge,
    Layer,
    LayeredEfficiency,
    Resolution,
    Response,
    SiliconEscape,
    detector_window,
)
from esmpy_jax.simulate import Phase, simulate

PHASES = (
    Phase("silicate", {"O": 60, "Mg": 20, "Si": 20}, density=3.2, bremsstrahlung=0.3),
    Phase("oxide", {"O": 50, "Mg": 10, "Fe": 40}, density=5.0, bremsstrahlung=0.3),
)


def make_model(response=None, thickness=150, size=500, **options):
    windows = (Layer.of("Al", 2.70, 30), Layer.of("Si", 2.33, 60))
    efficiency = LayeredEfficiency(windows, detector_window("windowless").active)
    return ej.EDSModel.from_axis(
        ej.EnergyAxis(0.3, 0.02, size),
        ["O", "Mg", "Si", "Fe"],
        beam_energy=200.0,
        detector=Detector(efficiency, Resolution.from_mn_ka(130.0), response),
        take_off_angle=22.0,
        thickness=thickness,
        density=4.0,
        **options,
    )


def full_response():
    return Response(IncompleteCharge(80.0, 20.0, 0.05), SiliconEscape())


def one_phase(model, seed=0, dose=2e5):
    """Two pixels of the silicate."""
    return simulate(model, PHASES[:1], np.ones((1, 1, 2)), dose, key=jax.random.key(seed))


def two_phases(model, seed=0, size=8, dose=2000.0):
    """Left half silicate, right half oxide, some mixed between them."""
    share = np.clip(np.linspace(-0.5, 1.5, size), 0, 1)[None, :].repeat(size, 0)
    return simulate(model, PHASES, np.stack([1 - share, share]), dose, key=jax.random.key(seed))


def as_believed(image, model):
    """The image with the energy axis of another model."""
    return dataclasses.replace(image, energy_axis=model.energy_axis)


WRONG = {
    "energy_offset": 0.31,
    "energy_gain": 0.02003,
    "noise_fwhm": 56.0,
    "fano": 0.13,
    "mass_thickness": 9e-5,
    "window_Si": 80.0,
}


# --- priors and names


@pytest.mark.parametrize(
    "prior",
    [
        lambda: Normal(2.0, 0.5),
        lambda: LogNormal(2.0, 0.5),
        lambda: LogitNormal(2.0, 0.5, -1.0, 5.0),
        lambda: Exponential(2.0),
    ],
    ids=["normal", "log-normal", "logit-normal", "exponential"],
)
def test_a_prior_keeps_its_parameter_in_bounds_and_inverts(x64, prior):
    prior = prior()
    u = np.array([-4.0, -1.0, 0.0, 0.3, 5.0])
    values = np.array([float(prior.value(x)) for x in u])
    assert (np.diff(values) > 0).all()
    assert values[2] == pytest.approx(2.0)
    np.testing.assert_allclose([float(prior.coordinate(v)) for v in values], u, atol=1e-9)
    numeric = (float(prior.value(0.3 + 1e-5)) - float(prior.value(0.3 - 1e-5))) / 2e-5
    assert float(prior.slope(0.3)) == pytest.approx(numeric, rel=1e-8)
    if isinstance(prior, LogitNormal):
        assert values.min() > -1
        assert values.max() < 5
    elif isinstance(prior, LogNormal | Exponential):
        assert values.min() > 0
    if isinstance(prior, Exponential):  # its distribution at the values of u
        np.testing.assert_allclose(1 - 0.5 ** (values / 2.0), norm.cdf(u), rtol=1e-6)


@pytest.mark.parametrize(
    ("prior", "values"),
    [(Normal, (1.0, 0.0)), (LogNormal, (0.0, 1.0)), (LogitNormal, (1.0, 1.0))],
)
def test_impossible_priors(prior, values):
    with pytest.raises(ej.InputError):
        prior(*values)


def test_every_parameter_is_found_by_name_and_can_be_changed():
    names = ["continuum_correction_2", "efficiency_correction_1", "pile_up_share", "Fe L ratio"]
    model = switched_on(make_model(full_response()), names, np.ones(500))
    model = model.with_line_groups("Mg K-M")
    for name, parameter in adjustables(model).items():
        value = float(parameter.of(model))
        new = 1.1 * value if value else 0.01
        changed = adjusted(model, {name: new})
        assert float(parameter.of(changed)) == pytest.approx(new, rel=1e-6), name
        others = {n: p for n, p in adjustables(changed).items() if n != name}
        for other, same in others.items():
            assert float(same.of(changed)) == float(same.of(model)), (name, other)
        assert changed.parameters()[name].value == pytest.approx(new, rel=1e-6)


def test_parts_are_switched_on_without_a_change_where_they_can_be():
    model = make_model()
    names = ["continuum_correction_3", "efficiency_correction_2", "Mg K-M ratio", "Fe energy"]
    model = switched_on(model, names[:3], np.ones(500))
    np.testing.assert_allclose(model.basis().matrix, make_model().basis().matrix, rtol=1e-6)
    assert model.detector.response is None
    with pytest.raises(ej.InputError, match="names no group of lines"):
        switched_on(model, names, np.ones(500))
    with pytest.raises(ej.InputError, match="no line Mg M"):
        model.with_line_groups("Mg M")


def test_corrections_of_lines_do_what_they_say():
    model = make_model().with_line_groups("Fe K-M", "Mg K")
    plain = np.asarray(make_model().basis().matrix)
    more = np.asarray(adjusted(model, {"Fe K-M ratio": 2.0}).basis().matrix)
    difference = (more - plain)[:, 3]
    energy = np.asarray(model.energy_axis.centres)
    assert abs((energy * difference).sum() / difference.sum() - 7.06) < 0.01
    k_m = [n.startswith("K-M") for n in model.lines.name]
    own = (model.lines.atomic_number == 26) & np.array(k_m)
    share = model.lines.cross_section[own].sum() / 1e-24
    assert difference.sum() == pytest.approx(share, rel=0.02)  # the efficiency is 1 within 2 %
    moved = np.asarray(adjusted(model, {"Mg K energy": 5.0}).basis().matrix)[:, 1]
    mean = [(energy * m).sum() / m.sum() for m in (moved, plain[:, 1])]
    assert mean[0] - mean[1] == pytest.approx(0.005, rel=0.01)


def test_magnesium_has_its_valence_line():
    """Free atoms have no 3p electron to fill the K shell; the solid emits from its valence band."""
    lines = ej.atomic.emission_lines(["Mg"], 200.0).of("Mg")
    valence = [n.startswith("K-M") for n in lines.name]
    assert lines.energy[valence] == pytest.approx(1.3022)
    k = np.array([f == "K" for f in lines.family])
    assert lines.cross_section[valence].sum() / lines.cross_section[k].sum() == pytest.approx(0.02)


# --- derivatives


@pytest.mark.parametrize("weighted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_spectra_are_those_of_the_basis(weighted):
    model = make_model(full_response())
    if not weighted:
        model = dataclasses.replace(model, mass_thickness=None)
    weights = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (len(model.columns), 2)), float)
    expected = model.basis(weights).endmembers(weights)
    np.testing.assert_allclose(model.endmembers(weights), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("double", "tolerance"),
    [(True, 1e-6), (False, 1e-2)],
)
@pytest.mark.slow
def test_derivatives_by_weights_and_parameters(double, tolerance):
    """Of either precision, against central differences in double precision."""
    names = ["continuum_correction_2", "efficiency_correction_1", "Fe L ratio", "Mg K-M energy"]
    names += ["pile_up_share"]
    spectrum = 1e3 * np.exp(-np.arange(200) / 40)
    rng = np.random.default_rng(1)

    def problem():
        model = switched_on(make_model(full_response(), size=200), names, spectrum)
        # no channel centred on an absorption edge, no zero energy on one: there G has a kink
        model = adjusted(model, {"energy_offset": 0.3033})
        every, start = parametrised(model)
        return every, jnp.asarray(start, float), jnp.asarray(weights, float)

    weights = rng.uniform(0.1, 1, (len(make_model().columns), 2))
    with jax.enable_x64(double):
        every, u, w = problem()
        found = jax.tree.map(np.asarray, tangents(every, u, w, range(len(u))))
    assert found.endmembers.dtype == (np.float64 if double else np.float32)
    assert found.weights.shape == (2, 200, len(weights))
    assert found.parameters.shape == (2, 200, len(u))
    scale = np.abs(found.endmembers).max()
    h = 1e-4
    with jax.enable_x64(True):
        every, u, w = problem()

        def differences(move):
            ends = [np.asarray(spectra(every, *move(s * h))[0]) for s in (1, -1)]
            return (ends[0] - ends[1]).T / (2 * h)

        for k, name in enumerate(every.names):
            numeric = differences(lambda x, k=k: (u.at[k].add(x), w))
            size = max(np.abs(numeric).max(), 1e-3 * scale)
            error = np.abs(found.parameters[:, :, k] - numeric).max()
            assert error < tolerance * size + 10 * h**2 * size, name
        for j in range(len(weights)):
            numeric = differences(lambda x, j=j: (u, w.at[j].add(x)))
            error = np.abs(found.weights[:, :, j] - numeric).max()
            assert error < tolerance * np.abs(numeric).max()


@pytest.mark.parametrize("values", [{"mass_thickness": 0.0}, {"energy_offset": 0.5320}])
def test_derivatives_are_finite_without_a_sample_and_with_a_channel_on_an_edge(values):
    """0.532 keV is the K edge of oxygen, where attenuation has a step."""
    model = make_model(size=100)

    def total(offset, thickness):
        axis = eqx.tree_at(lambda a: a.offset, model.energy_axis, offset)
        changed = dataclasses.replace(model, energy_axis=axis, mass_thickness=thickness)
        return changed.endmembers(jnp.full((len(model.columns), 1), 0.2)).sum()

    at = [values.get("energy_offset", 0.3), values.get("mass_thickness", 6e-5)]
    slopes = jax.jit(jax.grad(total, (0, 1)))(*(jnp.asarray(x) for x in at))
    assert np.isfinite(slopes).all()
    assert slopes[1] < 0  # the more sample, the fewer photons leave it


# --- refinement


@pytest.fixture(scope="module")
def problem():
    """What is believed, what is true, and an image of the truth."""
    believed = make_model()
    true = adjusted(believed, WRONG)
    return believed, true, as_believed(one_phase(true), believed)


def test_a_wrong_detector_is_put_right(problem):
    believed, _, image = problem
    before = believed.parameters()
    result = ej.refine(image, believed, parameters=list(WRONG))
    assert result.converged
    assert result.loss == "summed"
    assert believed.parameters() == before
    assert (np.diff(result.trace) <= 1e-3).all()
    for name, value in WRONG.items():
        found = result.parameters[name]
        assert found.before == pytest.approx(before[name].value, rel=1e-5)
        assert abs(found.after - value) < 3.5 * found.stderr, name
        assert result.model.parameters()[name].value == pytest.approx(found.after, rel=1e-5)
        assert result.model.parameters()[name].source == "refined"
        assert result.values[name] == found.after
    assert result.deviance_before / result.dof_before > 3
    # chi-squared of about 480 degrees of freedom has a standard deviation of 0.065
    assert abs(result.deviance_after / result.dof - 1) < 0.25
    positive = int((result.dataset["W"].values > 0).sum())
    assert result.dof == 500 - positive - len(WRONG)
    fit = result.dataset["fit_sum"].values
    assert fit.sum() == pytest.approx(image.counts.total, rel=1e-3)
    total, own = (
        result.dataset[f"composition_stderr{x}"].sel(element="O").item() for x in ("_total", "")
    )
    assert total > own > 0
    off = result.dataset["composition"].sel(element="O").item() - 60
    assert abs(off) < 3.5 * total


@pytest.mark.slow
def test_the_same_with_every_pixel_and_with_pools():
    """Phases that absorb differently, each by its own composition."""
    true = adjusted(make_model(), WRONG)
    image = as_believed(two_phases(true), true)
    solution = ej.fit(image, true, 2, solver=ej.VariableProjectionNewton(), max_steps=200)
    names = ["energy_offset", "noise_fwhm", "mass_thickness"]
    start = adjusted(true, {"energy_offset": 0.3, "noise_fwhm": 50.0, "mass_thickness": 6e-5})
    pools = ej.refine(image, start, solution, names)
    assert pools.loss == "pools"
    for result in (pools, ej.refine(image, start, solution, names, loss="pixels")):
        assert result.converged
        for name in names:
            found = result.parameters[name]
            assert abs(found.after - WRONG[name]) < 4 * found.stderr, name
        assert list(result.dataset["phase"].values) == list(solution.dataset["phase"].values)


def test_a_filter_and_priors_of_ones_own(problem):
    believed, _, image = problem
    nothing = jax.tree.map(lambda _: False, believed)
    axis = jax.tree.map(lambda _: True, believed.energy_axis)
    wanted = eqx.tree_at(lambda m: m.energy_axis, nothing, axis)
    by_filter = ej.refine(image, believed, parameters=wanted, max_steps=2)
    assert list(by_filter.parameters) == ["energy_offset", "energy_gain", "energy_quadratic"]
    tight = {"energy_offset": Normal(0.3, 1e-7), "energy_gain": None}
    held = ej.refine(image, believed, parameters=tight, max_steps=2)
    offset = held.parameters["energy_offset"]
    assert offset.after == pytest.approx(0.3, abs=1e-5)
    assert not offset.determined
    assert "do not determine energy_offset" in " ".join(held.notes)
    assert not held.converged
    assert "stopped before" in held.notes[0]


def test_parameters_that_cannot_be_told_apart_are_named(problem):
    believed, _, image = problem
    pair = ["take_off_angle", "mass_thickness"]
    wide = {"take_off_angle": LogitNormal(22.0, 0.5, 0.0, 90.0), "mass_thickness": None}
    result = ej.refine(image, believed, parameters=dict.fromkeys(WRONG) | wide)
    note = [n for n in result.notes if "told apart" in n]
    assert note
    assert all(name in note[0] for name in pair)
    assert result.correlation.shape == (7, 7)
    np.testing.assert_allclose(np.diag(result.correlation), 1, rtol=1e-6)


def test_the_default_set_depends_on_the_model(problem):
    believed, _, image = problem
    thin = dataclasses.replace(believed, mass_thickness=None)
    result = ej.refine(image, thin, max_steps=1)
    assert "mass_thickness" not in result.parameters
    assert {"energy_offset", "fano", "tail_depth"} <= set(result.parameters)


@pytest.mark.slow
def test_the_first_look_at_a_right_model_moves_nothing():
    """A detector without tail, of which the first look asks: what else it asks stays true."""
    model = make_model()
    pulls = []
    for seed in range(4):
        result = ej.refine(one_phase(model, seed, dose=4e4), model)
        found = result.parameters["mass_thickness"]
        data = result.dataset
        error = data["composition_stderr_total"].values[0, 0]
        pulls.append(
            [(found.after - 6e-5) / found.stderr, (data["composition"].values[0, 0] - 60) / error]
        )
        assert result.deviance_after < result.deviance_before
        assert np.isnan(result.parameters["tail_depth"].before)
    # each about standard normal, so that the mean of four is so within 0.5
    assert np.abs(np.mean(pulls, 0)).max() < 1.5
    assert np.abs(pulls).max() < 3.5


def test_what_is_not_named_is_not_switched_on():
    model, spectrum = make_model(), np.ones(500)
    only = switched_on(model, ["shelf_depth"], spectrum).parameters()
    assert (only["tail_depth"].value, only["shelf_depth"].value) == (0, 10)
    only = switched_on(model, ["tail_depth"], spectrum).parameters()
    assert (only["tail_depth"].value, only["shelf_depth"].value) == (100, 0)
    with pytest.raises(ej.InputError, match="at most continuum_correction_8"):
        switched_on(model, ["continuum_correction_9"], spectrum)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parameters": ["gain"]}, "no parameter 'gain'"),
        ({"parameters": []}, "No parameter is named"),
        ({"parameters": "fano"}, "are the text 'fano'"),
        ({"parameters": ["fano"], "optimiser": optax.lbfgs()}, "asks for values of the loss"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"tol": np.nan}, "tol is nan"),
        ({"loss": "all"}, "The loss is 'all'"),
        ({"loss": "pools"}, "needs the phases of a solution"),
        ({"parameters": ["tail_depth"], "response": True}, "cannot be refined by factors"),
    ],
)
def test_what_cannot_be_refined(problem, options, sentence):
    believed, _, image = problem
    if options.pop("response", False):
        detector = dataclasses.replace(
            believed.detector, response=Response(IncompleteCharge(0.0, 0.0))
        )
        believed = dataclasses.replace(believed, detector=detector)
    with pytest.raises(ej.InputError, match=sentence):
        ej.refine(image, believed, **options)


@pytest.mark.slow
def test_errors_are_those_of_repeated_measurements(problem):
    """z of parameters and compositions over images of the same truth has unit variance.

    With 24 images the standard deviation of one z scatters by 0.15; bounds are 2.5 times that.
    """
    _, true, _ = problem
    names = ["energy_offset", "noise_fwhm", "fano", "mass_thickness"]
    # the prior is wide, so that it pulls by much less than an error
    start = adjusted(true, {"energy_offset": 0.3, "noise_fwhm": 50.0})
    scores, atoms, errors = [], [], []
    for seed in range(24):
        image = as_believed(one_phase(true, seed=100 + seed), true)
        result = ej.refine(image, start, parameters=names)
        assert result.converged
        each = [(result.parameters[n], WRONG[n]) for n in names]
        scores.append([(found.after - exact) / found.stderr for found, exact in each])
        atoms.append(result.dataset["composition"].values[:3, 0])
        errors.append(result.dataset["composition_stderr_total"].values[:3, 0])
    scores = np.concatenate([scores, (np.array(atoms) - [60, 20, 20]) / errors], axis=1)
    spread = np.sqrt((scores**2).mean(0))
    assert spread.min() > 0.62, spread
    assert spread.max() < 1.4, spread


@pytest.mark.slow
def test_what_a_parameter_does_to_a_solution(x64):
    """Predicted changes of at% against W fitted again with the changed parameter, maps kept."""
    true = make_model()
    image = as_believed(two_phases(true), true)
    solution = ej.fit(image, true, 2, solver=ej.VariableProjectionNewton(), max_steps=200)
    told = propagate(image, true, solution)
    spectra_now = np.asarray(solution.basis.endmembers(solution.weights))
    counts, amounts = pooled_amounts(image.counts, spectra_now, np.asarray(solution.abundances))
    every, start = parametrised(true)

    def composition(u):
        options = {"held_abundances": True, "max_steps": 50, "tol": 1e-5}
        fit = score(counts, every, np.asarray(solution.weights, float), amounts, u, (), **options)
        atoms = fit.point.weights[:4]
        return 100 * atoms / atoms.sum(0)

    plain = composition(start)
    for name in ("mass_thickness", "window_Si", "fano"):
        value = float(adjustables(true)[name].of(true))
        k = every.names.index(name)
        moved = start.copy()
        moved[k] = float(every.priors[k].coordinate(1.1 * value))
        predicted = told["composition_sensitivity"].sel(parameter=name).values
        assert told["step"].sel(parameter=name).item() == "10 %"
        # the change is linear to a tenth of itself
        np.testing.assert_allclose(
            composition(moved) - plain, predicted, atol=0.1 * np.abs(predicted).max() + 2e-3
        )
    assert float(told["composition_stderr_physics"].max()) == 0
    refined = ej.refine(image, true, solution, ["mass_thickness", "window_Si"])
    with_errors = propagate(image, refined.model, solution, refined)
    assert float(with_errors["composition_stderr_physics"].sel(element="O").min()) > 0
    total = with_errors["composition_stderr_total"].values
    assert (total >= with_errors["composition_stderr"].values).all()


def test_the_loss_is_half_the_deviance():
    true = make_model()
    image = two_phases(true)
    counts = image.counts
    weights = jnp.asarray(np.random.default_rng(2).uniform(0.1, 1, (len(true.columns), 2)), float)
    endmembers = true.endmembers(weights)
    start = np.full((2, counts.n_pixels), counts.total / counts.n_pixels)
    maps = best_abundances(counts, endmembers, start / np.asarray(endmembers).sum(), 0.01)
    expected = np.asarray(endmembers, float) @ maps
    seen = counts.to_dense().T.astype(float)
    log = np.where(seen > 0, seen * np.log(np.maximum(seen, 1) / expected), 0)
    assert excess(counts, endmembers, maps) == pytest.approx(
        (expected - seen + log).sum(), rel=1e-5
    )


@pytest.mark.parametrize(
    "optimiser", [optax.lbfgs(linesearch=None), optax.sgd(0.5)], ids=["lbfgs", "sgd"]
)
def test_any_gradient_method_finds_the_same(problem, optimiser):
    believed, _, image = problem
    names = ["energy_offset", "noise_fwhm"]
    start = adjusted(believed, {n: v for n, v in WRONG.items() if n not in names})
    one = ej.refine(image, start, parameters=names)
    other = ej.refine(image, start, parameters=names, optimiser=optimiser)
    assert other.converged
    for name in names:
        found = other.parameters[name]
        # a loss of 0.01 nats is 0.14 standard errors
        assert abs(found.after - one.values[name]) < 0.3 * found.stderr
        assert found.stderr == pytest.approx(one.parameters[name].stderr, rel=0.02)


# --- planning


def test_expected_errors_are_those_that_fits_have():
    model = adjusted(make_model(), WRONG)
    counts = float(one_phase(model).counts.total)
    names = ["mass_thickness", "noise_fwhm"]
    told = expected_errors(model, "MgSiO3", [counts, 100 * counts], continuum=0.3, parameters=names)
    known = expected_errors(model, "MgSiO3", [counts, 100 * counts], continuum=0.3)
    result = ej.refine(as_believed(one_phase(model), model), model, parameters=names)
    for e, symbol in enumerate(("O", "Mg", "Si")):
        # the weights found scatter by a percent, and with them the errors
        for dataset, suffix in ((told, "_total"), (known, "")):
            expected = dataset["composition_stderr"].values[0, e]
            found = result.dataset[f"composition_stderr{suffix}"].sel(element=symbol).item()
            assert found == pytest.approx(expected, rel=0.1)
    ratio = known["composition_stderr"].values[0, :3] / known["composition_stderr"].values[1, :3]
    np.testing.assert_allclose(ratio, 10, rtol=1e-3)
    assert float(told["composition_stderr"].max()) >= float(known["composition_stderr"].max())


@pytest.mark.slow
def test_the_limit_of_detection_is_what_noise_looks_like():
    """Of iron, of which there is none: 3.29 standard deviations of what is found of it."""
    model = make_model()
    told = expected_errors(model, "MgSiO3", 2e5)
    limit = told["detection_limit"].sel(element="Fe").item()
    none = [
        Phase("silicate", {"O": 60, "Mg": 20, "Si": 20}, density=3.2, bremsstrahlung=0.3),
    ]
    found = []
    for seed in range(12):
        image = simulate(model, none, np.ones((1, 1, 1)), 2e5, key=jax.random.key(seed))
        refined = ej.refine(image, model, parameters={"fano": LogNormal(0.12, 1e-6)})
        found.append(refined.dataset["composition"].sel(element="Fe").item())
    # half of the noise is cut off at zero: the root mean square of the rest is that of one side
    spread = np.sqrt(2 * np.mean(np.square(found)))
    assert 0.4 < spread / (limit / 3.29) < 1.8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("MgSiO3", -1.0), "not a positive number"),
        (("CaO", 1e4), "holds Ca"),
        (("MgSiO3", 1e4, "gain"), "no parameter 'gain'"),
    ],
)
def test_what_cannot_be_planned(arguments, sentence):
    options = {"parameters": arguments[2:]}
    with pytest.raises(ej.InputError, match=sentence):
        expected_errors(make_model(), *arguments[:2], **options)


# --- unusual input


def test_columns_that_cannot_be_seen_are_left_at_zero():
    """A column of zeros, one of next to nothing, and absorption that lowers the total."""
    model = ej.EDSModel.from_axis(
        ej.EnergyAxis(0.1, 0.04, 256),
        ["O", "Al", "Pb"],
        beam_energy=200,
        take_off_angle=25,
        thickness=300,
        density=7,
        columns={"none": np.zeros(256), "hardly": 1e-30 * np.exp(-np.arange(256) / 30)},
    )
    phase = Phase("glass", {"O": 60, "Al": 30, "Pb": 10}, density=5, bremsstrahlung=0.3)
    image = simulate(model, [phase], np.ones((1, 1, 1)), 1e5, key=jax.random.key(0))
    result = ej.refine(image, model, parameters=["energy_offset"])
    assert result.converged
    assert abs(result.parameters["energy_offset"].after - 0.1) < 4e-3
    # all lines of oxygen are as good as the amount of it, so that the prior alone is left
    thin = dataclasses.replace(model, mass_thickness=None)
    ratio = ej.refine(image, thin, parameters=["O K ratio"]).parameters["O K ratio"]
    assert not ratio.determined
    assert ratio.stderr == pytest.approx(0.3 * ratio.after, rel=0.02)
    assert np.isfinite(result.dataset["composition"].values).all()


def test_a_prefix_of_a_model_is_a_filter():
    model = make_model()
    nothing = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: m.detector, nothing, False)
    spec = eqx.tree_at(lambda m: m.mass_thickness, spec, True)
    assert _of_filter(model, spec) == ["mass_thickness"]


def test_a_prior_that_rules_the_model_out():
    image = one_phase(make_model())
    with pytest.raises(ej.InputError, match="its prior rules out"):
        ej.refine(image, make_model(), parameters={"take_off_angle": LogitNormal(25, 0.5, 24, 30)})


def test_a_correction_can_be_given_further_terms():
    first = switched_on(make_model(), ["continuum_correction_1"], np.ones(500))
    first = adjusted(first, {"continuum_correction_1": 0.05})
    more = switched_on(first, ["continuum_correction_3"], np.ones(500))
    np.testing.assert_allclose(more.bremsstrahlung.correction.coefficients, [0.05, 0, 0])


def test_an_element_alone_has_no_limit_of_detection():
    told = expected_errors(make_model(), {"Si": 1}, 1e4)
    limits = told["detection_limit"].values[0]
    assert np.isnan(limits[2])
    assert np.isfinite(limits[[0, 1, 3]]).all()
    with pytest.raises(ej.InputError, match="positive ratio for the continuum"):
        expected_errors(make_model(), {"Si": 1}, 1e4, continuum=0.0)
