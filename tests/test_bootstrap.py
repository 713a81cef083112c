"""Draws from a fit, fitted again: their scatter, their bounds, their keys, what is refused."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.stats import chi2

import esmpy_jax as ej
from esmpy_jax.inference._bounded import bounded_step, curvature_of, promised
from esmpy_jax.inference._scoring import score
from esmpy_jax.model import Normal, adjusted
from esmpy_jax.physics import Detector, LayeredEfficiency, Resolution, detector_window
from esmpy_jax.simulate import Phase, simulate

#: Of a refinement, which are quick, and of pools and solutions.
DRAWS, FEW = 120, 48
TRUE = {"energy_offset": 0.302, "noise_fwhm": 52.0}
PHASES = (
    Phase("silicate", {"O": 60, "Mg": 20, "Si": 20}, density=3.2, bremsstrahlung=0.3),
    Phase("oxide", {"O": 50, "Mg": 10, "Ca": 40}, density=5.0, bremsstrahlung=0.3),
)


def make_model():
    return ej.EDSModel.from_axis(
        ej.EnergyAxis(0.3, 0.025, 200),
        ["O", "Mg", "Al", "Si", "Ca"],
        beam_energy=200.0,
        detector=Detector(
            LayeredEfficiency((), detector_window("windowless").active),
            Resolution.from_mn_ka(130.0),
        ),
        take_off_angle=22.0,
    )


def of_truth(shares, dose, phases=PHASES, seed=0):
    """An image of what is true, by whoever believes in `make_model()`."""
    true = adjusted(make_model(), TRUE)
    image = simulate(true, phases, shares, dose, key=jax.random.key(seed))
    return dataclasses.replace(image, energy_axis=make_model().energy_axis)


def mixed(n=6):
    """From one phase to the other, with pure pixels at both ends."""
    share = np.clip(np.linspace(-0.5, 1.5, n), 0, 1)[None, :].repeat(n, 0)
    return np.stack([1 - share, share])


def check_spread(found, error, n=DRAWS):
    """Standard deviations of draws against standard errors: chi-square at 1e-4 on either side."""
    low, high = (np.sqrt(chi2.ppf(p, n - 1) / (n - 1)) for p in (1e-4, 1 - 1e-4))
    ratio = found / error
    assert ratio.min() > low, ratio
    assert ratio.max() < high, ratio


# --- of a refinement


@pytest.fixture(scope="module")
def refined():
    """One phase without calcium."""
    image = of_truth(np.ones((1, 1, 2)), 1e5, PHASES[:1])
    # energy_gain is known better than the counts tell it
    names = {"energy_offset": None, "noise_fwhm": None, "energy_gain": Normal(0.025, 1e-7)}
    found = ej.refine(image, make_model(), parameters=names)
    assert found.converged
    return found


@pytest.fixture(scope="module")
def drawn(refined):
    return ej.bootstrap(refined, key=jax.random.key(1), draws=DRAWS)


@pytest.mark.slow
def test_draws_of_a_refinement_scatter_as_the_standard_errors_claim(drawn):
    """Of well and of hardly determined parameters, and of the elements that are there."""
    assert drawn.attrs["converged_share"] == 1
    assert drawn.attrs["draws"] == DRAWS
    check_spread(drawn["parameter_sd"].values, drawn["parameter_stderr"].values)
    there = drawn.sel(element=["O", "Mg", "Si"], phase="sum")
    check_spread(there["composition_sd"].values, there["composition_stderr"].values)
    # the draws lie around the fit; their means scatter by a root of the draws less
    for name, one in (("parameter_value", "parameter"), ("composition", "composition")):
        off = (there[name].mean("draw") - there[f"{one}_fitted"]) / there[f"{one}_stderr"]
        assert float(abs(off).max()) < 4.5 / np.sqrt(DRAWS)
    offset = drawn["parameter_interval"].sel(parameter="energy_offset")
    half = np.diff(offset.values, axis=1).ravel() / 2 / drawn["parameter_stderr"].values[0]
    np.testing.assert_allclose(half, [0.994, 1.96], rtol=0.3)


@pytest.mark.slow
def test_an_absent_element_has_a_one_sided_interval(refined, drawn):
    calcium = drawn.sel(element="Ca", phase="sum")
    low, high = calcium["composition_interval"].sel(level=0.95).values
    assert low == 0
    assert high > 0
    zeros = float((calcium["composition"] == 0).mean())
    if float(refined.dataset["composition"].sel(element="Ca").item()) == 0:
        assert 0.3 < zeros < 0.7  # a half, and the error of a share
    else:
        assert zeros > 0.05
    gaussian = calcium["composition_fitted"] - 1.96 * calcium["composition_stderr"]
    assert float(gaussian) < 0
    assert float(drawn["W"].min()) >= 0


def test_the_key_decides(refined, drawn):
    same = ej.bootstrap(refined, key=jax.random.key(1), draws=DRAWS)
    np.testing.assert_array_equal(same["W"], drawn["W"])
    other = ej.bootstrap(refined, key=jax.random.key(2), draws=DRAWS)
    assert not np.isin(other["W"].values[:, 0, 0], drawn["W"].values[:, 0, 0]).any()


def test_draws_are_those_that_refine_would_find(refined, drawn):
    """Each by itself, with the search of `refine` and priors whose medians moved."""
    end = refined._end
    point, every = end.found.point, end.parametrised
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(1), i)
        of_counts, of_priors = jax.random.split(key)
        mean = refined.dataset["fit_sum"].values
        counts = jax.random.poisson(of_counts, jax.numpy.asarray(mean, float))
        step = np.asarray(jax.random.normal(of_priors, (len(end.moved),)))
        priors = list(every.priors)
        for k, u in zip(end.moved, point.coordinates[list(end.moved)] + step, strict=True):
            median = priors[k].value(float(u))
            priors[k] = eqx.tree_at(lambda p: p.median, priors[k], median)
        moved = dataclasses.replace(every, priors=tuple(priors))
        start = point.coordinates.copy()
        start[list(end.moved)] = -step
        alone = score(
            ej.as_counts(np.asarray(counts)[None], storage="dense"),
            moved,
            point.weights,
            point.abundances,
            start,
            end.moved,
            held_abundances=True,
            max_steps=50,
            tol=1e-3,
        )
        for k, name in zip(end.moved, refined.parameters, strict=True):
            value = float(priors[k].value(alone.point.coordinates[k]))
            off = value - float(drawn["parameter_value"].sel(parameter=name)[i])
            # 0.01 nats are 0.14 standard errors
            assert abs(off) < 0.2 * refined.parameters[name].stderr, name
        atoms = alone.point.weights[:5, 0]
        off = 100 * atoms / atoms.sum() - drawn["composition"].values[i, :, 0]
        assert (np.abs(off) < 0.2 * drawn["composition_stderr"].values[:, 0]).all()


def test_draws_that_do_not_converge_are_told(refined):
    one = ej.bootstrap(refined, key=jax.random.key(1), draws=DRAWS, max_steps=1, tol=1e-6)
    assert one.attrs["converged_share"] < 0.5
    assert one.attrs["converged_share"] == one["converged"].mean()


def test_the_bounded_step_is_that_of_a_least_squares_solver(x64):
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(0)
    for seed in range(5):
        root = rng.normal(size=(30, 12)) + rng.normal(size=(30, 1))
        root /= np.linalg.norm(root, axis=0)
        target, room = 3 * rng.normal(size=30), rng.exponential(0.3, 8)
        room[seed] = 0.0
        slope = jax.numpy.asarray(-root.T @ target)
        curvature = curvature_of(jax.numpy.asarray(root.T @ root))
        step, held = bounded_step(curvature, slope, jax.numpy.asarray(room), jax.numpy.zeros(()))
        bounds = np.concatenate([-room, np.full(4, -np.inf)])
        bounds[seed] = -1e-12
        exact = lsq_linear(root, target, (bounds, np.inf), method="bvls").x
        np.testing.assert_allclose(step, exact, atol=1e-3)
        np.testing.assert_array_equal(held, exact[:8] <= bounds[:8] + 1e-9)
        fallen = 0.5 * (target @ target - np.sum((root @ exact - target) ** 2))
        assert float(promised(curvature, slope, step)) == pytest.approx(fallen, rel=1e-3)


# --- of pools, and of solutions


@pytest.fixture(scope="module")
def image():
    return of_truth(mixed(), 3000.0, seed=5)


@pytest.fixture(scope="module")
def solution(image):
    """No silicon in the oxide is known, and leaves the amount of nothing else known."""
    fixed = np.full((7, 2), np.nan)
    fixed[3, 1] = 0.0
    start = np.full((7, 2), 100.0)
    start[3:5] = [[100.0, 0.0], [1.0, 100.0]]
    return ej.fit(
        image,
        adjusted(make_model(), TRUE),
        2,
        solver=ej.VariableProjectionNewton(),
        start=ej.GivenStart(start, mixed().reshape(2, -1) + 0.1),
        fixed_weights=fixed,
        phase_names=["silicate", "oxide"],
    )


@pytest.fixture(scope="module")
def redrawn(solution):
    return ej.bootstrap(solution, key=jax.random.key(3), draws=FEW)


@pytest.mark.slow
def test_draws_of_pools_side_by_side(image, solution):
    found = ej.refine(image, make_model(), solution, list(TRUE))
    assert found.loss == "pools"
    again = ej.bootstrap(found, key=jax.random.key(0), draws=FEW, batch_size=24)
    assert again.attrs["converged_share"] == 1
    check_spread(again["parameter_sd"].values, again["parameter_stderr"].values, FEW)
    oxygen = again.sel(element="O")
    check_spread(oxygen["composition_sd"].values, oxygen["composition_stderr"].values, FEW)
    assert list(again["phase"].values) == list(solution.dataset["phase"].values)


def test_draws_of_a_solution_scatter_as_the_standard_errors_claim(redrawn):
    assert redrawn.attrs["converged_share"] > 0.9
    oxygen = redrawn.sel(element=["O"])
    check_spread(oxygen["composition_sd"].values, oxygen["composition_stderr"].values, FEW)
    rows = redrawn["W"].sel(column=["O", "Mg", "Al", "Si", "Ca"]).sum("column")
    np.testing.assert_allclose(rows, 1, rtol=1e-5)


def test_an_element_that_a_phase_has_not_gets_a_one_sided_interval(redrawn):
    """Where the fit has none of it; elements that tell one phase from the other stay there."""
    aluminium = redrawn.sel(element="Al")
    none = aluminium["composition_fitted"].values < 1e-3 * aluminium["composition_stderr"].values
    assert none.any()
    low, high = aluminium["composition_interval"].sel(level=0.95).values[:, none]
    assert (low < 1e-3 * high).all()
    assert (high > 0).all()


@pytest.mark.slow
def test_the_key_decides_for_solutions_and_fixed_entries_stay(solution, redrawn):
    assert (redrawn["W"].sel(column="Si", phase="oxide") == 0).all()
    same, other = (ej.bootstrap(solution, key=jax.random.key(k), draws=FEW) for k in (3, 4))
    np.testing.assert_array_equal(same["W"], redrawn["W"])
    assert (other["W"].values[:, 0, 0] != redrawn["W"].values[:, 0, 0]).all()


def test_what_cannot_be_drawn_from(solution, refined):
    key = jax.random.key(0)
    for found, options, sentence in (
        (solution, {"draws": 1}, "draws is 1"),
        (solution, {"tol": 0.0}, "tol is 0"),
        (solution, {"memory_gb": 0.0}, "memory_gb is 0"),
        (solution, {"max_steps": 0}, "max_steps is 0"),
        (solution, {"batch_size": 0}, "batch_size is 0"),
        (dataclasses.replace(refined, loss="pixels"), {}, "one of single pixels"),
    ):
        with pytest.raises(ej.InputError, match=sentence):
            ej.bootstrap(found, key=key, **options)
    data = solution.dataset.copy()
    settings = data.attrs["settings"].replace("NoRegulariser()", "LogSparsity(strength=1)")
    data.attrs["settings"] = settings
    with pytest.raises(ej.InputError, match="give the same object as regulariser"):
        ej.bootstrap(ej.Solution(data), key=key)
