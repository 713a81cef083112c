"""`Refinement`: the refined model, its parameters with errors, and what they do to compositions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..model import AbstractPrior, EDSModel, Normal, adjustables
from ..objective import AbstractCounts, exposure_or_one
from ._posterior import posterior
from ._quantify import phase_composition
from ._scoring import Found, Point, local
from ._tangents import Parametrised, spectra

if TYPE_CHECKING:
    import xarray as xr
else:
    from .._xarray import xr

#: Share of the prior's width above which the data are said to leave a parameter undetermined.
UNDETERMINED = 0.9

#: Correlation from which two parameters are named together.
CORRELATED = 0.95

#: Prior standard deviations from its median at which a parameter is suspect.
FAR = 3.0


@dataclasses.dataclass(frozen=True)
class RefinedParameter:
    """A physical parameter before and after.

    - `before`, `after`, `stderr`: in `unit`; the error carries the counts and the prior.
    - `prior`: in words. `coordinate`, `coordinate_stderr`: how many standard deviations of the
        prior it lies from the prior's median, and its own width as a share of the prior's.
    - `determined`: whether the counts say more of it than the prior.
    """

    before: float
    after: float
    stderr: float
    unit: str
    prior: str
    coordinate: float
    coordinate_stderr: float

    @property
    def determined(self) -> bool:
        return self.coordinate_stderr < UNDETERMINED


@dataclasses.dataclass(frozen=True, eq=False)
class Refinement:
    """What `refine` found.

    - `model`: with the refined values; `fit` takes it as any other.
    - `parameters`: what was refined, by name.
    - `correlation`: of the parameters, (parameter, parameter), in the order of `parameters`.
    - `deviance_before`, `deviance_after`: of the counts that were fitted, W (and H) optimal in both.
    - `dof`: degrees of freedom afterwards: counts fitted less every number that was (of W and H
        those above zero, and each parameter).
    - `converged`, `steps`: how the search ended. `loss`: what was fitted.
    - `dataset`: `W(column, phase)`, `composition(element, phase)` in at%, `composition_stderr` (counting
        alone) and `composition_stderr_total` (with the parameters' share),
        `composition_change(refined, element, phase)` by one standard error of each parameter that
        was refined, `composition_sensitivity(held, element, phase)` by `held_step` (10 %, or one
        prior standard deviation of what may be zero) of each that was not, `counts_sum(energy)`,
        `fit_sum(energy)` and `fit_sum_before(energy)`.
    """

    model: EDSModel
    parameters: Mapping[str, RefinedParameter]
    correlation: Float[np.ndarray, "parameter parameter"]
    deviance_before: float
    deviance_after: float
    dof_before: int
    dof: int
    converged: bool
    steps: int
    loss: str
    trace: tuple[float, ...]
    _made: tuple[Any, ...]

    @property
    def values(self) -> dict[str, float]:
        """The refined values by name, in the units of `parameters`."""
        return {name: p.after for name, p in self.parameters.items()}

    @functools.cached_property
    def dataset(self) -> "xr.Dataset":
        """Weights, compositions and summed spectra, with labels."""
        return xr.Dataset(*self._made)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader of the result should know."""
        found = []
        if not self.converged:
            found.append("the refinement stopped before it converged; allow more steps")
        names = list(self.parameters)
        open_ones = [n for n, p in self.parameters.items() if not p.determined]
        if open_ones:
            found.append(
                f"the counts do not determine {_listed(open_ones)}: the standard error is that of "
                "the prior"
            )
        far = [n for n, p in self.parameters.items() if abs(p.coordinate) > FAR]
        if far:
            found.append(
                f"{_listed(far)} ended more than {FAR:g} prior standard deviations from where "
                "the prior is; something is missing in the model"
            )
        for i, one in enumerate(names):
            for j in range(i + 1, len(names)):
                if abs(self.correlation[i, j]) > CORRELATED:
                    found.append(
                        f"{one} and {names[j]} can hardly be told apart "
                        f"(correlation {self.correlation[i, j]:+.3f})"
                    )
        return tuple(found)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def refinement(
    counts: AbstractCounts,
    parametrised: Parametrised,
    before: Found,
    after: Found,
    moved: Sequence[int],
    loss: str,
    tol: float,
    phases: Sequence[str] | None,
) -> Refinement:
    """The labelled result of a search over the coordinates `moved`."""
    start, point = before.point.coordinates, after.point
    every = range(len(parametrised.names))
    near = local(counts, parametrised, point, every, loss == "summed")
    told = posterior(point.weights, near, moved)
    sd = np.sqrt(np.diag(told.parameters))
    known = adjustables(parametrised.model)
    found: dict[str, RefinedParameter] = {}
    for i, k in enumerate(moved):
        name, prior = parametrised.names[k], parametrised.priors[k]
        found[name] = RefinedParameter(
            before=float(prior.value(start[k])),
            after=float(prior.value(point.coordinates[k])),
            stderr=abs(_slope(prior, point.coordinates[k])) * float(sd[i]),
            unit=known[name].unit,
            prior=prior.described(known[name].unit),
            coordinate=float(point.coordinates[k]),
            coordinate_stderr=float(sd[i]),
        )
    refined = parametrised.at(jnp.asarray(point.coordinates, float)).with_sources(
        dict.fromkeys(found, "refined")
    )
    fitted = int((point.weights > 0).sum())
    if loss != "summed":
        fitted += int((point.abundances > 0).sum()) - point.weights.shape[1]
    seen = counts.n_channels * int((np.asarray(counts.pixel_totals()) > 0).sum())
    rows = np.flatnonzero([c.in_composition for c in parametrised.model.columns])
    changes = np.stack(
        [
            _change(point.weights, told.follows[:, k], rows)
            * (1.0 if k in moved else _tenth(parametrised.priors[k], start[k]))
            for k in every
        ]
    )
    parts = _labelled(counts, parametrised, before, after, told, changes, moved, phases)
    deviances = [2 * (f.point.loss - 0.5 * float(f.point.coordinates @ f.point.coordinates)) for f in (before, after)]
    return Refinement(
        model=refined,
        parameters=found,
        correlation=told.parameters / np.outer(sd, sd),
        deviance_before=deviances[0],
        deviance_after=deviances[1],
        dof_before=seen - fitted,
        dof=seen - fitted - len(found),
        converged=after.remaining < tol,
        steps=after.steps,
        loss=loss,
        trace=after.trace,
        _made=parts,
    )


def _slope(prior: AbstractPrior, u: float) -> float:
    """By how much the parameter changes with its coordinate."""
    return float(jax.grad(lambda x: prior.value(x))(jnp.asarray(u, float)))


def _tenth(prior: AbstractPrior, u: float) -> float:
    """Change of the coordinate by which a parameter grows by a tenth; one where it may be zero."""
    value, slope = float(prior.value(u)), _slope(prior, u)
    return 1.0 if isinstance(prior, Normal) or slope == 0 else 0.1 * abs(value) / slope


def _change(weights: np.ndarray, moved: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Change of the atomic fractions (element, phase) by a small change of W."""
    content, change = weights[rows], moved.reshape(weights.shape)[rows]
    total = content.sum(0)
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (change - content / safe * change.sum(0)) / safe, 0.0)


def _labelled(counts, parametrised, before, after, told, changes, moved, phases):
    """Variables, coordinates and attributes of the dataset."""
    model, weights = parametrised.model, after.point.weights
    rows = np.flatnonzero([c.in_composition for c in model.columns])
    atoms = np.ones(len(rows))
    atomic, error = phase_composition(weights, told.weights, rows, atoms)
    _, error_total = phase_composition(weights, told.weights_total, rows, atoms)
    held = [k for k in range(len(parametrised.names)) if k not in moved]
    table = ("element", "phase")
    percent = {"units": "at%"}
    steps = [
        "1 prior standard deviation" if isinstance(parametrised.priors[k], Normal) else "10 %"
        for k in held
    ]
    names = [parametrised.names[k] for k in moved], [parametrised.names[k] for k in held]
    variables = {
        "W": (("column", "phase"), weights),
        "composition": (table, 100 * atomic, percent),
        "composition_stderr": (table, 100 * error, percent),
        "composition_stderr_total": (table, 100 * error_total, percent),
        "composition_change": (("refined", *table), 100 * changes[list(moved)], percent),
        "composition_sensitivity": (("held", *table), 100 * changes[held], percent),
        "counts_sum": ("energy", np.asarray(counts.sum_spectrum(), np.float64)),
        "fit_sum_before": ("energy", summed(counts, parametrised, before.point)),
        "fit_sum": ("energy", summed(counts, parametrised, after.point)),
    }
    n_phases = weights.shape[1]
    if phases is None:
        phases = ["sum"] if n_phases == 1 else [f"phase {a + 1}" for a in range(n_phases)]
    axis = parametrised.at(jnp.asarray(after.point.coordinates, float)).energy_axis
    coordinates = {
        "energy": ("energy", np.asarray(axis.centres, np.float64), {"units": "keV"}),
        "column": [c.label for c in model.columns],
        "element": [e.symbol for e in model.elements],
        "phase": list(phases),
        "refined": names[0],
        "held": names[1],
        "held_step": ("held", steps),
    }
    return variables, coordinates, {}


def summed(
    counts: AbstractCounts, parametrised: Parametrised, point: Point
) -> Float[np.ndarray, " channel"]:
    """Expected counts of all pixels together."""
    u, w = (jnp.asarray(x, float) for x in (point.coordinates, point.weights))
    amounts = (point.abundances * np.asarray(exposure_or_one(counts))).sum(1)
    return np.asarray(spectra(parametrised, u, w)[0], np.float64) @ amounts
