"""Simulated images: W from the phases, counts as asked for, and a truth in the canonical gauge."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax._basis import ColumnKind
from esmpy_jax._checks import InputError
from esmpy_jax.atomic import Composition
from esmpy_jax.model import EDSModel
from esmpy_jax.physics import EnergyAxis
from esmpy_jax.simulate import (
    Phase,
    demo_image,
    demo_model,
    gradient,
    mineral_phases,
    phase_weights,
    random_texture,
    simulate,
    thickness_map,
)


def make_model(**options):
    return EDSModel.from_axis(
        EnergyAxis(0.2, 0.02, 450), ["O", "Mg", "Fe"], beam_energy=200.0, stray=["Cu"], **options
    )


ABSORBING = {"thickness": 300.0, "density": 4.0, "take_off_angle": 22.0}
OXIDE = Phase("oxide", {"Mg": 50, "O": 50}, density=3.58, stray={"Cu": 0.02})
METAL = Phase("metal", {"Fe": 100}, density=7.87, bremsstrahlung=0.5)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def absorbing():
    return make_model(**ABSORBING)


def test_atoms_per_volume_of_silicon():
    """Eight atoms in the cubic cell of 0.5431 nm."""
    silicon = Phase("Si", Composition.from_atomic({"Si": 1}), density=2.329)
    assert silicon.atoms_per_volume == pytest.approx(8 / 0.5431**3, rel=1e-3)


def test_weights_are_atomic_fractions_per_atom(model):
    weights, basis = phase_weights(model, [OXIDE, METAL])
    row = dict(zip(basis.labels, weights, strict=True))
    np.testing.assert_allclose(row["O"], [0.5, 0])
    np.testing.assert_allclose(row["Fe"], [0, 1])
    np.testing.assert_allclose(row["Cu K"], [0.02, 0])
    np.testing.assert_allclose(weights[basis.composition_rows].sum(0), 1)


@pytest.mark.parametrize("options", [{}, ABSORBING], ids=["thin", "absorbing"])
def test_the_continuum_has_its_ratio_to_the_lines(options):
    weights, basis = phase_weights(make_model(**options), [OXIDE, METAL])
    matrix = np.asarray(basis.matrix, float)
    kinds = np.array([column.kind for column in basis.columns])
    for i, ratio in enumerate((0.3, 0.5)):
        counts = (matrix if matrix.ndim == 2 else matrix[i]).sum(0) * weights[:, i]
        continuum = counts[kinds == ColumnKind.BREMSSTRAHLUNG]
        lines = counts[kinds == ColumnKind.ELEMENT].sum()
        assert continuum.sum() / lines == pytest.approx(ratio, rel=1e-5)
        assert continuum[0] / continuum.sum() == pytest.approx(0.1, rel=1e-5)


def test_explicit_continuum_weights_are_taken_as_they_are(model):
    phase = Phase("a", {"O": 1}, 1.0, bremsstrahlung=(0.01, 0.2))
    weights, basis = phase_weights(model, [phase])
    row = dict(zip(basis.labels, weights[:, 0], strict=True))
    assert (row["brems 0"], row["brems 1"]) == (0.01, 0.2)


def test_the_low_lines_of_a_split_element_carry_its_fraction():
    model = make_model(split={"Fe": 3.0})
    weights, basis = phase_weights(model, [METAL])
    iron = [w for w, c in zip(weights[:, 0], basis.columns, strict=True) if c.atomic_number == 26]
    assert iron == [1.0, 1.0]
    np.testing.assert_allclose(weights[basis.composition_rows].sum(0), 1)


def test_counts_per_pixel_are_met(model):
    maps = random_texture((30, 40), key=jax.random.key(0), n_phases=2)
    for wanted in (2.5, 40):
        image = simulate(model, [OXIDE, METAL], maps, wanted, key=jax.random.key(1))
        assert image.shape == (30, 40, 450)
        expected = wanted * 1200
        assert abs(float(image.counts.total) - expected) < 5 * np.sqrt(expected)


def test_the_denser_phase_gives_more_counts_and_a_larger_share(model):
    """Same composition, twice the density, half of the volume each: atoms 1 to 2."""
    light = Phase("light", {"Mg": 50, "O": 50}, density=2.0)
    dense = Phase("dense", {"Mg": 50, "O": 50}, density=4.0)
    maps = np.zeros((2, 1, 3))
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 0, 2] = (1, 0), (0, 1), (0.5, 0.5)
    image = simulate(model, [light, dense], maps, 60_000.0, key=jax.random.key(0))
    totals = np.asarray(image.counts.pixel_totals(), float)
    expected = np.array([2, 4, 3]) / 9 * 180_000
    np.testing.assert_array_less(np.abs(totals - expected), 5 * np.sqrt(expected))
    assert image.truth is not None
    share = np.asarray(image.truth.abundance)[:, 0]
    np.testing.assert_allclose(share, [[1, 0, 1 / 3], [0, 1, 2 / 3]], atol=1e-6)


def test_counts_follow_the_thickness(model):
    thickness = np.asarray(thickness_map((8, 8), key=jax.random.key(3), length=2.0))
    image = simulate(
        model, [OXIDE], np.ones((1, 8, 8)), 5e3, key=jax.random.key(0), thickness=thickness
    )
    expected = (5e3 * thickness / thickness.mean()).ravel()
    totals = np.asarray(image.counts.pixel_totals(), float)
    np.testing.assert_array_less(np.abs(totals - expected), 5 * np.sqrt(expected))


@pytest.mark.parametrize("name", ["model", "absorbing"])
def test_counts_and_truth_are_those_of_g_w_h(name, request, precision):
    """Chi-squared of the summed spectrum against the truth's spectra and shares of H."""
    model = request.getfixturevalue(name)
    model = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x), float) if eqx.is_array(x) else x, model
    )
    assert model.energy_axis.gain.dtype == precision
    phases = [OXIDE, METAL]
    image = simulate(model, phases, gradient((6, 10)), 3000.0, key=jax.random.key(2))
    truth = image.truth
    assert truth is not None
    weights, basis = phase_weights(model, phases)
    matrix = np.asarray(basis.matrix, float)
    d = np.stack(
        [(matrix if matrix.ndim == 2 else matrix[i]) @ weights[:, i] for i in range(2)], axis=1
    )
    np.testing.assert_allclose(np.asarray(truth.spectra), d / d.sum(0), rtol=2e-4, atol=1e-9)
    # H up to one scale: atoms in a pixel times each phase's share of them.
    atoms = np.array([p.atoms_per_volume for p in phases])
    inside = np.tensordot(atoms, np.asarray(gradient((6, 10)), float), 1)
    h = np.asarray(truth.abundance, float) * inside
    y = np.einsum("cp,pyx->c", d, h)
    y *= 3000.0 * 60 / y.sum()
    chi2 = ((np.asarray(image.sum_spectrum(), float) - y) ** 2 / y).sum()
    assert abs(chi2 - 450) < 5 * np.sqrt(2 * 450)


