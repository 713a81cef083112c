"""Which physical parameters of a model there are: where each lies, its unit, its usual prior."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._checks import InputError
from .._types import Scalar
from ..physics import CorrectedBremsstrahlung, CorrectedEfficiency, LayeredEfficiency
from ..physics._scalars import ScalarLike
from ._priors import AbstractPrior, Exponential, LogitNormal, LogNormal, Normal

_EV_PER_KEV = 1e3

#: keV by which the middle of an axis may lie off the straight line between its ends.
_BEND = 0.005


class Adjustable(NamedTuple):
    """A physical parameter of a model.

    - `where`: finds the leaf in a model. `index`: the entry, of a leaf that is a list.
    - `unit`: of what is shown, which is the leaf times `factor`.
    - `prior`: the usual one, around a value in `unit`.
    """

    where: Callable[[Any], Any]
    unit: str
    prior: Callable[[float], AbstractPrior]
    factor: float = 1.0
    index: int | None = None

    def of(self, model: Any) -> Scalar:
        """The value in `unit`."""
        leaf = self.where(model)
        return self.factor * (leaf if self.index is None else leaf[self.index])

    def inside(self, outer: Callable[[Any], Any]) -> "Adjustable":
        """The same parameter of what `outer` finds in a larger model."""
        return self._replace(where=lambda m: self.where(outer(m)))

    def usual_prior(self, model: Any) -> AbstractPrior | None:
        """The usual prior around the model's value; `None` where the value is at a bound of it."""
        try:
            return self.prior(float(self.of(model)))
        except InputError:
            return None

    def flag(self, filter_spec: Any) -> Any:
        """The parameter's own entry in a model whose leaves are flags."""
        leaf = self.where(filter_spec)
        return leaf if self.index is None else leaf[self.index]

    def put(self, model: Any, value: ScalarLike) -> Any:
        """The model with another value, in `unit`."""
        old = self.where(model)
        new = jnp.asarray(value / self.factor, old.dtype)
        return eqx.tree_at(
            self.where, model, new if self.index is None else old.at[self.index].set(new)
        )


def _normal(sd: float) -> Callable[[float], AbstractPrior]:
    return lambda value: Normal(value, sd)


def positive(sd: float) -> Callable[[float], AbstractPrior]:
    """Log-normal priors."""
    return lambda value: LogNormal(value, sd)


def _between(low: float, high: float, sd: float) -> Callable[[float], AbstractPrior]:
    return lambda value: LogitNormal(value, sd, low, high)


def adjustables(model: Any) -> dict[str, Adjustable]:
    """Every physical parameter that a model has, by name."""
    return model.adjustables()


def adjustables_of(model: Any) -> dict[str, Adjustable]:
    """Those of an `EDSModel`."""
    found = {
        "energy_offset": Adjustable(lambda m: m.energy_axis.offset, "keV", _normal(0.01)),
        "energy_gain": Adjustable(lambda m: m.energy_axis.gain, "keV/channel", positive(0.003)),
        "energy_quadratic": Adjustable(
            lambda m: m.energy_axis.quadratic,
            "keV/channel²",
            _normal(4 * _BEND / model.energy_axis.size**2),
        ),
        "noise_fwhm": Adjustable(
            lambda m: m.detector.resolution.noise_fwhm, "eV", positive(0.3), _EV_PER_KEV
        ),
        "fano": Adjustable(lambda m: m.detector.resolution.fano, "", positive(0.1)),
    }
    if model.take_off_angle is not None:
        found["take_off_angle"] = Adjustable(
            lambda m: m.take_off_angle, "°", _between(0.0, 90.0, 0.1)
        )
    return (
        found
        | _of_absorption(model)
        | _of_efficiency(model.detector.efficiency, lambda m: m.detector.efficiency)
        | _of_continuum(model.bremsstrahlung)
        | _of_response(model.detector.response)
        | _of_lines(model.line_corrections)
    )


