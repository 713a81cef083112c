"""Atoms per area and mass-thickness from current, time and solid angle, against plain NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.atomic import emission_lines
from esmpy_jax.cli._quantify import _amounts as quantified
from esmpy_jax.inference import (
    atoms_per_area,
    mass_thickness,
    pixel_amounts,
    thickness,
    with_mass_thickness,
)
from esmpy_jax.inference._areal import FACTORS, typical, variables
from esmpy_jax.inference._warnings import of_dose
from esmpy_jax.simulate import Phase, simulate

CURRENT, DWELL, ANGLE = 0.5, 0.1, 0.7  # nA, s, sr
AXIS = ej.EnergyAxis(0.3, 0.02, 350)
OXIDE = {"O": 0.6, "Si": 0.2, "Fe": 0.2}
MASSES = {"O": 15.999, "Si": 28.085, "Fe": 55.845}
ATOMS = 2000.0  # per nm²
QUICK = {"solver": ej.MultiplicativeUpdate(), "start": ej.RandomStart(), "max_steps": 200}


@pytest.fixture(scope="module")
def model():
    return ej.EDSModel.from_axis(AXIS, list(OXIDE), beam_energy=200.0, min_cross_section=0.0)


def expected_counts(model, atoms):
    """Counts of a pixel, by hand: electrons × atoms × σ × Ω/4π × efficiency, line by line."""
    electrons = CURRENT * 1e-9 * DWELL / 1.602176634e-19
    total = 0.0
    for element, number in atoms.items():
        lines = emission_lines([element], 200.0, (0.4, 7.2))
        seen = np.asarray(model.detector.efficiency(jnp.asarray(lines.energy, float)))
        per_area = number * 1e14  # per cm², cross sections being in cm²
        total += electrons * per_area * ANGLE / (4 * math.pi) * (lines.cross_section * seen).sum()
    return float(total)


def known(image, **more):
    given = {"beam_current": CURRENT, "dwell_time": DWELL, "solid_angle": ANGLE} | more
    return dataclasses.replace(image, acquisition=dataclasses.replace(image.acquisition, **given))


def film(model, seed, **options):
    counts = expected_counts(model, {k: ATOMS * x for k, x in OXIDE.items()})
    phase = Phase("oxide", OXIDE, 5.0, bremsstrahlung=0.0)
    key = jax.random.key(seed)
    return known(simulate(model, [phase], np.ones((1, 6, 6)), counts, key=key), **options)


def test_units_by_hand():
    """1 nA for 1 s are 6.2415e9 electrons; over 4π sr they meet 0.62415 barn per nm²."""
    dose = ej.Dose(1.0, 1.0, 4 * math.pi)
    assert dose.electrons == pytest.approx(6.241509074e9, rel=1e-9)
    assert dose.abundance_per_area == pytest.approx(0.6241509074, rel=1e-9)
    half = ej.Dose(1, 0.5, 2 * math.pi)
    assert half.abundance_per_area == pytest.approx(0.6241509074 / 4, rel=1e-9)
    np.testing.assert_allclose(atoms_per_area(np.array([[0.6241509074]]), dose), 1.0, rtol=1e-9)
    # 10 nm of silicon at 2.329 g/cm³ are 499.4 atoms per nm² and 2.329 µg/cm²
    atoms = np.array([[2.329 * 602.214076 / 28.085 * 10]])
    assert atoms[0, 0] == pytest.approx(499.4, abs=0.05)
    found = mass_thickness(atoms, np.array([28.085]))
    np.testing.assert_allclose(found, 2.329e-6, rtol=1e-9)
    np.testing.assert_allclose(thickness(found, 2.329), 10.0, rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_film_is_found_within_counting_error(model, seed):
    image = film(model, seed)
    solution = ej.fit(image, model, 1, **QUICK)
    total = float(image.counts.total)
    assert total > 10_000
    data = solution.dataset
    found = data["atoms_per_area"].values.mean()
    # atoms are mostly oxygen, whose counts are about a third of all
    assert found == pytest.approx(ATOMS, rel=4 * math.sqrt(3 / total))
    mass = sum(x * MASSES[k] for k, x in OXIDE.items()) * ATOMS * 1e14 / 6.02214076e23
    assert data["mass_thickness"].values.mean() == pytest.approx(mass, rel=4 * math.sqrt(3 / total))
    assert data["mass_thickness"].attrs["from"] == (
        "0.5 nA (given), 0.1 s per pixel (given), 0.7 sr (given)"
    )
    each = solution.pixel_amounts(density=4.0)
    truth = ATOMS * np.array(list(OXIDE.values()))[:, None, None]
    pull = (each["atoms_per_area"] - truth) / each["atoms_per_area_stderr"]
    # a phase of one composition: the pixels share the error of W, and each has its own
    assert np.abs(pull).max() < 5
    np.testing.assert_allclose(each["mass_thickness"], data["mass_thickness"], rtol=1e-4)
    np.testing.assert_allclose(each["thickness"], each["mass_thickness"] / 4.0 * 1e7, rtol=1e-5)
    pull = (each["mass_thickness"] - mass) / each["mass_thickness_stderr"]
    assert 0.6 < float(np.sqrt((pull**2).mean())) < 1.6  # 36 pixels and an error they share
    named = solution.pixel_amounts(density={"phase 1": 4.0})
    np.testing.assert_allclose(named["thickness"], each["thickness"])


def test_errors_hold_the_counts_of_a_pixel_unless_it_was_held(model):
    """Shares sum to one, but counts of a pixel do not; abundances that sum to one are all alike."""
    solution = ej.fit(film(model, 5), model, 1, constraint=ej.SumToOneShares(), **QUICK)
    counting = 1 / np.sqrt(solution.dataset["pixel_counts"].values)
    found = solution.pixel_amounts()
    relative = (found["mass_thickness_stderr"] / found["mass_thickness"]).values
    np.testing.assert_allclose(relative, counting, rtol=0.35)
    settings = solution.dataset.attrs["settings"].replace("SumToOneShares", "SumToOneAbundances")
    found = ej.Solution(solution.dataset.assign_attrs(settings=settings)).pixel_amounts()
    relative = (found["mass_thickness_stderr"] / found["mass_thickness"]).values
    assert (relative < 0.5 * counting).all()


def test_exposure_and_bins(model):
    """Twice the exposure doubles the counts, not the atoms; a bin adds up dwell times."""
    image = film(model, 1)
    rng = np.random.default_rng(0)
    dense = image.counts.to_dense().astype(int)
    dense[::2] += rng.poisson(dense.mean(0), dense[::2].shape)
    exposure = np.where(np.arange(36) % 2 == 0, 2.0, 1.0)
    counts = ej.as_counts(dense.reshape(6, 6, -1), exposure=exposure)
    image = dataclasses.replace(image, counts=counts)
    found = ej.fit(image, model, 1, **QUICK).dataset["atoms_per_area"].values
    assert found.mean() == pytest.approx(ATOMS, rel=0.06)
    assert found[0, :, ::2].mean() == pytest.approx(found[0, :, 1::2].mean(), rel=0.1)
    binned = image.bin(2)
    assert binned.acquisition.dwell_time == pytest.approx(4 * DWELL)
    np.testing.assert_allclose(binned.counts.exposure, 1.5)  # the mean, not the sum


def test_what_is_missing_is_said_in_one_sentence(model):
    image = film(model, 0, beam_current=None, dwell_time=None, live_time=12.5)
    solution = ej.fit(image, model, 1, **QUICK)
    assert solution.dose is None
    assert "atoms_per_area" not in solution.dataset
    assert not any("current" in warning for warning in solution.warnings)
    with pytest.raises(ej.InputError) as error:
        solution.pixel_amounts(dwell_time=1.0)
    assert str(error.value) == (
        "Amounts per area need the beam current, which is not known; give beam_current in nA."
    )
    with pytest.raises(ej.InputError, match="beam_current in nA and dwell_time in s per pixel"):
        solution.pixel_amounts()
    with pytest.raises(ej.InputError, match=r"live time of 12.5 s may be that of a pixel or"):
        ej.Dose.from_acquisition(image.acquisition)
    given = solution.pixel_amounts(beam_current=1.0, dwell_time=0.2)
    twice = solution.pixel_amounts(beam_current=1.0, dwell_time=0.1)
    np.testing.assert_allclose(2 * given["mass_thickness"], twice["mass_thickness"], rtol=1e-6)
    assert twice["mass_thickness"].attrs["from"].startswith("1 nA (given), 0.1 s per pixel (given)")
    with pytest.raises(ej.InputError, match=r"beam current is -1\.0 nA"):
        solution.pixel_amounts(beam_current=-1.0, dwell_time=1.0)
    for wrong, said in ((0.0, "positive"), ({"other": 3.0}, "the phases are phase 1")):
        with pytest.raises(ej.InputError, match=said):
            solution.pixel_amounts(beam_current=1.0, dwell_time=1.0, density=wrong)


def test_it_is_kept_in_the_file(model, tmp_path):
    solution = ej.fit(film(model, 0), model, 1, **QUICK)
    solution.save(tmp_path / "a.nc")
    again = ej.Solution.load(tmp_path / "a.nc")
    assert again.dose == ej.Dose(CURRENT, DWELL, ANGLE)
    assert again.parameters["dwell time"].unit == "s"
    for name in ("atoms_per_area", "mass_thickness"):
        np.testing.assert_array_equal(again.dataset[name], solution.dataset[name])
        assert again.dataset[name].attrs == solution.dataset[name].attrs


def test_the_program_takes_the_dwell_time_of_a_pixel_of_the_file(model):
    """A solution of 2 x 2 binned pixels has four of them in each."""
    image = film(model, 0, dwell_time=None)
    image = dataclasses.replace(image, provenance={"bin": ej.Provenance(2, "px")})
    solution = ej.fit(image, model, 1, **QUICK)
    assert quantified(solution, None, None, None, None) is None
    found = quantified(solution, None, 0.1, None, None)
    expected = solution.pixel_amounts(dwell_time=0.4)
    np.testing.assert_allclose(found["mass_thickness"], expected["mass_thickness"], rtol=1e-6)


def test_a_phase_without_atoms_has_none():
    """A hole: its H is in counts, not in atoms."""
    values = zip(FACTORS.values(), (CURRENT, DWELL, ANGLE), strict=True)
    parameters = {name: ej.Provenance(value) for name, value in values}
    fractions = np.array([[1.0, 0.0]])
    found = variables(parameters, np.ones((2, 6)), fractions, np.array([28.085]), (2, 3))
    dims, atoms, _ = found["atoms_per_area"]
    assert dims == ("phase", "y", "x")
    assert (atoms[1] == 0).all()
    per_area = 1 / ej.Dose(CURRENT, DWELL, ANGLE).abundance_per_area
    np.testing.assert_allclose(atoms[0], per_area, rtol=1e-12)
    _, mass, attrs = found["mass_thickness"]
    np.testing.assert_allclose(mass, per_area * 28.085e14 / 6.02214076e23, rtol=1e-9)
    assert attrs["units"] == "g/cm²"
    del parameters["beam current"]
    assert variables(parameters, np.ones((2, 6)), fractions, np.array([28.085]), (2, 3)) == {}


def test_the_mean_leaves_out_holes_and_noise():
    rng = np.random.default_rng(1)
    counts = rng.poisson(np.where(np.arange(4000) % 2, 3.0, 0.0)).reshape(40, 100)
    counts = counts.astype(float)
    assert typical(2e-6 * counts, counts) == pytest.approx(6e-6, rel=0.05)
    assert typical(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0


def test_self_absorption_and_dose_are_compared():
    foil = ej.EDSModel.from_axis(
        AXIS, list(OXIDE), beam_energy=200.0, take_off_angle=22.0, thickness=50.0, density=5.0
    )
    kg = 2.5e-5  # g/cm², 50 nm of 5 g/cm³
    mass = sum(x * MASSES[k] for k, x in OXIDE.items())
    atoms = kg * 6.02214076e23 / mass / 1e14
    dose = ej.Dose(CURRENT, DWELL, ANGLE)
    phase = Phase("oxide", OXIDE, 5.0, bremsstrahlung=0.0)
    weights = np.zeros((len(foil.columns), 1))
    weights[:3, 0] = list(OXIDE.values())
    per_atom = np.asarray(foil.basis(jnp.asarray(weights, float)).endmembers(jnp.asarray(weights)))
    counts = float(per_atom.sum()) * atoms * dose.abundance_per_area
    image = simulate(foil, [phase], np.ones((1, 4, 4)), counts, key=jax.random.key(0))
    solution = ej.fit(known(image), foil, 1, **QUICK)
    assert not any("dose speak" in w for w in solution.warnings)
    again = with_mass_thickness(foil, solution)
    assert float(again.mass_thickness) == pytest.approx(kg, rel=0.03)
    assert again.parameters()["mass_thickness"].source == "derived"
    assert again.parameters()["thickness"].value == pytest.approx(50, rel=0.03)
    maps = [solution.dataset[name].values for name in ("mass_thickness", "pixel_counts")]
    half = foil.with_mass_thickness(kg / 2)
    (said,) = of_dose(half, solution.parameters, *maps)
    assert "2.5e-05 g/cm²" in said
    assert "mass-thickness of 1.2e-05 g/cm²" in said
    tilt = {"tilt alpha": ej.Provenance(60.0, "°")}  # twice the path, and none of the normal's
    assert of_dose(half, solution.parameters | tilt, *maps) == []
    assert of_dose(foil, solution.parameters | tilt, *maps)
    thin = ej.EDSModel.from_axis(AXIS, list(OXIDE), beam_energy=200.0)
    with pytest.raises(ej.InputError, match="without self-absorption"):
        with_mass_thickness(thin, solution)


def test_errors_of_amounts_against_a_dense_inverse(x64):
    """Two phases, three pixels: var x = J cov Jᵀ with W's covariance and each pixel's own noise."""
    rng = np.random.default_rng(3)
    matrix = rng.uniform(0.1, 1.0, (12, 3))
    weights = rng.uniform(0.2, 1.0, (3, 2))
    abundances = rng.uniform(20.0, 50.0, (2, 3))
    exposure = np.array([1.0, 2.0, 0.5])
    root = 0.01 * rng.normal(size=(6, 6))
    covariance = root @ root.T
    per_column = np.array([[1.0, 0.0, 0.0], [16.0, 28.0, 0.0], [16.0, 28.0, 0.0]])
    per_phase = np.array([[1.0, 1.0], [1.0, 1.0], [0.5, 0.2]])
    everywhere = np.ones((2, 3), bool)
    amount, error = pixel_amounts(
        ej.Basis.from_matrix(jnp.asarray(matrix)),
        weights,
        abundances,
        exposure,
        covariance,
        everywhere,
        ~everywhere,
        per_column,
        per_phase,
    )
    ends = matrix @ weights
    for p in range(3):
        h, e = abundances[:, p], exposure[p]

        def best(flat, h=h, e=e):
            """Amounts by the h that a Newton step from the truth gives for another W."""
            moved = matrix @ flat.reshape(3, 2)
            ratio = e / (ends @ h)
            inner = np.einsum("c,ca,cb->ab", ratio, ends, ends)
            step = np.linalg.solve(inner, np.einsum("c,ca,c->a", ratio, ends, (ends - moved) @ h))
            return np.einsum("ij,ja,ia,a->i", per_column, flat.reshape(3, 2), per_phase, h + step)

        at = weights.ravel()
        np.testing.assert_allclose(amount[:, p], best(at), rtol=1e-10)
        jacobian = np.stack(
            [(best(at + d) - best(at - d)) / 2e-5 for d in 1e-5 * np.eye(6)], axis=1
        )
        inner = np.einsum("c,ca,cb->ab", e / (ends @ h), ends, ends)
        content = np.einsum("ij,ja,ia->ia", per_column, weights, per_phase)
        variance = np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)
        variance += np.einsum("ia,ab,ib->i", content, np.linalg.inv(inner), content)
        np.testing.assert_allclose(error[:, p], np.sqrt(variance), rtol=1e-5)
