"""`Refinement`: the refined model, its parameters with errors, and what they do to compositions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..model import AnyModel, adjustables
from ..objective import AbstractCounts, exposure_or_one
from ._posterior import posterior
from ._quantify import phase_composition
from ._scoring import Found, Point
from ._solution import energy_coordinates
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

    - `before`, `after`, `stderr`: in `unit`; the error carries the counts and the prior. `before`
        is NaN for a part of the detector's response that the model had not.
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
class End:
    """Where a refinement ended: what was fitted by what, with which coordinates `moved`."""

    counts: AbstractCounts
    parametrised: Parametrised
    found: Found
    moved: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Refinement:
    """What `refine` found.

    - `model`: with the refined values; `fit` takes it as any other.
    - `parameters`: what was refined, by name.
    - `correlation`: of the parameters, (parameter, parameter), in the order of `parameters`.
    - `deviance_before`, `deviance_after`: of the counts that were fitted, by the model as it was
        given and as it was refined, W (and H) optimal in both.
    - `dof_before`, `dof`: degrees of freedom of the two: counts fitted less every number that was
        (of W and H those above zero, and each parameter).
    - `converged`, `stalled`, `steps`: how the search ended, `trace`: its losses. `loss`: what was
        fitted.
    - `dataset`: by the maps that were held (for the compositions of an image fit it again, and see
        `propagate`): `W(column, phase)`, `composition(element, phase)` in at%, `composition_stderr`
        (counting alone) and `composition_stderr_total` (with the parameters' share),
        `counts_sum(energy)`, `fit_sum(energy)` and `fit_sum_before(energy)`.
    """

    model: AnyModel
    parameters: Mapping[str, RefinedParameter]
    correlation: Float[np.ndarray, "parameter parameter"]
    deviance_before: float
    deviance_after: float
    dof_before: int
    dof: int
    converged: bool
    stalled: bool
    steps: int
    loss: str
    trace: tuple[float, ...]
    _made: tuple[Any, ...]
    _end: End

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
        if self.stalled:
            found.append("the refinement ended where no step lowers the loss")
        elif not self.converged:
            found.append("the refinement stopped before it converged; allow more steps")
        names = list(self.parameters)
        if self.deviance_after > self.deviance_before:
            found.append(
                f"the refined model fits worse (deviance {self.deviance_after:.5g}) than the model "
                f"as it was given ({self.deviance_before:.5g}): a part that was switched on is not "
                "in these counts; leave it out"
            )
        open_ones = [n for n, p in self.parameters.items() if not p.determined]
        if open_ones:
            found.append(
                f"the counts do not determine {_listed(open_ones)}: the standard error is that of "
                "the prior"
            )
        far = [n for n, p in self.parameters.items() if abs(p.coordinate) > FAR]
        if far:
            found.append(
                f"the refined {_listed(far)} ended more than {FAR:g} prior standard deviations "
                "from where the prior is; something is missing in the model"
            )
        for i, one in enumerate(names):
            for j in range(i + 1, len(names)):
                if abs(self.correlation[i, j]) > CORRELATED:
                    found.append(
                        f"the parameters {one} and {names[j]} can hardly be told apart "
                        f"(correlation {self.correlation[i, j]:+.3f})"
                    )
        return tuple(found)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def refinement(
    counts: AbstractCounts,
    given: Parametrised,
    before: Found,
    parametrised: Parametrised,
    after: Found,
    start: Float[np.ndarray, " parameter"],
    moved: Sequence[int],
    loss: str,
    tol: float,
    phases: Sequence[str] | None,
) -> Refinement:
    """The labelled result of a search over the coordinates `moved`."""
    point = after.point
    told = posterior(point.weights, after.near)
    sd = np.sqrt(np.diag(told.parameters))
    known, had = adjustables(parametrised.model), adjustables(given.model)
    found: dict[str, RefinedParameter] = {}
    for i, k in enumerate(moved):
        name, prior = parametrised.names[k], parametrised.priors[k]
        found[name] = RefinedParameter(
            before=float(prior.value(start[k])) if name in had or neutral(name) else float("nan"),
            after=float(prior.value(point.coordinates[k])),
            stderr=abs(float(prior.slope(point.coordinates[k]))) * float(sd[i]),
            unit=known[name].unit,
            prior=prior.described(known[name].unit),
            coordinate=float(point.coordinates[k]),
            coordinate_stderr=float(sd[i]),
        )
    sources = dict.fromkeys(found, "refined")
    if "mass_thickness" in found:
        sources["thickness"] = "refined"  # by the density, which stays
    refined = parametrised.at(jnp.asarray(point.coordinates, float)).with_sources(sources)
    freedom = [_freedom(counts, found_.point, loss) for found_ in (before, after)]
    parts = _labelled(counts, given, before, parametrised, after, told, phases)
    deviances = [
        2 * f.point.loss - float(f.point.coordinates @ f.point.coordinates) for f in (before, after)
    ]
    return Refinement(
        model=refined,
        parameters=found,
        correlation=told.parameters / np.outer(sd, sd),
        deviance_before=deviances[0],
        deviance_after=deviances[1],
        dof_before=freedom[0],
        dof=freedom[1] - len(found),
        converged=after.remaining < tol,
        stalled=after.stalled,
        steps=after.steps,
        loss=loss,
        trace=after.trace,
        _made=parts,
        _end=End(counts, parametrised, after, tuple(moved)),
    )


def neutral(name: str) -> bool:
    """Whether a parameter that is switched on changes nothing at the value it starts from."""
    return any(part in name for part in (" ratio", " energy", "_correction_"))


def _freedom(counts: AbstractCounts, point: Point, loss: str) -> int:
    """Counts that were fitted less the numbers of W and H that were."""
    pixels = int((np.asarray(counts.pixel_totals()) > 0).sum())
    fitted = int((point.weights > 0).sum())
    if loss == "pixels":
        fitted += int((point.abundances > 0).sum()) - point.weights.shape[1]
    elif loss == "pools":  # whose brightness was taken from the counts
        fitted += pixels
    return counts.n_channels * pixels - fitted


def _labelled(counts, given, before, parametrised, after, told, phases):
    """Variables, coordinates and attributes of the dataset."""
    model, weights = parametrised.model, after.point.weights
    rows = np.flatnonzero([c.in_composition for c in model.columns])
    atoms = np.ones(len(rows))
    atomic, error = phase_composition(weights, told.weights, rows, atoms)
    _, error_total = phase_composition(weights, told.weights_total, rows, atoms)
    table, percent = ("element", "phase"), {"units": "at%"}
    variables = {
        "W": (("column", "phase"), weights),
        "composition": (table, 100 * atomic, percent),
        "composition_stderr": (table, 100 * error, percent),
        "composition_stderr_total": (table, 100 * error_total, percent),
        "counts_sum": ("energy", np.asarray(counts.sum_spectrum(), np.float64)),
        "fit_sum_before": ("energy", summed(counts, given, before.point)),
        "fit_sum": ("energy", summed(counts, parametrised, after.point)),
    }
    n_phases = weights.shape[1]
    if phases is None:
        phases = ["sum"] if n_phases == 1 else [f"phase {a + 1}" for a in range(n_phases)]
    axis = parametrised.at(jnp.asarray(after.point.coordinates, float)).energy_axis
    coordinates = {
        **energy_coordinates(axis),
        "column": [c.label for c in model.columns],
        "element": [e.symbol for e in model.elements],
        "phase": list(phases),
    }
    return variables, coordinates, {}


def summed(
    counts: AbstractCounts, parametrised: Parametrised, point: Point
) -> Float[np.ndarray, " channel"]:
    """Expected counts of all pixels together."""
    u, w = (jnp.asarray(x, float) for x in (point.coordinates, point.weights))
    amounts = (point.abundances * np.asarray(exposure_or_one(counts))).sum(1)
    return np.asarray(spectra(parametrised, u, w)[0], np.float64) @ amounts
