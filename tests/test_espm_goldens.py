"""The updates of this program against 100 updates of espm 1.1.3 (goldens/make_espm_goldens.py)."""

import pathlib

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from esmpy_jax import Basis
from esmpy_jax.objective import (
    LaplacianSmoothness,
    LogSparsity,
    NoRegulariser,
    SumToOneAbundances,
    SumToOneWeights,
    Unconstrained,
    as_counts,
    poisson_nll,
)
from esmpy_jax.solve import update_abundances, update_weights

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "espm_updates.npz"
CASES = (
    "unconstrained",
    "log_sparsity",
    "laplacian",
    "simplex_h",
    "simplex_h_log_sparsity",
    "simplex_h_laplacian",
    "simplex_w",
    "simplex_w_elements",
)

# espm keeps W and H at or above 1e-14 and replaces empty pixels by counts of 1e-14, this program
# knows exact zeros; and espm takes the root of the smoothness step by a difference that cancels,
# which leaves about 1e-15 of the largest entry. What is smaller than this share of the largest
# entry is compared in absolute terms.
FLOOR = 1e-12
# Asked for are 1e-6; two float64 programs that differ in the order of their sums stay 1e-10 apart
# after 100 updates, which also tells their formulas apart where 1e-6 might not.
TOLERANCE = 1e-9
# A sum that is off by a share e moves every entry of its pixel (or phase) by that share in that
# update. Were all the errors of 100 updates to add up and be carried on tenfold by the updates
# that follow, the end would be off by 1000 e. (espm's bisection reaches e = 1e-15.)
PER_SUM_ERROR = 1e3


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS) as stored:
        return dict(stored)


def problem(goldens, case, storage):
    """Counts, basis, constraint and regulariser of a case; call with 64-bit types on."""
    counts = goldens[str(goldens[f"{case}/data"])]
    shape = tuple(int(n) for n in goldens["scan_shape"])
    counts = as_counts(counts.T, scan_shape=shape, storage=storage)
    columns = range(goldens["G"].shape[1])
    rows = goldens["element_rows"] if case == "simplex_w_elements" else columns
    basis = Basis.from_matrix(goldens["G"], in_composition=[j in rows for j in columns])
    constraint = Unconstrained()
    if case.startswith("simplex_h"):
        constraint = SumToOneAbundances()
    elif case.startswith("simplex_w"):
        constraint = SumToOneWeights()
    regulariser = NoRegulariser()
    if case.endswith("log_sparsity"):
        regulariser = LogSparsity(float(goldens[f"{case}/mu"]), float(goldens[f"{case}/epsilon"]))
    elif case.endswith("laplacian"):
        regulariser = LaplacianSmoothness(float(goldens[f"{case}/strength"]))
    return counts, basis, constraint, regulariser


def tolerance(goldens, case):
    return TOLERANCE + PER_SUM_ERROR * float(goldens.get(f"{case}/simplex_error", 0.0))


def assert_same(ours, golden, relative):
    np.testing.assert_allclose(ours, golden, rtol=relative, atol=FLOOR * golden.max())


@pytest.mark.parametrize(
    ("case", "storage"), [("unconstrained", "dense"), *((case, "sparse") for case in CASES)]
)
def test_hundred_updates_agree_with_espm(goldens, case, storage, x64):
    counts, basis, constraint, regulariser = problem(goldens, case, storage)
    weights, abundances = jnp.asarray(goldens["W0"]), jnp.asarray(goldens["H0"])

    @eqx.filter_jit
    def step(counts, basis, weights, abundances):
        abundances = update_abundances(
            counts, basis, weights, abundances, constraint=constraint, regulariser=regulariser
        )
        weights = update_weights(counts, basis, weights, abundances, constraint=constraint)
        return weights, abundances, poisson_nll(counts, basis, weights, abundances)

    nll = []
    for _ in range(int(goldens["updates"])):
        weights, abundances, value = step(counts, basis, weights, abundances)
        nll.append(float(value))
    assert_same(np.asarray(weights), goldens[f"{case}/W"], tolerance(goldens, case))
    assert_same(np.asarray(abundances), goldens[f"{case}/H"], tolerance(goldens, case))
    np.testing.assert_allclose(nll, goldens[f"{case}/nll"][1:], rtol=tolerance(goldens, case))


@pytest.mark.parametrize("case", ["log_sparsity", "laplacian", "simplex_w", "simplex_w_elements"])
def test_cases_are_told_apart(goldens, case):
    """The goldens differ from each other by far more than the tolerance they are met with."""
    for name in "WH":
        plain, other = goldens[f"unconstrained/{name}"], goldens[f"{case}/{name}"]
        assert np.abs(other - plain).max() > 1e-2 * plain.max()
