"""Batches of pixels: the plain algorithm where there is one, its optimum where there are many."""

import io_files as files
import jax
import numpy as np
import pytest

import esmpy_jax as ej
from esmpy_jax.objective._alike import Alike
from esmpy_jax.solve import _batched_passes, _minibatch

N_PHASES = 2
CONSTRAINTS = (ej.Unconstrained(), ej.SumToOneAbundances(), ej.SumToOneWeights())


def name(thing):
    return type(thing).__name__


def image(seed=0, ny=12, nx=16, dose=150.0):
    """Counts (y, x, channel) with a dark corner and two dark rows, and G."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((24, 6)) ** 3 + 0.01
    weights = rng.random((6, N_PHASES)) ** 2 + 0.02
    weights = weights / (matrix @ weights).sum(0)
    shares = rng.dirichlet(np.full(N_PHASES, 0.4), ny * nx).T
    y = rng.poisson(dose * matrix @ weights @ shares).T.reshape(ny, nx, 24)
    y[:2, :4] = 0
    y[5:7] = 0
    return y, matrix


def cut(y, *rows, storage="sparse"):
    """The image cut before these rows."""
    return [ej.as_counts(part, storage=storage) for part in np.split(y, rows)]


def given_start(y, seed=1):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.2, 1.0, (N_PHASES, y.shape[0] * y.shape[1]))
    return ej.GivenStart(rng.uniform(0.5, 1.5, (6, N_PHASES)), shares / shares.sum(0))


def objective(y, matrix, weights, abundances):
    """In NumPy, without constants."""
    model = matrix @ np.asarray(weights, np.float64) @ np.asarray(abundances, np.float64)
    counts = y.reshape(-1, y.shape[-1]).T
    return (model - np.where(counts > 0, counts * np.log(np.maximum(model, 1e-300)), 0.0)).sum()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=name)
def test_one_batch_is_the_multiplicative_update(x64, constraint):
    """Same W and H after 20 steps up to rounding, which the updates do not let grow."""
    y, matrix = image()
    start = given_start(y)
    fixed = None
    if not isinstance(constraint, ej.SumToOneWeights):
        fixed = np.full((6, N_PHASES), np.nan)
        fixed[2, 1], fixed[4] = 0.7, 0.0
    options = {"start": start, "constraint": constraint, "fixed_weights": fixed, "tol": -1.0}
    plain = ej.factorise(
        y, matrix, N_PHASES, solver=ej.MultiplicativeUpdate(), max_steps=20, **options
    )
    out = ej.factorise_batches(
        [y],
        matrix,
        N_PHASES,
        solver=ej.AbundanceUpdate(),
        inner=1,
        warm_up=None,
        max_epochs=20,
        **options,
    )
    np.testing.assert_allclose(out.weights, plain.weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(out.abundances, plain.abundances, rtol=1e-9, atol=1e-12)
    assert (out.steps, out.epochs) == (20, 20)
    assert out.result == ej.RESULTS.max_epochs_reached
    # what is traced bounds the objective, and W has moved once since the last visit
    assert plain.nll <= out.nll <= plain.nll + (out.nll_trace[-2] - out.nll_trace[-1])


@pytest.fixture(scope="module")
def optimum():
    """Where Newton's method leads with all pixels at once. Sums over W would not change it."""
    y, matrix = image()
    with jax.enable_x64(True):
        fit = ej.factorise(y, matrix, N_PHASES, start=given_start(y), tol=1e-4, max_steps=300)
    assert fit.converged
    return fit


@pytest.fixture(scope="module", params=CONSTRAINTS, ids=name)
def fits(request):
    """An image and what its batches reach."""
    y, matrix = image()
    batches = cut(y, 4, 8, storage="dense")
    if isinstance(request.param, ej.Unconstrained):
        batches = cut(y, 5, 10, storage="dense")
    with jax.enable_x64(True):
        options = {"start": given_start(y), "constraint": request.param}
        out = ej.factorise_batches(batches, matrix, N_PHASES, tol=0.01, **options)
    return request.param, y, matrix, out


def test_batches_reach_the_optimum(fits, optimum):
    constraint, y, matrix, out = fits
    assert out.converged
    assert ej.RESULTS[out.result] == "The fit converged."
    assert out.remaining <= 0.01
    assert out.epochs < 40  # multiplicative updates need hundreds
    reached = objective(y, matrix, out.weights, out.abundances)
    assert reached == pytest.approx(out.nll, abs=1e-6)  # Newton's passes trace the objective
    if not isinstance(constraint, ej.SumToOneAbundances):
        assert -1e-4 < reached - optimum.nll < 0.1
    assert left(y, matrix, out, isinstance(constraint, ej.SumToOneAbundances)) < 0.1


