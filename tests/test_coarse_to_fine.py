"""How many steps the binned fit may take, and what is said when they are too few."""

import json

import equinox as eqx
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.cli._choices import choice_sentences
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


def test_the_strength_of_a_laplacian_is_chosen_too(problem):
    """It grows like the counts, where that of a total variation grows like their root."""
    image, model = problem
    solver = ej.CoarseToFine(
        factor=2, purity=1.0, prior="laplacian", absent_below=0.0, starts=(ej.RandomStart(),)
    )
    solution = ej.fit(image, model, 2, solver=solver)
    stored = json.loads(solution.dataset.attrs["settings"])
    choices, last = stored["choices"], stored["regulariser"]
    assert choices["prior"] == "laplacian"
    assert last == f"LaplacianSmoothness(strength={choices['smoothness']:g})"
    tried = np.array(choices["smoothnesses"])
    per_pixel = image.counts.total / 64  # within what was held out by chance
    powers = np.log2(tried[:, 0] / per_pixel)
    np.testing.assert_allclose(powers, powers.round(), atol=0.1)
    assert tried[tried[:, 1].argmin(), 0] == pytest.approx(choices["smoothness"])
    assert any("Laplacian smoothness of strength" in s for s in choice_sentences(solution))
    with pytest.raises(ej.InputError, match='prior is \'tv\'; give "total variation" or "lapl'):
        ej.fit(image, model, 2, solver=eqx.tree_at(lambda s: s.prior, solver, "tv"))
