"""How many phases: small scenes with one, two and three, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.plot import plot_phase_number
from esmpy_jax.simulate import Phase, simulate

PHASES = (
    Phase("matrix", {"O": 60, "Mg": 40}, 3.5),
    Phase("grain", {"O": 50, "Si": 50}, 3.5),
    Phase("metal", {"Fe": 100}, 7.0),
)
MODEL = ej.EDSModel.from_axis(
    ej.EnergyAxis(0.35, 0.03, 230), ["O", "Mg", "Si", "Fe"], beam_energy=200.0
)
SOLVER = ej.CoarseToFine(starts=(ej.VertexStart(1.0), ej.VertexStart(2.0)))


def image(n, seed):
    y, x = np.indices((32, 32))
    grain = (np.hypot(y - 8, x - 8) < 6) * 1.0
    metal = (np.hypot(y - 22, x - 20) < 6) * 1.0
    maps = [1 - grain * (n > 1) - metal * (n > 2), grain, metal][:n]
    return simulate(MODEL, PHASES[:n], np.stack(maps), 40.0, key=jax.random.key(seed))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_the_right_number_is_found(n):
    for seed in range(3):
        found = ej.count_phases(
            image(n, seed).counts, MODEL.basis(), solver=SOLVER, key=jax.random.key(seed), most=4
        )
        assert found.n_phases == n
        assert found.tried == tuple(range(1, len(found.tried) + 1))
        assert min(found.losses) == 0
        for k in range(1, n):  # each true phase tells the counts clearly apart
            assert found.gains[k] > 5 * found.gain_errors[k]


@pytest.mark.slow
def test_fit_finds_the_number_and_shows_it():
    solution = ej.fit(image(2, 0), MODEL, "auto", solver=SOLVER)
    data = solution.dataset
    assert data.sizes["phase"] == 2
    assert data["held_out_loss"].values.min() == 0
    stored = json.loads(data.attrs["settings"])["phase_number"]
    assert stored["n_phases"] == 2
    assert stored["tried"][:4] == [1, 2, 3, 4]
    axes = plot_phase_number(data).axes[0]
    assert axes.get_xlabel() == "phases"
    assert solution.abundance.shape[0] == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_one_phase_too_many_leaves_the_others_as_they_are(seed):
    """It became ever brighter and rarer for nothing, where phases had their own brightness."""
    scene = image(3, seed)
    solution = ej.fit(scene, MODEL, 4, solver=SOLVER, key=jax.random.key(seed))
    assert solution.converged
    true = np.asarray(scene.truth.abundance).reshape(3, -1)
    found = np.asarray(solution.abundance).reshape(4, -1)
    assert np.corrcoef(true, found)[:3, 3:].max(1).min() > 0.95
    data = solution.dataset
    bright = data["spectra"].values.sum(0) / data["H_plane"].values
    np.testing.assert_allclose(bright, bright.mean(), rtol=1e-4)
    (extra,) = np.flatnonzero(data["determined"].values != 1)
    said = " ".join(w for w in solution.warnings if str(data["phase"].values[extra]) in w)
    # a mixture of others, or a continuum without lines
    assert "open" in said or "tell" in said or "practically no element" in said


def test_a_search_that_was_cut_off_is_told():
    numbers = {"losses": (3.0, 0.0), "errors": (1.0, 0.0), "gains": (np.nan, 3.0)}
    found = ej.PhaseNumber(2, (1, 2), **numbers, gain_errors=(np.nan, 1.0))
    assert found.warnings == []
    assert (
        "ended at 2, when the time was up" in dataclasses.replace(found, ended="late").warnings[0]
    )
    assert "as many as were tried" in dataclasses.replace(found, ended="most").warnings[0]
    assert dataclasses.replace(found, n_phases=1, ended="most").warnings == []


@pytest.mark.parametrize(
    ("n_phases", "options", "sentence"),
    [
        ("two", {}, "number of phases is 'two'"),
        (True, {}, "number of phases is True"),
        (2, {"solver": ej.CoarseToFine(purities=(8.0, 1.0))}, "from the least to the largest"),
        (2, {"solver": ej.CoarseToFine(max_pixels=0)}, "max_pixels is 0"),
        ("auto", {"phase_names": ["a"]}, "cannot be found"),
        ("auto", {"fixed_weights": np.full((5, 2), np.nan)}, "cannot be found"),
    ],
)
def test_what_cannot_be_counted_is_refused(n_phases, options, sentence):
    with pytest.raises(ej.InputError, match=sentence):
        ej.fit(image(1, 0), MODEL, n_phases, **options)
    with pytest.raises(ej.InputError, match="At most 0"):
        ej.count_phases(image(1, 0).counts, MODEL.basis(), most=0)