def left(y, matrix, out, summed):
    """Nats that single entries of W and H could win: `(x g)² / 2 n`, n their counts, g gradients.

    Where the abundances of a pixel are summed, g counts from the price that their counts set, and
    pixels without counts keep what they have.
    """
    weights, maps = np.asarray(out.weights), out.abundances
    endmembers = matrix @ weights
    ratio = y.reshape(-1, 24).T / np.maximum(endmembers @ maps, 1e-300)
    in_weights = weights * (matrix.T @ ratio @ maps.T)
    in_maps = maps * (endmembers.T @ ratio)
    by_weights = in_weights - weights * np.outer(matrix.sum(0), maps.sum(1))
    by_maps = in_maps - maps * endmembers.sum(0)[:, None]
    if summed:
        by_maps -= maps * by_maps.sum(0)
        by_maps[:, y.sum(-1).ravel() == 0] = 0.0
    shares = [
        b**2 / (2 * np.maximum(n, 1)) for b, n in ((by_weights, in_weights), (by_maps, in_maps))
    ]
    return max(share.sum() for share in shares)


def test_the_bound_never_rises(fits):
    out = fits[3]
    assert len(out.nll_trace) == len(out.nll_steps) == out.epochs
    assert (np.diff(out.nll_trace) <= 1e-12 * abs(out.nll)).all()
    assert out.nll_steps[9] == 1 + 9 * 3  # W waits in the first pass, then follows each batch


def test_sums_are_kept_and_empty_pixels_are_empty(fits):
    constraint, y, _, out = fits
    assert isinstance(out.abundances, np.ndarray)
    assert out.abundances.shape == (N_PHASES, 12 * 16)
    if isinstance(constraint, ej.SumToOneAbundances):
        np.testing.assert_allclose(out.abundances.sum(0), 1.0, atol=1e-12)
        return
    if isinstance(constraint, ej.SumToOneWeights):
        np.testing.assert_allclose(np.asarray(out.weights).sum(0), 1.0, atol=1e-12)
    assert (out.abundances[:, y.sum(-1).ravel() == 0] < 1e-6 * out.abundances.max()).all()


def test_multiplicative_passes_alone_reach_the_optimum(optimum):
    """From a W near it: 300 passes leave less than a nat, and none raises the bound."""
    y, matrix = image()
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        weights = np.asarray(optimum.weights) * rng.uniform(0.7, 1.4, (6, N_PHASES)) + 0.01
        out = ej.factorise_batches(
            cut(y, 5, 10, storage="dense"),
            matrix,
            N_PHASES,
            start=ej.GivenStart(weights),
            warm_up=None,
            max_epochs=300,
            tol=-1.0,
        )
    assert out.result == ej.RESULTS.max_epochs_reached
    assert (np.diff(out.nll_trace) <= 1e-12 * abs(out.nll)).all()
    reached = objective(y, matrix, out.weights, out.abundances)
    assert -1e-4 < reached - optimum.nll < 1.0
    assert reached <= out.nll + 1e-8


def test_batches_alike_in_pixels_share_one_program():
    """Also where their fill differs, in single precision; the default start, shares, sparsity."""
    y, matrix = image(3, ny=20)
    y[15:] = np.random.default_rng(0).binomial(y[15:], 0.4)
    batches = cut(y, 5, 10, 15)
    shapes = {tuple(x.shape for x in jax.tree.leaves(batch)) for batch in batches}
    assert len(shapes) > 1  # by themselves they differ
    programs = (_batched_passes._visit, _batched_passes._visit_newton)
    before = [p._cached._cache_size() for p in programs]
    seen = []
    out = ej.factorise_batches(
        lambda: iter(batches),
        matrix,
        N_PHASES,
        start=ej.RandomStart(),  # sees the bins of all batches as one image
        constraint=ej.SumToOneShares(),
        regulariser=ej.LogSparsity(0.01),
        warm_up=5,
        progress=lambda *arguments: seen.append(arguments),
    )
    after = [p._cached._cache_size() for p in programs]
    # the room for overflow may have to grow once while the batches are seen for the first time
    assert after[0] - before[0] <= 2
    assert after[1] - before[1] == 1
    assert out.converged
    assert out.weights.dtype == np.float32
    np.testing.assert_allclose(out.abundances.sum(0), 1.0, atol=1e-5)
    assert np.diff(out.nll_trace).max() < 0.02  # nats, of some 1e5
    assert [s[:2] for s in seen] == [(i + 1, 200) for i in range(out.epochs)]


