"""Known compositions: kept exactly, with the amount free, and no worse than knowing nothing."""

import json

import jax
import jax.random as jr
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax._basis import Basis
from esmpy_jax.inference._known import check_mapping, known_phases
from esmpy_jax.inference._matched import MatchedStart
from esmpy_jax.objective import SumToOneAbundances, as_counts
from esmpy_jax.simulate import demo_image, demo_model
from esmpy_jax.solve import Fixed, GivenStart, Problem


@pytest.fixture(scope="module")
def model():
    return demo_model(thickness=None)


@pytest.fixture(scope="module")
def image(model):
    return demo_image(jr.key(0), counts_per_pixel=100, shape=(32, 32), model=model)


def true_composition(image, model, phase):
    percent = 100 * np.asarray(image.truth.composition)[:, phase]
    return {e.symbol: float(x) for e, x in zip(model.elements, percent, strict=True) if x > 0}


@pytest.mark.slow
def test_a_known_composition_is_kept_and_its_phase_found(image, model):
    """By the default fit, which would put the smallest of the phases last by itself, too."""
    known = true_composition(image, model, 2)
    solution = ej.fit(image, model, 3, compositions={1: known})
    symbols = [e.symbol for e in model.elements]
    percent = solution.composition.values[:, 1]
    np.testing.assert_allclose(percent, [known.get(s, 0.0) for s in symbols], atol=1e-3)
    data = solution.dataset
    assert (data["composition_stderr"].values[:, 1] < 1e-3).all()
    spread = data["composition_high"].values[:, 1] - data["composition_low"].values[:, 1]
    assert (spread < 1e-2).all()
    assert data.sizes["column"] == len(model.columns)
    (stored,) = json.loads(data.attrs["settings"])["compositions"].values()
    assert stored == pytest.approx({s: x / sum(known.values()) for s, x in known.items()})
    truth = np.asarray(image.truth.abundance).reshape(3, -1)
    found = solution.abundance.reshape(3, -1)
    assert np.corrcoef(truth[2], found[1])[0, 1] > 0.95
    # draws of the pools, fitted again with the same known composition
    again = ej.bootstrap(solution, key=jr.key(1), draws=16)
    assert again.attrs["converged_share"] > 0.8
    assert float(again["composition_sd"].sel(phase="phase 2").max()) < 1e-3
    ratio = (again["composition_sd"] / again["composition_stderr"]).sel(element="O").values[[0, 2]]
    # 16 draws tell a standard deviation within a factor of 1.6 (chi-square at 1e-3)
    assert ratio.min() > 0.4
    assert ratio.max() < 1.7


def test_absorption_follows_the_known_composition():
    """With self-absorption G depends on W: that of the known phase stays what it is."""
    model = demo_model()
    image = demo_image(jr.key(1), counts_per_pixel=200, shape=(8, 8), model=model)
    known = true_composition(image, model, 0)
    solution = ej.fit(
        image,
        model,
        3,
        solver=ej.MultiplicativeUpdate(),
        start=ej.RandomStart(),
        compositions={0: known},
        max_steps=40,
    )
    own = model.basis(jax.numpy.asarray(solution.dataset["W"].values, float)).matrix[0]
    np.testing.assert_allclose(solution.dataset["G"].values[0], own, rtol=2e-3, atol=1e-6)
    percent = solution.composition.values[:, 0]
    wanted = [known.get(e.symbol, 0.0) for e in model.elements]
    np.testing.assert_allclose(percent, wanted, atol=1e-3)


@pytest.mark.slow
def test_fractions_are_fractions_where_weights_sum_to_one(image, model):
    solution = ej.fit(
        image,
        model,
        3,
        solver=ej.MultiplicativeUpdate(),
        constraint=ej.SumToOneWeights(),
        compositions={"oxide": "MgO"},
        phase_names=["matrix", "oxide", "other"],
        max_steps=30,
    )
    percent = solution.composition.sel(phase="oxide")
    np.testing.assert_allclose(percent.sel(element=["Mg", "O"]), 50, atol=1e-3)