def test_mean_and_variance_over_keys_are_poisson(model):
    n = 60
    maps = gradient((5, 8))
    totals = np.stack(
        [
            np.asarray(
                simulate(
                    model, [OXIDE, METAL], maps, 25.0, key=jax.random.key(seed)
                ).counts.pixel_totals(),
                float,
            )
            for seed in range(n)
        ]
    )
    mean = totals.mean(0)
    assert abs(mean.mean() - 25) < 5 * np.sqrt(25 / (40 * n))
    assert abs(np.mean(totals.var(0, ddof=1) / mean) - 1) < 5 * np.sqrt(2.1 / (40 * n))


def test_the_key_decides(model):
    def draw(seed):
        image = simulate(model, [OXIDE], np.ones((1, 4, 4)), 30.0, key=jax.random.key(seed))
        return np.asarray(image.counts.to_dense())

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any()


def test_self_absorption_is_that_of_each_phase(absorbing, model):
    """Oxygen lines lose more in iron than in their own oxide: G differs between the phases."""
    iron_oxide = Phase("iron oxide", {"Fe": 90, "O": 10}, density=7.0)
    _, thick = phase_weights(absorbing, [OXIDE, iron_oxide])
    _, thin = phase_weights(model, [OXIDE, iron_oxide])
    column = thin.labels.index("O")
    left = np.asarray(thick.matrix)[:, :, column].sum(1) / np.asarray(thin.matrix)[:, column].sum()
    assert left[1] < 0.95 * left[0] < 0.7