def test_counts_in_common_shapes_are_the_same_counts():
    alike = Alike()
    rng = np.random.default_rng(0)
    shapes = set()
    for mean in (0.5, 0.4, 0.3, 0.45, 400.0, 0.0):
        y = rng.poisson(mean * rng.random((20, 9)))
        counts = alike(ej.as_counts(y, storage="sparse"))
        np.testing.assert_array_equal(counts.to_dense(), y)
        np.testing.assert_array_equal(counts.sum_spectrum(), y.sum(0))
        np.testing.assert_array_equal(counts.pixel_totals(), y.sum(1))
        dense = alike(ej.as_counts(y, storage="dense"))
        np.testing.assert_array_equal(dense.to_dense(), y)
        if mean < 1:
            shapes.add(tuple(x.shape for x in jax.tree.leaves(counts)))
    assert len(shapes) <= 3
    assert dense.values.dtype == np.uint16  # as the brightest one asked for


def test_a_file_is_read_in_rows(tmp_path):
    counts = files.counts((7, 6, 50))
    path = files.write(tmp_path / "a.hspy", files.signal(counts))
    batches = ej.load_batches(path, 4, energy_range=(0.6, 0.9))
    whole = ej.load(path, energy_range=(0.6, 0.9))
    assert (len(batches), batches.scan_shape, batches.rows) == (2, (7, 6), 4)
    for _ in range(2):  # again and again
        parts = [batch.to_dense() for batch in batches]
        assert [len(part) for part in parts] == [24, 18]
        np.testing.assert_array_equal(np.concatenate(parts), whole.counts.to_dense())
    second = batches.image(1)
    assert second.energy_axis == whole.energy_axis
    assert second.origin[0] == whole.origin[0] + 4 * whole.pixel_size[0]
    even = files.write(tmp_path / "b.hspy", files.signal(counts[:6]))
    binned = ej.load_batches(even, 4, bin=2)
    assert (binned.scan_shape, binned.rows) == ((3, 3), 2)
    np.testing.assert_array_equal(
        np.concatenate([batch.to_dense() for batch in binned]),
        ej.load(even, bin=2).counts.to_dense(),
    )
    bad = (0, {}), (3, {"bin": 2}), (4, {"bin": 2}), (2, {"region": (0, 1, 0, 1)})
    for rows, options in bad:
        with pytest.raises(ej.InputError, match=r"\.$"):
            ej.load_batches(path, rows, **options)
    with pytest.raises(IndexError, match="no batch 2"):
        batches.image(2)


BAD = {
    "used only once": {"batches": lambda y: iter(cut(y, 5))},
    "no batches": {"batches": lambda y: []},
    "no counts at all": {"batches": lambda y: [np.zeros_like(y)]},
    "has 20 channels": {"batches": lambda y: [y, y[..., :20]]},
    "G has 24 channels": {"batches": lambda y: [y[..., :20]]},
    "moves W": {"solver": ej.MultiplicativeUpdate()},
    "ties neighbouring pixels": {"regulariser": ej.LaplacianSmoothness(1.0)},
    "only shrinks H": {"regulariser": ej.LogSparsity(1.0)},
    "inner is 0": {"inner": 0},
    "max_epochs is 0": {"max_epochs": 0},
    "warm_up is -1": {"warm_up": -1},
    "fixed_weights has shape": {"fixed_weights": np.ones((3, 3))},
    "G that follows W": {"basis": lambda weights: None},
    "H has 10 pixels": {"start": ej.GivenStart(np.ones((6, N_PHASES)), np.ones((N_PHASES, 10)))},
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_gets_one_sentence(sentence):
    y, matrix = image()
    options = {
        "batches": lambda y: [y],
        "basis": matrix,
        "start": ej.GivenStart(np.ones((6, N_PHASES))),
    }
    options["solver"] = ej.AbundanceUpdate()  # for the few that come to the first pass
    options |= BAD[sentence]
    batches = options.pop("batches")(y)
    with pytest.raises(ej.InputError, match=sentence) as caught:
        ej.factorise_batches(batches, n_phases=N_PHASES, **options)
    assert str(caught.value).endswith(".")


def test_other_batches_in_the_second_pass_are_refused():
    y, _ = image()
    for second, sentence in (((7,), "Batch 0 holds 112 pixels"), ((), "brought 1 batches")):
        passes = [cut(y[:7], 5), cut(y[: 7 if second else 5], *second)]
        source = _minibatch._Source(lambda left=passes: left.pop(0), False)
        assert len(list(source.counts())) == 2
        with pytest.raises(ej.InputError, match=sentence):
            list(source.counts())
