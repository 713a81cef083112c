"""A phase without elements of the sample (a hole, a grid bar) leaves all other numbers sane."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.inference import information, phase_composition, weights_covariance
from esmpy_jax.objective import NoRegulariser, Unconstrained
from esmpy_jax.simulate import Phase, simulate
from esmpy_jax.solve import Problem

COUNTS, SIDE, STRIP = 60.0, 48, 38  # counts per pixel, pixels, first column of the strip
PHASES = (
    Phase("matrix", {"O": 60, "Mg": 20, "Si": 20}, 3.5, stray={"Cu": 0.05}),
    Phase("particle", {"O": 50, "Mg": 10, "Fe": 40}, 4.5, stray={"Cu": 0.05}),
)
MODEL = ej.EDSModel.from_axis(
    ej.EnergyAxis(0.3, 0.05, 190), ["O", "Mg", "Si", "Fe"], beam_energy=200.0, stray=["Cu"]
)


def scene():
    """A particle in a matrix, and a strip in which the grid shines at a fifth of the dose."""
    y, x = np.indices((SIDE, SIDE))
    particle = np.clip(2.0 - np.hypot(y - 15, x - 15) / 8, 0, 1)
    image = simulate(
        MODEL, PHASES, np.stack([1 - particle, particle]), COUNTS, key=jax.random.key(0)
    )
    cube = np.array(image.counts.to_dense()).reshape(SIDE, SIDE, -1)
    basis = MODEL.basis()
    copper = [i for i, label in enumerate(basis.labels) if label.startswith("Cu")]
    spectrum = np.asarray(basis.matrix, float)[:, copper].sum(1)
    spectrum *= 0.2 * COUNTS / spectrum.sum()
    strip = (SIDE, SIDE - STRIP, len(spectrum))
    cube[:, STRIP:] = np.random.default_rng(1).poisson(spectrum, strip)
    return dataclasses.replace(image, counts=ej.as_counts(cube), truth=None), particle


@pytest.fixture(scope="module")
def found():
    image, particle = scene()
    one_start = ej.CoarseToFine(starts=(ej.VertexStart(1.5),))
    return ej.fit(image, MODEL, 3, solver=one_start), particle


@pytest.mark.slow
def test_the_other_phases_keep_their_errors(found):
    solution, _ = found
    data = solution.dataset
    for variable in data.data_vars.values():
        assert np.isfinite(variable.values).all(), variable.name
    matrix, grain = data["composition"].values[:, :2].T
    matrix_error, grain_error = data["composition_stderr"].values[:, :2].T
    # 9e4 and 1e4 counts in some hundred channels: a fraction of a percent
    assert ((matrix_error > 0.005) & (matrix_error < 0.5)).all()
    assert ((grain_error > 0.1) & (grain_error < 3)).all()
    assert (np.abs(matrix - [60, 20, 20, 0]) < 1).all()
    assert (np.abs(grain - [50, 10, 0, 40]) < 4).all()


@pytest.mark.slow
def test_the_phase_without_atoms_is_said_and_empty(found):
    solution, _ = found
    data = solution.dataset
    assert (data["composition"].values[:, 2] == 0).all()
    np.testing.assert_allclose(data["spectra"].values[:, 2].sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(
        data["fit_sum"].values[:, 2].sum(), data["H"].values[2].sum(), rtol=1e-5
    )
    notes = [text for text in solution.warnings if "practically no element" in text]
    assert len(notes) == 1
    assert notes[0].startswith("phase 3 contains")
    assert "shares of a pixel's counts" in notes[0]
    pixels = solution.pixel_composition()
    assert np.isfinite(pixels["composition_stderr"].values).all()
    atoms = pixels["composition"].values[:, 15, 15]
    assert atoms.sum() == pytest.approx(100, abs=1e-3)
    assert atoms[3] > 30


@pytest.mark.slow
def test_abundances_are_shares_of_the_counts(found):
    solution, particle = found
    data = solution.dataset
    assert data["abundance"].attrs["share_of"] == "counts"
    share = data["abundance"].values
    np.testing.assert_allclose(share.sum(0), 1, rtol=1e-5)
    counts = data["H"].values * data["spectra"].values.sum(0)[:, None, None]
    np.testing.assert_allclose(share, counts / counts.sum(0), atol=1e-5)
    inside = share[:, :, : STRIP - 2]
    assert share[2, :, STRIP + 2 :].mean() > 0.95
    assert inside[2].mean() < 0.1
    assert np.corrcoef(inside[1].ravel(), particle[:, : STRIP - 2].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("traces", [0.0, 1e-30, 1e-12])
def test_errors_do_not_depend_on_the_last_traces_of_atoms(precision, traces):
    """Asked for in a gauge in which W of the phase without atoms is 1e-30 of its usual size."""
    rng = np.random.default_rng(0)
    energy = np.arange(30.0)
    peaks = [np.exp(-0.5 * ((energy - c) / 1.5) ** 2) for c in (5, 12, 24)]
    basis = ej.Basis.from_matrix(np.stack([*peaks, np.exp(-energy / 30)], 1))
    weights = np.array([[0.6, 0.2, 0.0], [0.4, 0.8, 0.0], [0.1, 0.1, 1.0], [0.5, 0.5, 0.2]])
    clean = weights.copy()
    weights[:2, 2] = traces
    share = rng.dirichlet([0.3, 0.3, 0.3], 60).T
    share[share < 0.1] = 0.0
    maps = 200 * share / share.sum(0)
    y = rng.poisson((np.asarray(basis.matrix, float) @ clean @ maps).T)
    counts = ej.as_counts(y, scan_shape=(60,))
    problem = Problem(counts, basis, Unconstrained(), NoRegulariser())

    def errors(w, scale):
        info = information(problem, jnp.asarray(w, float), jnp.asarray(maps, float), scale)
        covariance = weights_covariance(w / scale, info)
        return phase_composition(w / scale, covariance, np.arange(2), np.ones(2))[1]

    usual = errors(clean, np.ones(3))
    assert np.isfinite(usual).all()
    assert (usual[:, :2] > 1e-3).all()
    scaled = errors(weights, np.array([1.0, 1.0, 1e-30]))
    np.testing.assert_allclose(scaled[:, :2], usual[:, :2], rtol=0.02)
    assert np.isfinite(scaled).all()


def test_one_entry_without_finite_information_leaves_the_others_theirs(x64):
    """It is as if that entry were known: the inverse without its row and column."""
    rng = np.random.default_rng(1)
    root = rng.normal(size=(9, 6))
    schur = root.T @ root
    free, known = np.ones((3, 2), bool), np.zeros((3, 2), bool)
    bounded = schur + 1e-6 * np.diag(np.diag(schur))
    broken = schur.copy()
    broken[3, 3] = np.inf
    broken[3, 1] = broken[1, 3] = np.nan
    told = ej.inference.Information(broken, bounded, free, known, np.ones(2, bool))
    covariance = weights_covariance(np.ones((3, 2)), told)
    rest = [0, 1, 2, 4, 5]
    expected = np.linalg.inv(schur[np.ix_(rest, rest)])
    np.testing.assert_allclose(covariance[np.ix_(rest, rest)], expected, rtol=1e-8)
    assert np.isnan(covariance[3]).all()
    assert np.isnan(covariance[:, 3]).all()
