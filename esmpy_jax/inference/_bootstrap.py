"""`bootstrap`: errors without Gaussians, from counts drawn from what was found and fitted again."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._checks import InputError, check
from ..objective import AbstractRegulariser
from ..solve import AbstractSolver, VariableProjectionNewton
from ._redrawn_refinement import redraw_refinement
from ._redrawn_solution import redraw_solution
from ._refinement import Refinement
from ._solution import Solution

if TYPE_CHECKING:
    import xarray as xr
else:
    from .._xarray import xr

#: Shares of the draws that the intervals hold.
LEVELS = 0.68, 0.95

#: Fewest draws of which there is a standard deviation.
_FEWEST = 2


def bootstrap(
    found: Solution | Refinement,
    *,
    key: PRNGKeyArray,
    draws: int = 100,
    solver: AbstractSolver = VariableProjectionNewton(),
    regulariser: AbstractRegulariser | None = None,
    max_steps: int = 200,
    tol: float = 0.01,
    memory_gb: float = 2.0,
    batch_size: int | None = None,
) -> "xr.Dataset":
    """Errors of at% (and of refined parameters) from counts drawn from the fit and fitted again.

    The parametric bootstrap (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, section
    6.5): if the model is right, what is fitted to draws from its mean scatters about the fit as the
    fit does about the truth. Neither the Fisher information nor a Gaussian comes in, so that it
    tells where the standard errors fail: at bounds, where an interval has one side only, with few
    counts, and where something is far from linear. It knows as little as they do of what the model
    lacks.

    **Of a `Solution`**, W and H are fitted again to each draw from `Poisson(G W H)`, from the
    solution's own, with its constraint and its fixed entries; G is held, also where it would follow
    W. A solution of `CoarseToFine` has its W from pixels that are pooled by what the maps say they
    hold; so have the draws, with the pools made of the final maps, with the same penalty on small
    shares, and without the phases that are absent from a pool, in the draws' mean as in the fits.
    The choices that held-out counts made (bins, purity, absent phases, which pixels make a pool)
    are kept, and their scatter is not in the result. With any other solver the pixels are those of
    the image.

    **Of a `Refinement`** by the loss "summed" or "pools", W and the coordinates u of the physical
    parameters are found again together, the maps held, with G evaluated at each draw's own values.
    Each draw also has a prior whose median lies at `û + N(0, 1)`: a prior is a measurement made
    before, and is repeated as the counts are. Then u scatters with the covariance `(I + 1)⁻¹` that
    the standard errors claim, I being the information of the counts, without a pull towards the
    prior's own median; a parameter of which the counts say nothing scatters as its prior does. Were
    the median kept, u would scatter by `(I + 1)⁻¹ I (I + 1)⁻¹`, too little to hold a truth that
    the prior allows. In "pools" the brightness of each pool follows its counts, as in `refine`.

    - `key`: a draw depends on it and on its own number alone. `draws`: how many.
    - `solver`: of each fit to a draw of a solution. All solvers have the same optimum.
    - `regulariser`: with which the solution was fitted, if it was with another solver than
        `CoarseToFine` and with any: a solution keeps its name alone.
    - `max_steps`, `tol`: of each fit; it has converged when at most so many nats are believed to
        be left. Half a nat is one standard error of one parameter.
    - `memory_gb`: of the fits that go side by side. `batch_size`: how many those are; by default
        one after another for a solution on the CPU (see `solve_batch`), else as many as fit.

    Returns a dataset with

    - `composition(draw, element, phase)` in at%, `W(draw, column, phase)`, `converged(draw)`, and
        `parameter_value(draw, parameter)` of a refinement, with `unit(parameter)`;
    - `composition_fitted`, what was drawn from; `composition_sd`, the standard deviation of the
        draws; `composition_stderr`, the Gaussian standard error (of a refinement that of counts
        and parameters together); `composition_interval(level, bound, element, phase)`, the
        percentiles between which 68 % and 95 % of the draws lie (`level` 0.68 and 0.95, `bound`
        "low" and "high"); and the same for `parameter`;
    - attributes `draws`, `converged_share`, `seed` and `drawn_from`.

    Draws that did not converge are counted in all of these; see `converged`.

    Raises `InputError` for anything else than a solution or a refinement, for a refinement of
    single pixels, fewer than 2 draws, limits that say nothing, and a regulariser that is missing.
    """
    check(draws >= _FEWEST, f"draws is {draws}; give at least {_FEWEST}, better 100.")
    check(tol > 0, f"tol is {tol:g}; give a positive number of nats, such as 0.01.")
    check(max_steps >= 1, f"max_steps is {max_steps}; give at least 1.")
    check(memory_gb > 0, f"memory_gb is {memory_gb:g}; give a positive number of GiB.")
    check(batch_size is None or batch_size >= 1, f"batch_size is {batch_size}; give at least 1.")
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(np.arange(draws))
    limits = {
        "max_steps": max_steps,
        "tol": tol,
        "memory_gb": memory_gb,
        "batch_size": batch_size,
    }
    if isinstance(found, Solution):
        again = redraw_solution(found, keys, solver=solver, regulariser=regulariser, **limits)
        weights, converged = again
        stderr, parameters = found.dataset["composition_stderr"].values, {}
        rows = np.flatnonzero(found.basis.composition_rows)
        what = "solution"
    elif isinstance(found, Refinement):
        check(
            found.loss != "pixels",
            "The refinement is one of single pixels, whose maps were fitted with it; refine with "
            "the loss 'pools' or 'summed' to draw from it.",
        )
        again = redraw_refinement(found._end, keys, rescaled=found.loss == "pools", **limits)
        weights = np.asarray(again.weights, np.float64)
        converged = np.asarray(again.remaining) < tol
        stderr = found.dataset["composition_stderr_total"].values
        parameters = _of_parameters(found, np.asarray(again.coordinates, np.float64))
        columns = found.model.columns
        rows = np.flatnonzero([c.in_composition for c in columns])
        what = f"refinement of the loss {found.loss}"
    else:
        raise InputError(
            f"A {type(found).__name__} cannot be drawn from; give the Solution of a fit or the "
            "Refinement of refine."
        )
    data = found.dataset
    fitted = data["composition"].values
    atoms = np.where(fitted.sum(0) > 0, weights[:, rows], 0.0)
    total = atoms.sum(1)
    percent = 100 * atoms / np.where(total > 0, total, 1.0)[:, None, :]
    variables = {
        "W": (("draw", "column", "phase"), weights),
        "converged": ("draw", converged),
        **_summary("composition", ("element", "phase"), percent, fitted, stderr, {"units": "at%"}),
        **parameters,
    }
    coordinates = {
        "level": list(LEVELS),
        "bound": ["low", "high"],
        **{name: data[name].values for name in ("column", "element", "phase")},
    }
    if isinstance(found, Refinement):
        coordinates["parameter"] = list(found.parameters)
        coordinates["unit"] = ("parameter", [p.unit for p in found.parameters.values()])
    attributes = {
        "draws": draws,
        "converged_share": float(converged.mean()),
        "seed": json.dumps(np.asarray(jax.random.key_data(key)).ravel().tolist()),
        "drawn_from": what,
    }
    return xr.Dataset(variables, coordinates, attributes)


def _of_parameters(
    found: Refinement, coordinates: Float[np.ndarray, "draw moved"]
) -> Mapping[str, Any]:
    """The physical parameters of the draws, in their own units."""
    end = found._end
    priors = [end.parametrised.priors[k] for k in end.moved]
    values = np.stack(
        [
            np.asarray(jax.vmap(prior.value)(u), np.float64)
            for prior, u in zip(priors, coordinates.T, strict=True)
        ],
        axis=1,
    )
    each = found.parameters.values()
    after, error = (np.array([getattr(p, name) for p in each]) for name in ("after", "stderr"))
    summary = _summary("parameter", ("parameter",), values, after, error, {})
    return {"parameter_value" if k == "parameter" else k: v for k, v in summary.items()}


def _summary(
    name: str,
    axes: tuple[str, ...],
    draws: Float[np.ndarray, "draw *axes"],
    fitted: Float[np.ndarray, "*axes"],
    stderr: Float[np.ndarray, "*axes"],
    attributes: dict[str, str],
) -> dict[str, Any]:
    """The draws of a quantity, and what they and the Gaussian say of it."""
    tails = np.array([[(1 - level) / 2, (1 + level) / 2] for level in LEVELS])
    between = np.quantile(draws, tails.ravel(), axis=0).reshape(*tails.shape, *draws.shape[1:])
    return {
        name: (("draw", *axes), draws, attributes),
        f"{name}_fitted": (axes, fitted, attributes),
        f"{name}_sd": (axes, draws.std(0, ddof=1), attributes),
        f"{name}_stderr": (axes, stderr, attributes),
        f"{name}_interval": (("level", "bound", *axes), between, attributes),
    }