def test_a_model_from_the_image_has_the_same_basis(model):
    image = simulate(model, [OXIDE], np.ones((1, 2, 2)), 10.0, key=jax.random.key(0))
    again = EDSModel.from_image(image, ["O", "Mg", "Fe"], stray=["Cu"])
    _, first = phase_weights(model, [OXIDE])
    _, second = phase_weights(again, [OXIDE])
    assert first.columns == second.columns
    np.testing.assert_allclose(
        np.asarray(first.matrix), np.asarray(second.matrix), rtol=2e-3, atol=1e-6
    )
    assert image.acquisition.elements == ("O", "Mg", "Fe")
    assert image.provenance["beam energy"].value == 200.0


def test_mineral_phases_hold_what_their_names_say():
    bridgmanite, ferropericlase, davemaoite = mineral_phases()
    for phase in (bridgmanite, ferropericlase, davemaoite):
        assert sum(phase.fractions().values()) == pytest.approx(1)
        assert dict(phase.stray) == {"Cu": 0.05}
    assert ferropericlase.fractions()[26] == pytest.approx(0.104)
    assert max(davemaoite.fractions(), key=davemaoite.fractions().__getitem__) == 8
    assert 14 not in ferropericlase.fractions()
    # About 0.1 atoms per Å³ in each: 20 atoms in 162 Å³, 8 in 75 Å³, 5 in 46 Å³.
    for phase in (bridgmanite, ferropericlase, davemaoite):
        assert 85 < phase.atoms_per_volume < 125


def test_demo_image_is_complete():
    model = demo_model(thickness=None)
    image = demo_image(jax.random.key(0), shape=(32, 32), counts_per_pixel=50, model=model)
    truth = image.truth
    assert truth is not None
    assert image.shape == (32, 32, 1980)
    assert truth.phase_names == ("bridgmanite", "ferropericlase", "Ca-perovskite")
    np.testing.assert_allclose(np.asarray(truth.abundance).sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(truth.composition).sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(truth.spectra).sum(0), 1, atol=1e-4)
    assert np.asarray(truth.abundance).max((1, 2)).min() > 0.9
    iron = truth.element_symbols.index("Fe")
    assert float(truth.composition[iron, 1]) == pytest.approx(0.104, abs=1e-6)
    assert image.pixel_size == (4.0, 4.0)


def test_demo_model_is_a_100_nm_foil():
    model = demo_model()
    assert model.energy_axis.size == 1980
    assert model.beam_energy == 200.0
    assert float(model.mass_thickness) == pytest.approx(4.2 * 100e-7)


MAPS = np.full((2, 3, 3), 0.5)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: simulate(m, [OXIDE], MAPS, 10.0, key=KEY), "1 phases but 2"),
        (lambda m: simulate(m, [OXIDE, METAL], 2 * MAPS, 10.0, key=KEY), "sum to one"),
        (lambda m: simulate(m, [OXIDE, METAL], np.nan * MAPS, 10.0, key=KEY), "sum to one"),
        (lambda m: simulate(m, [OXIDE, METAL], MAPS, 0.0, key=KEY), "positive number"),
        (lambda m: simulate(m, [OXIDE, METAL], MAPS, float("nan"), key=KEY), "positive number"),
        (
            lambda m: simulate(m, [OXIDE, METAL], MAPS, 9.0, key=KEY, thickness=np.ones((2, 2))),
            "make them equal",
        ),
        (
            lambda m: simulate(m, [OXIDE, METAL], MAPS, 9.0, key=KEY, thickness=-np.ones((3, 3))),
            "negative or non-finite",
        ),
        (
            lambda m: simulate(m, [OXIDE, METAL], MAPS, 9.0, key=KEY, thickness=np.zeros((3, 3))),
            "zero everywhere",
        ),
        (lambda m: phase_weights(m, [Phase("glass", {"Si": 1, "O": 2}, 2.2)]), "holds Si"),
        (lambda m: phase_weights(m, [Phase("x", {"O": 1}, 1.0, stray={"Ga": 1.0})]), "stray Ga"),
        (lambda m: phase_weights(m, [Phase("x", {"O": 1}, 1.0, bremsstrahlung=(1.0,))]), "2 conti"),
        (lambda m: phase_weights(m, []), "at least one phase"),
        (lambda m: Phase("x", {"O": 1}, 0.0), "must be positive"),
        (lambda m: Phase("x", {"O": 1}, 1.0, bremsstrahlung=-0.1), "negative or not finite"),
        (lambda m: Phase("x", {"Oo": 1}, 1.0), "Oo"),
    ],
)
def test_bad_input_gets_one_sentence(model, call, words):
    with pytest.raises(InputError, match=words):
        call(model)