def test_the_longer_weights_mean_the_same(model):
    """Spectra of the longer W and of the plain one are equal; a start survives both ways."""
    known = known_phases({1: "MgSiO3", 0: {"O": 1, "Fe": 2}}, model, 3, None)
    rng = np.random.default_rng(0)
    weights = rng.random((len(model.columns), 3))
    free = np.full(weights.shape, np.nan)
    held = known.fixed(free)
    longer = np.where(np.isnan(held), rng.random(held.shape), held)
    basis, plain = model.basis(), known.plain(jax.numpy.asarray(longer, float))
    np.testing.assert_allclose(
        known.extended(basis).endmembers(jax.numpy.asarray(longer, float)),
        basis.endmembers(plain),
        rtol=1e-4,
    )
    for i, p in enumerate(known.phases):
        shares = np.asarray(plain)[known.rows, p]
        np.testing.assert_allclose(shares / shares.sum(), known.fractions[:, i], atol=1e-6)
    again = known.started(GivenStart(plain, None)).weights
    np.testing.assert_allclose(again, longer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_phases_of_a_start_go_where_they_are_allowed(order):
    """Three phases of one own column each; the mask says which phase may have which."""
    matrix = np.eye(3) + 0.01
    weights = 50.0 * np.eye(3)[:, list(order)]
    maps = np.full((3, 12), 0.1)
    maps[np.arange(3), np.arange(3) * 4] = 0.8
    maps /= maps.sum(0)
    mask = ~np.eye(3, dtype=bool)
    problem = Problem(
        as_counts(np.full((12, 3), 20)),
        Basis.from_matrix(matrix),
        SumToOneAbundances(),
        ej.NoRegulariser(),
        Fixed(jax.numpy.asarray(mask), jax.numpy.zeros((3, 3))),
    )
    start = MatchedStart(GivenStart(weights, maps))
    found, shares = start(problem, 3, jr.key(0))
    assert (np.asarray(found).argmax(0) == np.arange(3)).all()
    assert (np.asarray(found)[mask] == 0).all()
    np.testing.assert_allclose(shares, maps[np.argsort(order)], atol=1e-6)


def test_a_phase_that_starts_empty_takes_the_place_that_is_left():
    mask = ~np.eye(2, dtype=bool)
    problem = Problem(
        as_counts(np.full((4, 2), 20)),
        Basis.from_matrix(np.eye(2) + 0.01),
        SumToOneAbundances(),
        ej.NoRegulariser(),
        Fixed(jax.numpy.asarray(mask), jax.numpy.zeros((2, 2))),
    )
    start = MatchedStart(GivenStart(np.array([[0.0, 0.0], [30.0, 0.0]]), np.full((2, 4), 0.5)))
    found, shares = start(problem, 2, jr.key(0))
    assert np.isfinite(found).all()
    assert np.isfinite(shares).all()
    assert found[1, 1] > found[0, 1]


@pytest.mark.parametrize(
    ("compositions", "words"),
    [
        ({3: "MgO"}, "phase 3; give its number, from 0 to 2"),
        ({"oxide": "MgO"}, "phase 'oxide'"),
        ({0: "MgAu"}, "holds Au, which the model has not"),
        ({0: "MgO", "a": "MgO"}, "two compositions"),
    ],
)
def test_compositions_of_nothing(image, model, compositions, words):
    with pytest.raises(ej.InputError, match=words):
        ej.fit(image, model, 3, compositions=compositions, phase_names=["a", "b", "c"])


def test_fixing_every_element_would_fix_the_counts(image, model):
    """Fractions among counts are a scale of their own; the default fit would go astray."""
    fixed = np.full((len(model.columns), 3), np.nan)
    rows = [j for j, c in enumerate(model.columns) if c.in_composition]
    fixed[rows, 1] = 0.0
    fixed[rows[0], 1] = 1.0
    with pytest.raises(ej.InputError, match="All elements of phase 1 are fixed"):
        ej.fit(image, model, 3, fixed_weights=fixed)


def test_no_number_of_phases_is_looked_for_where_some_are_known(image, model):
    with pytest.raises(ej.InputError, match="counts or names of single phases"):
        ej.fit(image, model, "auto", compositions={0: "MgO"})


def mixed_image(rng, brightness):
    """Two phases of which the second never exceeds 0.6; what is counted, G, and the true W."""
    shapes = rng.random((40, 4)) ** 4
    basis = shapes / shapes.sum(0)
    true = np.array([[0.7, 0.1], [0.3, 0.2], [0.0, 0.4], [0.0, 0.3]]) * brightness
    ramp = np.linspace(0.0, 0.6, 64)
    maps = np.stack([1 - ramp, ramp])
    return rng.poisson((basis @ true @ maps).T), basis, true, maps


@pytest.mark.parametrize("solver", [ej.VariableProjectionNewton(), ej.MultiplicativeUpdate()])
@pytest.mark.parametrize("seed", range(3))
def test_a_known_brightness_settles_what_mixtures_leave_open(solver, seed):
    """A mixture with a phase three times as bright is brighter, so that the right one is found.

    The counts leave the amount of the first phase in the second open up to 0.4 / 0.6.
    """
    brightness = np.array([3e5, 1e5])
    counts, basis, true, maps = mixed_image(np.random.default_rng(seed), brightness)
    mixed = true.copy()
    mixed[:, 1] = 0.7 * true[:, 1] + 0.3 * true[:, 0]
    start = GivenStart(mixed, np.clip(maps, 0.01, 0.99))
    known = ej.factorise(
        counts,
        basis,
        2,
        solver=solver,
        start=start,
        constraint=SumToOneAbundances(brightness=brightness),
        max_steps=20_000,
    )
    assert known.converged
    weights = np.asarray(known.weights, float)
    np.testing.assert_allclose(weights.sum(0), brightness, rtol=1e-4)
    # 64 pixels of 1e5 counts or more: a thousandth of a weight is many standard errors
    np.testing.assert_allclose(weights / brightness, true / brightness, atol=0.01)
    free = ej.factorise(
        counts, basis, 2, solver=solver, start=start, constraint=SumToOneAbundances()
    )
    percent = np.asarray(free.weights, float)
    assert np.abs(percent / percent.sum(0) - true / brightness).max() > 0.1


def test_brightness_decides_which_phase_is_which(image, model):
    counts, basis, true, maps = mixed_image(np.random.default_rng(0), np.array([3e5, 1e5]))
    swapped = GivenStart(true[:, ::-1], maps[::-1])
    constraint = SumToOneAbundances(brightness=[3e5, 1e5])
    problem = Problem(as_counts(counts), Basis.from_matrix(basis), constraint, ej.NoRegulariser())
    weights, _ = MatchedStart(swapped)(problem, 2, jr.key(0))
    np.testing.assert_allclose(weights, true, rtol=0.05, atol=0.02 * true.max())


@pytest.mark.parametrize(
    ("brightness", "solver", "words"),
    [
        ([1.0, 2.0, 3.0], ej.VariableProjectionNewton(), r"shape \(3,\).* or 2, one for each"),
        ([1.0, 0.0], ej.VariableProjectionNewton(), "give positive counts"),
        ([1.0, 2.0], ej.SquaremUpdate(), "SquaremUpdate cannot keep the brightness"),
    ],
)
def test_a_brightness_that_cannot_be_kept_is_refused(brightness, solver, words):
    counts, basis, *_ = mixed_image(np.random.default_rng(0), np.array([3e2, 1e2]))
    with pytest.raises(ej.InputError, match=words):
        ej.factorise(
            counts, basis, 2, solver=solver, constraint=SumToOneAbundances(brightness=brightness)
        )


def test_fixed_entries_brighter_than_the_brightness_are_refused():
    brightness = np.array([3e2, 1e2])
    counts, basis, *_ = mixed_image(np.random.default_rng(0), brightness)
    fixed = np.full((4, 2), np.nan)
    fixed[0, 1] = 150.0
    constraint = SumToOneAbundances(brightness=brightness)
    with pytest.raises(ej.InputError, match="fixed entries of W alone make 150 counts"):
        ej.factorise(counts, basis, 2, constraint=constraint, fixed_weights=fixed)
    with pytest.raises(ej.InputError, match="factorise_batches cannot keep the brightness"):
        ej.factorise_batches([counts], basis, 2, constraint=constraint)
    with pytest.raises(ej.InputError, match="brightness of SumToOneAbundances is 'bright'; give"):
        SumToOneAbundances(brightness="bright")


@pytest.mark.slow
def test_absent_elements_are_absent_by_number_and_by_name(image, model):
    solution = ej.fit(image, model, 3, absent={1: "Si,Ca"})
    symbols = [e.symbol for e in model.elements]
    rows = [symbols.index("Si"), symbols.index("Ca")]
    assert (solution.composition.values[rows, 1] == 0).all()
    truth = np.asarray(image.truth.abundance).reshape(3, -1)
    assert np.corrcoef(truth[1], solution.abundance.reshape(3, -1)[1])[0, 1] > 0.95
    assert json.loads(solution.dataset.attrs["settings"])["absent"] == {"1": ["Ca", "Si"]}
    names = ["matrix", "oxide", "rest"]
    named = ej.fit(image, model, 3, absent={"oxide": ["Si", "Ca"]}, phase_names=names)
    np.testing.assert_array_equal(named.composition.values, solution.composition.values)


def test_what_is_no_mapping_is_refused():
    """`Any`, as the types are checked in tests before these sentences could be."""
    with pytest.raises(ej.InputError, match=r'absent is a str; .* such as absent={1: "Si,Ca"}'):
        check_mapping("Si", "absent", '{1: "Si,Ca"}')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compositions": {True: "MgO"}}, "the phase True"),
        ({"absent": {3: "Si"}}, "Absent elements are given for the phase 3; give its number, from"),
        ({"absent": {0: "Au"}}, "Au is said to be absent from phase 0, but the model has no Au"),
        ({"absent": {0: "Xx"}}, "Xx"),
        (
            {"absent": {0: "Si"}, "compositions": {0: "MgSiO3"}},
            "Si is said to be absent from phase 0, whose composition holds it",
        ),
    ],
)
def test_knowledge_that_cannot_be_used_is_refused(image, model, arguments, words):
    with pytest.raises(ej.InputError, match=words):
        ej.fit(image, model, 3, **arguments)


