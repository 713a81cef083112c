import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xraylib

from esmpy_jax._basis import ColumnKind
from esmpy_jax._checks import InputError
from esmpy_jax.atomic import Composition, emission_lines
from esmpy_jax.model import EDSModel, forward
from esmpy_jax.physics import Detector, EnergyAxis, LifshinBremsstrahlung, detector_window

AXIS = (0.2, 0.01, 1980)
ELEMENTS = ["O", "Si", "Fe"]


def make(**options):
    options = {"elements": ELEMENTS, "beam_energy": 200.0, **options}
    return EDSModel.from_axis(EnergyAxis(*AXIS), options.pop("elements"), **options)


def share(energy, noise, fano):
    """A line's share of each channel, with the standard library's erf."""
    fwhm2 = noise**2 + 8 * math.log(2) * fano * 3.64e-3 * energy
    scale = math.sqrt(fwhm2 / (4 * math.log(2)))
    edges = [(AXIS[0] + AXIS[1] * (i - 0.5) - energy) / scale for i in range(AXIS[2] + 1)]
    return np.diff([math.erf(edge) for edge in edges]) / 2


def test_columns_are_described_in_order():
    model = make(
        elements=["O", "Fe", "Mo"],
        stray=["Cu"],
        split={"Fe": 3.0},
        columns={"carbon film": np.ones(AXIS[2])},
    )
    described = [(c.label, c.kind, c.in_composition, c.family) for c in model.columns]
    element, stray = ColumnKind.ELEMENT, ColumnKind.STRAY
    assert described == [
        ("O", element, True, "K"),
        ("Fe<3keV", element, False, "L"),
        ("Fe", element, True, "K"),
        ("Mo", element, True, None),
        ("Cu K", stray, False, "K"),
        ("Cu L", stray, False, "L"),
        ("brems 0", ColumnKind.BREMSSTRAHLUNG, False, None),
        ("brems 1", ColumnKind.BREMSSTRAHLUNG, False, None),
        ("carbon film", ColumnKind.CUSTOM, False, None),
    ]
    assert [c.atomic_number for c in model.columns] == [8, 26, 26, 42, 29, 29, None, None, None]
    assert [c.energy_range for c in model.columns[1:3]] == [(0.0, 3.0), (3.0, math.inf)]
    assert [e.symbol for e in model.elements] == ["O", "Fe", "Mo"]
    basis = model.basis()
    assert basis.matrix.shape == (1980, 9)
    np.testing.assert_array_equal(basis.matrix[:, -1], 1.0)
    rows = np.flatnonzero(basis.composition_rows)
    assert [basis.labels[i] for i in rows] == [e.symbol for e in model.elements]


def test_a_column_is_the_sum_of_its_lines_in_barn(precision):
    """Against a plain sum over lines with the standard library's erf and xraylib's silicon."""
    model = make()
    matrix = np.asarray(model.basis().matrix, float)
    noise = math.sqrt(0.13**2 - 8 * math.log(2) * 0.12 * 3.64e-3 * 5.895)
    for i, symbol in enumerate(ELEMENTS):
        lines = emission_lines([symbol], 200.0)
        expected = np.zeros(AXIS[2])
        for energy, cross_section in zip(lines.energy, lines.cross_section, strict=True):
            if energy > 0.1:
                counted = -np.expm1(-xraylib.CS_Photo(14, energy) * 2.33 * 0.045)
                expected += cross_section / 1e-24 * counted * share(energy, noise, 0.12)
        np.testing.assert_allclose(matrix[:, i], expected, atol=1e-3 * expected.max())


def test_a_line_just_outside_the_axis_reaches_in(x64):
    axis = EnergyAxis(0.75, 0.01, 1000)
    model = EDSModel.from_axis(axis, ["Fe"], beam_energy=200.0)
    # Fe Lα at 0.705 keV lies 0.04 keV below the first channel's edge.
    assert model.lines.energy.min() < 0.72
    assert model.lines_in_range().energy.min() > 0.745
    full = EDSModel.from_axis(EnergyAxis(0.2, 0.01, 1055), ["Fe"], beam_energy=200.0)
    np.testing.assert_allclose(
        model.basis().matrix[:, 0], full.basis().matrix[55:, 0], rtol=1e-6, atol=1e-9
    )


def test_bremsstrahlung_columns_are_photons_per_channel():
    model = make()
    energy = AXIS[0] + AXIS[1] * np.arange(AXIS[2])
    counted = -np.expm1(-np.array([xraylib.CS_Photo(14, e) for e in energy]) * 2.33 * 0.045)
    shapes = np.stack([(200 - energy) / 200**2, (200 - energy) ** 2 / (200**2 * energy)], 1)
    expected = shapes * counted[:, None] * 10
    np.testing.assert_allclose(model.basis().matrix[:, -2:], expected, rtol=5e-3)


