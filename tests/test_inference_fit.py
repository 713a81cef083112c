"""`fit` on simulated images: what it recovers, what it keeps to, and what it refuses."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.simulate import Phase, simulate

N_COUNTS = 300.0
MINERALS = (
    Phase("matrix", {"O": 60, "Mg": 40}, 3.5),
    Phase("grain", {"O": 50, "Mg": 10, "Si": 40}, 3.5),
)
QUICK = ej.MultiplicativeUpdate()


def make_model(n_channels=110, **options):
    return ej.EDSModel.from_axis(
        ej.EnergyAxis(0.35, 0.015, n_channels), ["O", "Mg", "Si"], beam_energy=200.0, **options
    )


def make_image(model, shape=(16, 16), counts=N_COUNTS, phases=MINERALS, seed=0):
    y, x = np.indices(shape)
    grain = np.clip(2.0 - np.hypot(y - 6, x - 8) / 4, 0, 1) if min(shape) > 1 else (x > 15) * 1.0
    maps = np.stack([1 - grain, grain])[: len(phases)]
    maps /= maps.sum(0)
    return simulate(model, phases, maps, counts, key=jax.random.key(seed), pixel_size=(2.0, 3.0))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def image(model):
    return make_image(model, seed=1)


@pytest.fixture(scope="module")
def default(image, model):
    calls = []
    solution = ej.fit(image, model, 2, progress=lambda *args: calls.append(args))
    return solution, calls


@pytest.fixture(scope="module")
def together(image, model):
    """W and H fitted together, the other way to fit."""
    return ej.fit(image, model, 2, solver=QUICK, max_steps=300)


def correlations(image, solution):
    true = np.asarray(image.truth.abundance)
    found = solution.abundance
    return [np.corrcoef(t.ravel(), f.ravel())[0, 1] for t, f in zip(true, found, strict=True)]


def model_counts(solution):
    """G W H times the exposure, (channel, pixel), from the dataset alone."""
    data = solution.dataset
    equation = "pcj,jp,pn->cn" if data["G"].ndim == 3 else "cj,jp,pn->cn"
    h = data["H"].values.reshape(len(data["phase"]), -1) * data["exposure"].values.ravel()
    return np.einsum(equation, data["G"].values, data["W"].values, h)


def test_the_default_fit_recovers_maps_and_compositions(image, default):
    solution, calls = default
    assert solution.converged
    assert min(correlations(image, solution)) > 0.97
    truth = 100 * np.asarray(image.truth.composition)
    error = solution.dataset["composition_stderr"].values
    assert (np.abs(solution.composition.values - truth) < 4 * error).all()
    assert (error > 0.05).all()
    assert (error < 2).all()
    assert calls
    assert all(0 < step <= most and np.isfinite(value) for step, most, value in calls)


def test_every_pixel_is_as_bright_as_its_counts(image, default, together):
    totals = np.asarray(image.counts.pixel_totals())
    bright, free = (model_counts(s).sum(0) for s in (default[0], together))
    np.testing.assert_allclose(bright, totals, rtol=2e-3)  # shares: exactly, once converged
    assert np.corrcoef(free, totals)[0, 1] > 0.99
    np.testing.assert_allclose(free.sum(), totals.sum(), rtol=1e-5)


def test_phases_come_in_the_order_of_their_counts(image, default, together):
    for solution in (default[0], together):
        counts = solution.dataset["fit_sum"].values.sum(0)
        assert counts[0] > counts[1]
        assert list(solution.dataset["phase"].values) == ["phase 1", "phase 2"]


def test_fitting_together_recovers_the_maps(image, together):
    assert min(correlations(image, together)) > 0.85
    assert together.dataset.attrs["sum_to_one"] == 0
    assert "coarse_objective" not in together.dataset


def test_the_reported_nll_is_that_of_the_reported_factors(image, default, together):
    counts, basis = image.counts, together.basis
    nll = ej.poisson_nll(counts, basis, together.weights, together.abundances)
    assert together.nll == pytest.approx(float(nll), rel=1e-5)
    # Poisson likelihood of the model's counts, from NumPy; the default adds its penalty
    expected = model_counts(default[0])
    y = counts.to_dense().T
    plain = (expected - y * np.log(expected)).sum()
    size = np.abs(y * np.log(expected)).sum()
    assert default[0].nll == pytest.approx(plain, abs=1e-5 * size)
    data = default[0].dataset  # the prior is on shares of the exposure
    exposure = data["pixel_counts"].values / data["pixel_counts"].values.mean()
    h = data["H"].values * data["H_plane"].values[:, None, None] / exposure
    np.testing.assert_allclose(h.sum(0), 1, rtol=1e-4)
    strength = json.loads(data.attrs["settings"])["choices"]["smoothness"]
    steps = np.zeros(h.shape[1:])  # of both phases, along both axes
    steps[:-1] += (np.diff(h, axis=1) ** 2).sum(0)
    steps[:, :-1] += (np.diff(h, axis=2) ** 2).sum(0)
    variation = strength * (np.sqrt(0.01**2 + steps) - 0.01).sum()
    penalty = default[0].objective - default[0].nll
    assert penalty == pytest.approx(variation, abs=1e-5 * size)
    assert penalty > 10
    assert together.objective == together.nll
    assert plain < float(nll) + 1000


def test_the_same_key_gives_the_same_solution(image, model):
    def once(seed):
        return ej.fit(
            image,
            model,
            2,
            solver=QUICK,
            start=ej.RandomStart(),
            max_steps=30,
            key=jax.random.key(seed),
        )

    first, again, other = once(3), once(3), once(4)
    assert first.dataset.drop_attrs().identical(again.dataset.drop_attrs())
    assert not np.array_equal(first.weights, other.weights)
    assert first.dataset.attrs["seed"] == "[0, 3]"
    assert any("did not converge" in sentence for sentence in first.warnings)
    assert not first.converged


@pytest.mark.parametrize(
    ("constraint", "regulariser"),
    [
        (
            ej.SumToOneAbundances(),
            ej.SumOf((ej.LogSparsity(0.1), ej.LaplacianSmoothness(1.0), ej.TotalVariation(0.2))),
        ),
        (ej.SumToOneWeights(), None),
    ],
)
def test_constraints_and_regularisers_are_kept_and_told(image, model, constraint, regulariser):
    solution = ej.fit(
        image,
        model,
        2,
        solver=QUICK,
        start=ej.VertexStart(),
        constraint=constraint,
        regulariser=regulariser,
        max_steps=100,
    )
    data = solution.dataset
    np.testing.assert_allclose(data["W"].values[:3].sum(0), 1, rtol=1e-6)
    assert min(correlations(image, solution)) > 0.85
    settings = data.attrs["settings"]
    assert type(constraint).__name__ in settings
    if isinstance(regulariser, ej.SumOf):
        assert (
            "LogSparsity(strength=0.1, epsilon=0.05) + LaplacianSmoothness(strength=1) + "
            "TotalVariation(strength=0.2, epsilon=0.05)"
        ) in settings
    if isinstance(constraint, ej.SumToOneAbundances):
        # all pixels equally bright, phase by phase
        totals = (data["H"].values.reshape(2, -1) * data["H_plane"].values[:, None]).sum(0)
        np.testing.assert_allclose(totals, 1, rtol=1e-5)


def test_coarse_to_fine_takes_every_constraint(image, model):
    """Constraints on W must not contradict the W that the binned fit found."""
    for constraint in (ej.SumToOneWeights(), ej.Unconstrained()):
        solution = ej.fit(
            image,
            model,
            2,
            constraint=constraint,
            solver=ej.CoarseToFine(factor=2, starts=(ej.VertexStart(),), coarse_steps=200),
            max_steps=100,
        )
        assert min(correlations(image, solution)) > 0.7
        expected, found = model_counts(solution).sum(), image.counts.total
        assert expected == pytest.approx(found, rel=1e-3)


def test_fixed_weights_are_kept_and_have_no_error(image, model):
    fixed = np.full((len(model.columns), 2), np.nan)
    fixed[:3, 0] = [0.6, 0.4, 0.0]
    solution = ej.fit(
        image,
        model,
        2,
        solver=QUICK,
        start=ej.VertexStart(),
        constraint=ej.SumToOneWeights(),
        fixed_weights=fixed,
        max_steps=200,
    )
    composition, error = solution.composition.values, solution.dataset["composition_stderr"].values
    np.testing.assert_allclose(composition[:, 0], [60, 40, 0], atol=1e-4)
    np.testing.assert_allclose(error[:, 0], 0, atol=1e-3)
    assert (error[:, 1] > 0.05).all()


def test_fixed_abundances_are_kept(image, model):
    fixed = np.full((2, 256), np.nan)
    fixed[1, 200:] = 0.0
    solution = ej.fit(
        image, model, 2, solver=QUICK, fixed_abundances=fixed, max_steps=50, phase_names=["a", "b"]
    )
    data = solution.dataset
    assert (data["H"].values.reshape(2, -1)[1, 200:] == 0).all()
    assert (data["H_free"].values.reshape(2, -1)[1, 200:] == -1).all()
    assert (data["H_free"].values.reshape(2, -1)[1, :200] >= 0).all()
    assert list(data["phase"].values) == ["a", "b"]


def test_pixels_without_counts_follow_the_prior(image, model, default):
    """With smooth maps the neighbours tell; without a prior the shares are even."""
    y = image.counts.to_dense().copy()
    empty = [0, 17, 6 * 16 + 8]  # a corner, the matrix, the middle of the grain
    y[empty] = 0
    holed = dataclasses.replace(image, counts=ej.as_counts(y, scan_shape=(16, 16)))
    smooth = ej.fit(holed, model, 2)
    plain = ej.fit(holed, model, 2, solver=QUICK, max_steps=300)
    for solution in (smooth, plain):
        for variable in solution.dataset.data_vars.values():
            assert np.isfinite(variable.values).all()
        np.testing.assert_allclose(solution.abundance.sum(0), 1, rtol=1e-6)
        assert any("3 pixels hold no counts" in sentence for sentence in solution.warnings)
        pixels = solution.pixel_composition()
        for variable in pixels.data_vars.values():
            assert np.isfinite(variable.values).all()
        assert (solution.dataset["H"].values.reshape(2, -1)[:, empty].sum(0) < 1e-20).all()
    assert (smooth.abundance.reshape(2, -1)[0, empty[:2]] > 0.8).all()
    assert smooth.abundance.reshape(2, -1)[1, empty[2]] > 0.6
    np.testing.assert_allclose(plain.abundance.reshape(2, -1)[:, empty], 0.5)
    assert default[0].abundance.shape == (2, 16, 16)


def test_an_exposure_of_the_image_is_not_counted_twice(image, model):
    """H is per unit of exposure; what the model expects is G W H times the exposure."""
    y = image.counts.to_dense()
    exposure = np.linspace(0.5, 2.0, 256)
    exposure[3], y[3] = 0.0, 0
    known = dataclasses.replace(
        image, counts=ej.as_counts(y, scan_shape=(16, 16), exposure=exposure)
    )
    ways: tuple[dict[str, Any], ...] = ({"solver": QUICK, "max_steps": 300}, {"max_steps": 300})
    for options in ways:
        solution = ej.fit(known, model, 2, **options)
        assert np.isfinite(solution.dataset["H"].values).all()
        np.testing.assert_allclose(model_counts(solution).sum(), y.sum(), rtol=1e-3)
        h = solution.abundances.sum(0)
        assert np.corrcoef(h * exposure, y.sum(1))[0, 1] > 0.9


def test_one_phase(image, model):
    solution = ej.fit(image, model, 1, solver=QUICK, start=ej.VertexStart(), max_steps=100)
    mean = np.asarray(image.truth.composition) @ np.asarray(image.truth.abundance).mean((1, 2))
    np.testing.assert_allclose(solution.composition.values[:, 0], 100 * mean, atol=2.5)
    assert (solution.abundance == 1).all()
    # one phase: at% from all counts, so the errors are those of counting
    error = solution.dataset["composition_stderr"].values[:, 0]
    assert (error < 1).all()
    assert (error > 0.05).all()


def test_a_point_spectrum(model):
    image = make_image(model, (1, 1), 50_000.0, MINERALS[1:], seed=1)
    solution = ej.fit(image, model, 1)
    np.testing.assert_allclose(solution.composition.values[:, 0], [50, 10, 40], atol=2)
    error = solution.dataset["composition_stderr"].values[:, 0]
    truth = np.array([50.0, 10.0, 40.0])
    assert (np.abs(solution.composition.values[:, 0] - truth) < 4 * error).all()
    pixel = solution.pixel_composition()
    np.testing.assert_allclose(  # to the rounding of single precision
        pixel["composition"].values[:, 0, 0], solution.composition[:, 0], rtol=1e-6
    )
    np.testing.assert_allclose(pixel["composition_stderr"].values[:, 0, 0], error, rtol=1e-2)


def test_a_line_scan(model):
    image = make_image(model, (1, 24), 3000.0, seed=2)
    solution = ej.fit(image, model, 2, solver=QUICK, start=ej.VertexStart(), max_steps=100)
    assert min(correlations(image, solution)) > 0.95
    assert solution.dataset["H"].shape == (2, 1, 24)
    assert solution.pixel_composition()["composition"].shape == (3, 1, 24)


@pytest.mark.slow
def test_the_absorbing_model_follows_the_composition_of_each_phase(model):
    """Two phases whose O is absorbed differently: G must follow, or O comes out wrong."""
    phases = (
        Phase("oxide", {"O": 60, "Mg": 40}, 3.0),
        Phase("silicide", {"O": 10, "Mg": 20, "Si": 70}, 3.0),
    )
    thick = make_model(thickness=1500.0, density=3.0, take_off_angle=20.0)
    image = make_image(thick, phases=phases, seed=2)
    assert image.truth is not None
    # by the default, whose purity settles the mixing that the counts alone leave open here
    found, thin_found = (ej.fit(image, m, 2) for m in (thick, model))
    data = found.dataset
    assert data["G"].dims == ("phase", "energy", "column")
    basis = thick.basis(found.weights)
    np.testing.assert_allclose(data["G"].values, basis.matrix, rtol=5e-3, atol=1e-6)
    np.testing.assert_allclose(
        data["spectra"].values, np.asarray(basis.endmembers(found.weights)), rtol=5e-3, atol=1e-6
    )
    o_lines = np.asarray(basis.matrix[:, :, 0]).sum(1)
    assert abs(o_lines[1] / o_lines[0] - 1) > 0.2
    assert found.nll < thin_found.nll
    truth = 100 * np.asarray(image.truth.composition)
    errors = [  # the silicide, denser in counts, may come first
        min(np.abs(s.composition.values[:, order] - truth).max() for order in ([0, 1], [1, 0]))
        for s in (found, thin_found)
    ]
    assert errors[0] < 6
    assert errors[1] > 3 * errors[0]
    light = "light elements come out too low"
    assert any(light in sentence for sentence in thin_found.warnings)
    assert not any(light in sentence for sentence in found.warnings)
    pixels = found.pixel_composition()
    assert np.isfinite(pixels["composition_stderr"].values).all()


class Broken(ej.AbstractSolver):
    """A solver that loses its numbers."""

    def init(self, problem, weights, abundances):
        return None

    def step(self, problem, weights, abundances, state):
        return weights * jnp.nan, abundances, state


def test_values_that_are_not_finite_are_raised_unless_asked_otherwise(image, model):
    for solver in (Broken(), ej.CoarseToFine(solver=Broken(), starts=(ej.VertexStart(),))):
        with pytest.raises(RuntimeError, match="not finite"):
            ej.fit(image, model, 2, solver=solver)
    solution = ej.fit(image, model, 2, solver=Broken(), throw=False)
    assert not solution.converged
    assert "not finite" in solution.result


def test_the_energy_axis_is_the_models(image, model):
    """A refined axis goes with G, which belongs to it."""
    moved = eqx.tree_at(lambda m: m.energy_axis.offset, model, jnp.asarray(0.352, float))
    solution = ej.fit(
        image, moved, 2, solver=QUICK, start=ej.RandomStart(), max_steps=10, key=jax.random.key(1)
    )
    assert solution.dataset["energy"].values[0] == pytest.approx(0.352)
    assert solution.parameters["energy offset"].value == pytest.approx(0.352)


@pytest.mark.parametrize(
    ("n_phases", "options", "sentence"),
    [
        (0, {}, "number of phases is 0"),
        (-1, {"solver": QUICK}, "number of phases is -1"),
        (2, {"max_steps": -5}, "max_steps is -5"),
        (2, {"tol": float("nan")}, "tol is NaN"),
        (6, {}, "6 phases are more than the data can carry"),
        (2, {"phase_names": ["a"]}, "phase names"),
        (2, {"phase_names": ["a", "a"]}, "distinct"),
        (2, {"fixed_abundances": np.full((2, 256), np.nan)}, "cannot hold abundances fixed"),
        (2, {"start": ej.RandomStart()}, "chooses its own start"),
        (2, {"fixed_weights": np.ones((2, 2))}, "shape"),
        (2, {"solver": QUICK, "regulariser": ej.LaplacianSmoothness(1.0)}, "regulariser"),
        (2, {"solver": ej.CoarseToFine(starts=())}, "at least one start"),
        (2, {"solver": ej.CoarseToFine(factor=0)}, "factor"),
    ],
)
def test_what_cannot_be_fitted_is_refused(image, model, n_phases, options, sentence):
    with pytest.raises(ej.InputError, match=sentence):
        ej.fit(image, model, n_phases, **options)


def test_a_model_for_another_image_is_refused(image):
    with pytest.raises(ej.InputError, match="109 channels but the image has 110"):
        ej.fit(image, make_model(109), 2)


def test_an_image_without_counts_is_refused(image, model):
    dark = ej.as_counts(np.zeros((16, 16, 110), int))
    ways: tuple[dict[str, Any], ...] = ({}, {"solver": QUICK})
    for options in ways:
        with pytest.raises(ej.InputError, match="no counts at all"):
            ej.fit(dataclasses.replace(image, counts=dark), model, 2, **options)


def test_more_phases_than_pixels_are_refused(model):
    image = make_image(model, (1, 1), 50.0, MINERALS[1:])
    with pytest.raises(ej.InputError, match="2 phases are more than the data can carry"):
        ej.fit(image, model, 2)
