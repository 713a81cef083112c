"""How many steps the binned fit may take, and what is said when they are too few."""

import json

import equinox as eqx
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.cli._choices import choice_sentences
from esmpy_jax.inference import _coarse, _job
from esmpy_jax.solve import factorise

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


def test_held_weights_and_brightness_belong_to_the_counts_that_are_fitted(problem, monkeypatch):
    """A fit to four fifths of the counts has four fifths of what was given for all of them."""
    image, model = problem
    seen = []

    def recorded(counts, basis, n_phases, **options):
        bright, given = np.asarray(options["constraint"].brightness), options["fixed_weights"]
        seen.append((counts.total, bright[0], np.asarray(given, float)))
        return factorise(counts, basis, n_phases, **options)

    monkeypatch.setattr(_job, "factorise", recorded)
    total, mean = image.counts.total, image.counts.total / 64
    held = np.full((len(model.columns), 2), np.nan)
    held[0, 0] = 1e-3 * mean
    constraint = ej.SumToOneAbundances(brightness=[mean, 1.1 * mean])
    solver = ej.CoarseToFine(factor=2, purity=1.0, absent_below=0.0, starts=(ej.RandomStart(),))
    ej.fit(image, model, 2, solver=solver, constraint=constraint, fixed_weights=held)
    assert {round(float(bright / mean), 3) for _, bright, _ in seen} == {0.8, 1.0}
    of_bins = [np.isnan(given).any() for *_, given in seen]  # the maps hold all of W
    assert any(of_bins)
    for (counted, bright, given), free in zip(seen, of_bins, strict=True):
        share = float(bright / mean)
        assert counted / total == pytest.approx(share, abs=0.02)  # drawn photon by photon
        if free:
            assert given[0, 0] == pytest.approx(share * held[0, 0])


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