def adjustables_of_sample(model: Any) -> dict[str, Adjustable]:
    """Those that all detectors of one sample share."""
    return _of_absorption(model) | _of_lines(model.line_corrections)


def _of_absorption(model: Any) -> dict[str, Adjustable]:
    if model.mass_thickness is None:
        return {}
    return {"mass_thickness": Adjustable(lambda m: m.mass_thickness, "g/cm²", positive(0.7))}


def _of_continuum(bremsstrahlung: Any) -> dict[str, Adjustable]:
    if not isinstance(bremsstrahlung, CorrectedBremsstrahlung):
        return {}
    return _of_correction("continuum", bremsstrahlung, lambda m: m.bremsstrahlung)


def _of_lines(corrections: Any) -> dict[str, Adjustable]:
    found: dict[str, Adjustable] = {}
    for i, group in enumerate(corrections.groups if corrections is not None else ()):
        found[f"{group.label} ratio"] = Adjustable(
            lambda m: m.line_corrections.ratio, "", positive(0.3), index=i
        )
        found[f"{group.label} energy"] = Adjustable(
            lambda m: m.line_corrections.shift, "eV", _normal(2.0), _EV_PER_KEV, i
        )
    return found


def efficiency_names(model: Any) -> tuple[str, ...]:
    """Parameters of the efficiency of the detector, or of each one."""
    return tuple(
        model.named(name, i)
        for i, part in enumerate(model.parts)
        for name in _of_efficiency(part.detector.efficiency, lambda m: m.detector.efficiency)
    )


def _of_efficiency(efficiency: Any, where: Callable[[Any], Any]) -> dict[str, Adjustable]:
    """Thicknesses of the detector's layers, by material, counted where it comes again."""
    found: dict[str, Adjustable] = {}
    if isinstance(efficiency, CorrectedEfficiency):
        inner = _of_efficiency(efficiency.efficiency, lambda m: where(m).efficiency)
        return inner | _of_correction("efficiency", efficiency, where)
    if not isinstance(efficiency, LayeredEfficiency):
        return found
    for i, window in enumerate(efficiency.windows):
        number, name = 2, f"window_{window.material}"
        while name in found:
            name, number = f"window_{window.material}_{number}", number + 1
        found[name] = Adjustable(lambda m, i=i: where(m).windows[i].thickness, "nm", positive(0.3))
    found["crystal_thickness"] = Adjustable(
        lambda m: where(m).active.thickness, "mm", positive(0.1), 1e-6
    )
    return found


def _of_correction(what: str, corrected: Any, where: Callable[[Any], Any]) -> dict[str, Adjustable]:
    return {
        f"{what}_correction_{k + 1}": Adjustable(
            lambda m: where(m).correction.coefficients, "", _normal(0.1), index=k
        )
        for k in range(len(corrected.correction.coefficients))
    }


def _of_response(response: Any) -> dict[str, Adjustable]:
    found: dict[str, Adjustable] = {}
    if response is None:
        return found
    if response.incomplete_charge is not None:
        part = lambda m: m.detector.response.incomplete_charge  # noqa: E731
        found["tail_depth"] = Adjustable(lambda m: part(m).tail.thickness, "nm", Exponential)
        found["shelf_depth"] = Adjustable(lambda m: part(m).shelf.thickness, "nm", Exponential)
        found["tail_relative_loss"] = Adjustable(
            lambda m: part(m).relative_loss, "", _between(0.0, 1.0, 0.5)
        )
    if response.escape is not None:
        found["escape_strength"] = Adjustable(
            lambda m: m.detector.response.escape.strength, "", positive(0.2)
        )
    if response.pile_up is not None:
        found["pile_up_share"] = Adjustable(
            lambda m: m.detector.response.pile_up.share, "", _between(0.0, 1.0, 1.0)
        )
    return found


def adjusted(model: Any, values: Mapping[str, ScalarLike]) -> Any:
    """The model with other values of some of its parameters, by name and in the units shown."""
    known = adjustables(model)
    return functools.reduce(lambda m, name: known[name].put(m, values[name]), values, model)