@pytest.fixture(scope="module")
def unsettled(model):
    """A particle phase that never exceeds 0.6, in a matrix three times as bright."""
    truth = demo_image(jr.key(0), counts_per_pixel=1, shape=(8, 8), model=model).truth
    basis = np.asarray(model.basis().matrix, float)
    rows = np.flatnonzero([c.in_composition for c in model.columns])
    weights = np.zeros((basis.shape[1], 2))
    weights[rows] = np.asarray(truth.composition, float)[:, ::2]
    bright = np.array([300.0, 100.0])
    weights *= bright / (basis @ weights).sum(0)
    ramp = np.tile(np.linspace(0, 0.6, 32), (32, 1))
    counts = np.random.default_rng(0).poisson(
        np.einsum("cp,pyx->yxc", basis @ weights, np.stack([1 - ramp, ramp]))
    )
    image = ej.SpectrumImage(
        ej.as_counts(counts), model.energy_axis, ej.Acquisition(beam_energy=200.0)
    )
    return image, bright, 100 * np.asarray(truth.composition, float)[:, ::2]


@pytest.mark.slow
@pytest.mark.parametrize("knowledge", ["brightness", "absent"])
def test_the_default_fit_uses_what_is_known_of_a_phase_that_is_never_pure(
    model, unsettled, knowledge
):
    """Without it the particle is stretched to purity, 14 at% off; with it the fit is determined."""
    image, bright, truth = unsettled
    known = (
        {"constraint": SumToOneAbundances(brightness=bright)}
        if knowledge == "brightness"
        else {"absent": {1: "Hf"}}  # one atom in a hundred of the matrix
    )
    solution = ej.fit(image, model, 2, **known)
    assert np.abs(solution.composition.values - truth).max() < 4.0
    assert solution.dataset["determined"].values.tolist() == [1, 1]
    free = np.abs(ej.fit(image, model, 2).composition.values - truth)
    assert free.max() > 10.0
    if knowledge == "brightness":
        stored = json.loads(solution.dataset.attrs["settings"])
        assert stored["brightness"] == bright.tolist()
        again = ej.bootstrap(solution, key=jr.key(1), draws=16)
        assert again.attrs["converged_share"] > 0.8
        ratio = (again["composition_sd"] / again["composition_stderr"]).sel(element="Ca").values
        # 16 draws tell a standard deviation within a factor of 1.6 (chi-square at 1e-3), and the
        # errors of counting do not know the brightness
        assert (ratio < 1.7).all()