def test_splitting_an_element_takes_its_column_apart(x64):
    whole = make().basis().matrix
    parts = make(split={"Fe": 3.0}).basis().matrix
    assert parts.shape[1] == whole.shape[1] + 1
    np.testing.assert_allclose(parts[:, 2] + parts[:, 3], whole[:, 2], rtol=1e-12)
    energy = np.asarray(make().energy_axis.centres)
    assert float(parts[energy > 3.5, 2].sum()) == 0
    assert float(parts[energy < 2.5, 3].max()) < 1e-9 * float(parts[:, 3].max())


def test_stray_families_add_up_to_the_element(x64):
    stray = make(stray=["Cu"]).basis()
    element = make(elements=[*ELEMENTS, "Cu"]).basis()
    together = sum(stray.matrix[:, stray.labels.index(label)] for label in ("Cu K", "Cu L"))
    np.testing.assert_allclose(together, element.matrix[:, 3], rtol=1e-12)


# Dysprosium scandate: the absorption of O K in 100 nm, 6.97 g/cm³, at 18 degrees.
SCANDATE = {
    "elements": ["Dy", "Sc", "O"],
    "thickness": 100,
    "density": 6.97,
    "take_off_angle": 18,
}


def test_oxygen_is_absorbed_by_the_phase_and_not_by_itself():
    thin = make(elements=["Dy", "Sc", "O"]).basis().matrix
    model = make(**SCANDATE)
    weights = jnp.array([[0.2, 0.0], [0.2, 0.0], [0.6, 1.0], [0.0, 0.0], [0.0, 0.0]])
    basis = model.basis(weights)
    assert basis.depends_on_phase
    assert basis.matrix.shape == (2, AXIS[2], 5)
    peak = int(jnp.argmax(thin[:, 2]))
    # By hand from xraylib's 1292.6 (O), 22634 (Sc) and 7354.9 (Dy) cm²/g at 0.5249 keV.
    assert basis.matrix[0, peak, 2] / thin[peak, 2] == pytest.approx(0.4311, abs=1e-3)
    assert basis.matrix[1, peak, 2] / thin[peak, 2] == pytest.approx(0.8674, abs=1e-3)
    # Mass fractions of DyScO3 by hand: 162.5, 44.956 and 48.0 of 255.46 g/mol.
    np.testing.assert_allclose(
        model.mass_fractions(weights)[:, 0], [0.6361, 0.1760, 0.1879], atol=1e-4
    )


def test_every_line_and_the_continuum_are_absorbed_at_their_own_energy(x64):
    """The ratio to a foil without absorption, line by line, from xraylib's attenuation."""
    model = make(**SCANDATE, stray=["Cu"])
    thin = make(elements=["Dy", "Sc", "O"], stray=["Cu"]).basis().matrix
    composition = Composition.from_formula("DyScO3")
    weights = jnp.array([0.2, 0.2, 0.6, 0.0, 0.0, 0.0, 0.0])[:, None]
    thick = model.basis(weights).matrix[0]

    def leaving(energy):
        mu = sum(
            fraction * xraylib.CS_Total(element.atomic_number, energy)
            for element, fraction in zip(
                composition.elements, composition.weight_fractions, strict=True
            )
        )
        chi = mu * 6.97 * 100e-7 / math.sin(math.radians(18))
        return (1 - math.exp(-chi)) / chi

    # Sc Kα alone at 4.09 keV; the continuum at three energies.
    scandium = round((4.09 - AXIS[0]) / AXIS[1])
    assert thick[scandium, 1] / thin[scandium, 1] == pytest.approx(leaving(4.09), rel=1e-3)
    for channel in (30, 300, 1500):
        expected = leaving(AXIS[0] + AXIS[1] * channel)
        assert thick[channel, -1] / thin[channel, -1] == pytest.approx(expected, rel=3e-3)
    # The stray columns are not absorbed by the sample.
    np.testing.assert_allclose(thick[:, 3:5], thin[:, 3:5], rtol=1e-12)


def test_the_scale_of_the_weights_does_not_matter_to_absorption(x64):
    model = make(**SCANDATE)
    weights = jnp.abs(jnp.sin(jnp.arange(15.0))).reshape(5, 3)
    np.testing.assert_allclose(
        model.basis(weights).matrix, model.basis(7e3 * weights).matrix, rtol=1e-12
    )


def test_without_weights_the_reference_composition_absorbs(x64):
    equal = make(**SCANDATE)
    given = make(**SCANDATE, reference_composition=Composition.from_formula("DyScO3"))
    assert given.basis().matrix.shape == (AXIS[2], 5)
    for model, atoms in ((equal, [1.0, 1.0, 1.0]), (given, [0.2, 0.2, 0.6])):
        weights = jnp.array([*atoms, 0.0, 0.0])[:, None]
        np.testing.assert_allclose(model.basis().matrix, model.basis(weights).matrix[0])


