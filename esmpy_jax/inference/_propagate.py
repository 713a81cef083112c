"""What the errors of physical parameters do to the compositions of a solution."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .._checks import check
from ..model import AbstractPrior, AnyModel, Normal
from ._image import SpectrumImage
from ._pools import pooled_amounts
from ._posterior import least_squares
from ._refinement import Refinement
from ._scoring import Point, local
from ._solution import Solution
from ._tangents import parametrised

if TYPE_CHECKING:
    import xarray as xr
else:
    from .._xarray import xr


def propagate(
    image: SpectrumImage,
    model: AnyModel,
    solution: Solution,
    refinement: Refinement | None = None,
) -> "xr.Dataset":
    """How at% of a solution depend on the physical parameters, refined ones and held ones.

    With I the Fisher information of W and the parameters θ at the solution's maps, a small error of
    θ moves W by `-I_WW⁻¹ I_Wθ dθ`; the maps, which are differences between pixels, stay.

    - `model`: by which the solution was fitted, the refined one after `refine`.
    - `refinement`: for the covariance of the refined parameters.

    Returns a dataset with, in at%, `composition(element, phase)`, `composition_stderr` (counting
    alone), `composition_stderr_physics` (the refined parameters' share), `composition_stderr_total`
    of both, the same of `weight_percent` in wt%, and `composition_sensitivity(parameter, element,
    phase)` by `step(parameter)` of every physical parameter: 10 %, or one prior standard deviation
    where that is less or the parameter may be zero.

    Raises `InputError` for a solution of another image or model.
    """
    maps, weights = (np.asarray(x, np.float64) for x in (solution.abundances, solution.weights))
    check(
        maps.shape[1] == image.counts.n_pixels and weights.shape[0] == len(model.columns),
        "The solution is not one of this image and model: it has other pixels or columns.",
    )
    endmembers = np.asarray(solution.basis.endmembers(solution.weights), np.float64)
    counts, amounts = pooled_amounts(image.counts, endmembers, maps)
    every, start = parametrised(model)
    names = every.names
    point = Point(start, weights, amounts, 0.0)
    near = local(counts, every, point, range(len(names)), True)
    n = weights.size
    moved = np.zeros((n, len(names)))
    own, mixed = near.information[:n, :n], near.information[:n, n:]
    # entries that are fixed, or held at zero by the counts, follow nothing
    told = np.diag(solution.dataset["W_covariance"].values) > 0
    free = (weights.ravel() * np.diag(own) > near.gradient[:n]) & (weights.ravel() > 0) & told
    moved[free] = -least_squares(own[np.ix_(free, free)]) @ mixed[free]
    rows = np.flatnonzero([c.in_composition for c in model.columns])
    masses = np.asarray(model.atomic_weights, np.float64)
    atoms = np.ones(len(rows))
    change, by_mass = (
        np.stack([_fractions(weights, moved[:, k], rows, each) for k in range(len(names))])
        for each in (atoms, masses)
    )
    steps, words = zip(*map(_step, every.priors, start), strict=True)
    data = solution.dataset
    at, covariance = [], np.zeros((0, 0))
    if refinement is not None:
        refined = list(refinement.parameters)
        check(
            set(refined) <= set(names),
            "The model is not the refined one; give refinement.model.",
        )
        at = [names.index(name) for name in refined]
        errors = [
            refinement.parameters[name].stderr
            / max(abs(float(every.priors[k].slope(start[k]))), 1e-300)
            for name, k in zip(refined, at, strict=True)
        ]
        covariance = np.outer(errors, errors) * refinement.correlation
    table = ("element", "phase")
    found: dict[str, object] = {
        "composition_sensitivity": (
            ("parameter", *table),
            100 * change * np.array(steps)[:, None, None],
            {"units": "at%"},
        )
    }
    for name, unit, moves in (("composition", "at%", change), ("weight_percent", "wt%", by_mass)):
        error = data[f"{name}_stderr"].values
        variance = np.einsum("kep,kl,lep->ep", moves[at], covariance, moves[at])
        physics = 100 * np.sqrt(np.maximum(variance, 0.0))
        found |= {
            name: data[name],
            f"{name}_stderr": data[f"{name}_stderr"],
            f"{name}_stderr_physics": (table, physics, {"units": unit}),
            f"{name}_stderr_total": (table, np.hypot(error, physics), {"units": unit}),
        }
    return xr.Dataset(found, {"parameter": list(names), "step": ("parameter", list(words))})


def _step(prior: AbstractPrior, u: float) -> tuple[float, str]:
    """Change of the coordinate by which at% are told to change, and in words.

    A tenth of the parameter, or one standard deviation of the prior where that is less or the
    parameter may be zero.
    """
    value, slope = abs(float(prior.value(u))), abs(float(prior.slope(u)))
    if isinstance(prior, Normal) or not 0 < 0.1 * value < 1.001 * slope:
        return 1.0, "1 prior sd"
    return 0.1 * value / slope, "10 %"


def _fractions(
    weights: Float[np.ndarray, "column phase"],
    moved: Float[np.ndarray, " entry"],
    rows: np.ndarray,
    per_atom: Float[np.ndarray, " element"],
) -> Float[np.ndarray, "element phase"]:
    """Change of the fractions by a small change of W; see `phase_composition`."""
    content = weights[rows] * per_atom[:, None]
    change = moved.reshape(weights.shape)[rows] * per_atom[:, None]
    total = content.sum(0)
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (change - content / safe * change.sum(0)) / safe, 0.0)
