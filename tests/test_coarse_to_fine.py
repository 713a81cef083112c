"""How many steps the binned fit may take, and what is said when they are too few."""

import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.inference import _coarse

AXIS = ej.EnergyAxis(0.4, 0.05, 60)


@pytest.fixture(scope="module")
def problem():
    model = ej.EDSModel.from_axis(AXIS, ["O", "Si"], beam_energy=200.0)
    rng = np.random.default_rng(0)
    counts = ej.as_counts(rng.poisson(2.0, (8, 8, AXIS.size)))
    image = ej.SpectrumImage(counts, AXIS, ej.Acquisition(beam_energy=200.0))
    return image, model


@pytest.mark.parametrize(
    ("coarse_steps", "polish", "raise_what"),
    [(None, 30, "max_steps"), (15, 15, "coarse_steps of CoarseToFine")],
)
def test_more_steps_reach_the_binned_fit(problem, monkeypatch, coarse_steps, polish, raise_what):
    monkeypatch.setattr(_coarse, "COARSE_STEPS", 20)
    image, model = problem
    solver = ej.CoarseToFine(
        factor=2,
        purity=1.0,
        absent_below=0.0,
        starts=(ej.RandomStart(),),
        solver=ej.MultiplicativeUpdate(),
        fine_solver=ej.AbundanceUpdate(),
        trial_steps=10,
        coarse_steps=coarse_steps,
    )
    # a tolerance that nothing can meet
    options = {"max_steps": 30, "tol": -1.0, "regulariser": ej.NoRegulariser()}
    solution = ej.fit(image, model, 2, solver=solver, **options)
    assert int(solution.dataset["coarse_steps"].values[-1]) == 10 + polish
    assert not solution.converged
    expected = f"did not converge in {10 + polish} steps; raise {raise_what} above that."
    assert solution.result.endswith(expected)
    assert any(sentence.endswith(expected) for sentence in solution.warnings)