def test_a_phase_without_elements_has_a_finite_basis_and_gradient():
    model = make(**SCANDATE)
    weights = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0])[:, None]
    np.testing.assert_allclose(model.basis(weights).matrix[0], model.basis().matrix, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda w: model.basis(w).matrix.sum()))(weights)
    assert np.isfinite(gradient).all()


def test_zero_thickness_is_no_absorption():
    model = make(thickness=0, density=5.0)
    assert model.mass_thickness is None
    np.testing.assert_array_equal(model.basis().matrix, make().basis().matrix)


def test_float32_agrees_with_float64():
    options = {"elements": ["O", "Mg", "Fe", "Mo", "Hf"], "stray": ["Cu"], "thickness": 150}
    options |= {"density": 5.0, "take_off_angle": 22.0}
    found = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            model = make(**options)
            weights = jnp.linspace(0.1, 1.0, 18).reshape(9, 2)
            matrix = model.basis(weights).matrix
            assert matrix.dtype == (jnp.float64 if wide else jnp.float32)
            found.append(np.asarray(matrix, float))
    single, double = found
    error = np.abs(single - double).max(1) / double.max(1)
    assert error.max() < 1.5e-5


def test_basis_is_positive_and_finite_on_an_axis_that_starts_below_zero():
    model = EDSModel.from_axis(
        EnergyAxis(-0.475, 0.01, 2048),
        ["C", "O", "Fe"],
        beam_energy=20.0,
        thickness=100,
        density=5.0,
        take_off_angle=35.0,
        detector=Detector(detector_window("si3n4")),
    )
    matrix = model.basis(jnp.ones((5, 2))).matrix
    assert np.isfinite(matrix).all()
    assert (matrix >= 0).all()
    assert (matrix[:, :2000].sum(-1) > 0).all()


def test_array_leaves_are_the_physical_parameters():
    model = make(**SCANDATE, columns={"mine": np.ones(AXIS[2])})
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert len(leaves) == len(jax.tree.leaves(model)) == 9
    assert all(leaf.shape == () for leaf in leaves)
    values = sorted(float(leaf) for leaf in leaves)
    expected = [0.0, 100e-7 * 6.97, 0.01, 0.0512, 0.12, 0.2, 1.0, 18.0, 4.5e5]
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_basis_can_be_compiled_and_equal_models_share_the_compilation():
    traces = []

    @eqx.filter_jit
    def compiled(model, weights):
        traces.append(1)
        return model.basis(weights)

    weights = jnp.full((5, 2), 0.2)
    for gain in (0.01, 0.0101):
        model = EDSModel.from_axis(EnergyAxis(0.2, gain, 1980), **SCANDATE, beam_energy=200.0)
        basis = compiled(model, weights)
        np.testing.assert_allclose(basis.matrix, model.basis(weights).matrix, rtol=1e-4, atol=1e-5)
        assert basis.columns == model.columns
    # A little further, the same lines lie on the axis: nothing static has changed.
    assert len(traces) == 1


def test_own_continuum_and_weaker_lines():
    few = make(min_cross_section=1e-24, bremsstrahlung=LifshinBremsstrahlung())
    assert 0 < len(few.lines) < len(make().lines)
    assert few.lines.cross_section.min() >= 1e-24
    # Vacancies handed down from the K shell raise Fe L (by 17 % in Fe L3-M5).
    primary = make(cascades=False).basis().matrix[:, 2]
    total = make().basis().matrix[:, 2]
    iron_l = round((0.705 - AXIS[0]) / AXIS[1])
    assert 1.1 < total[iron_l] / primary[iron_l] < 1.3


def test_forward_sums_over_phases():
    model = make(**SCANDATE)
    weights = jnp.linspace(0.0, 1.0, 10).reshape(5, 2)
    abundances = jnp.linspace(1.0, 3.0, 8).reshape(2, 4)
    for basis in (model.basis(), model.basis(weights)):
        g = np.asarray(basis.matrix, float)
        g = g if g.ndim == 3 else np.stack([g, g])
        w, h = np.asarray(weights, float), np.asarray(abundances, float)
        expected = sum(np.outer(g[a] @ w[:, a], h[a]) for a in range(2))
        for argument in (basis, basis.matrix):
            counts = forward(argument, weights, abundances)
            np.testing.assert_allclose(counts, expected, rtol=1e-5)


def test_self_absorption_cannot_be_switched_on_afterwards():
    model = eqx.tree_at(
        lambda m: m.mass_thickness, make(), jnp.asarray(1e-4), is_leaf=lambda x: x is None
    )
    with pytest.raises(InputError, match="built without self-absorption; build it again"):
        model.basis()
