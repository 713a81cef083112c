"""`Solution`: the result of a fit, one labelled dataset that saves and loads as it is."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._basis import Basis, Column, ColumnKind
from .._checks import InputError, check
from ..atomic import Element
from ..physics import AnyEnergyAxis, Dose, EnergyAxis, Number, StackedAxis
from ..physics._stacked_axis import detector_numbers
from . import _areal, _quantify
from ._image import Provenance

if TYPE_CHECKING:
    import xarray as xr
else:
    from .._xarray import xr

SCHEMA = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """What a dataset is made of, as `xarray.Dataset` takes it."""

    variables: Mapping[str, Any]
    coordinates: Mapping[str, Any]
    attrs: dict[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        """The numbers of a variable."""
        return self.variables[name][1]

    def dataset(self) -> "xr.Dataset":
        """With labels."""
        return xr.Dataset(self.variables, self.coordinates, self.attrs)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """W, H and what follows from them, in the canonical gauge.

    In each phase the composition rows of W sum to one (atomic fractions) and H carries the counts.
    A phase that is practically free of the sample's elements (a hole, a grid bar) has spectra that
    sum to one instead, H in counts and a composition of zeros. `abundance` is each phase's share
    of the atoms in a pixel, or of its counts where a phase is without atoms; its attribute
    `share_of` says which. Everything lives in `dataset`:

    `counts_sum(energy)`, `G(energy, column)` or `G(phase, energy, column)`, `W(column, phase)`,
    `H(phase, y, x)`, `spectra(energy, phase)` = G W, `fit_sum(energy, phase)`: each phase's part
    of the summed spectrum, `abundance(phase, y, x)`, `composition(element, phase)` in at% with
    `composition_stderr`, `weight_percent(element, phase)` with `weight_percent_stderr`, and
    `objective(check)` against `steps(check)` (and `coarse_objective`, `coarse_steps` of the binned
    fit). Where current, dwell time and solid angle are known, `atoms_per_area(phase, y, x)` in
    atoms/nm² and `mass_thickness(y, x)` in g/cm², with what they rest on in `from`. Coordinates in
    keV and the scan's unit, and `detector(energy)`, numbered from 1, where several detectors
    recorded the scan, whose channels follow one another; the physical parameters with unit and
    source, `objective`, `nll` and `remaining_nats` at the end, the result and the warnings as
    attributes.
    """

    _made: "xr.Dataset | Parts"

    @functools.cached_property
    def dataset(self) -> "xr.Dataset":
        """Everything, with labels."""
        made = self._made
        return made.dataset() if isinstance(made, Parts) else made

    def __repr__(self) -> str:
        phases = ", ".join(str(name) for name in self._labels("phase"))
        return f"Solution(phases: {phases}; {self.result})"

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": self._made}  # what is derived from it is made again

    def _labels(self, name: str) -> list[Any]:
        if not isinstance(self._made, Parts):
            return list(self._made[name].values)
        value = self._made.coordinates[name]
        return list(value[1] if isinstance(value, tuple) else value)

    def _has(self, name: str) -> bool:
        made = self._made
        return name in (made.coordinates if isinstance(made, Parts) else made.coords)

    @property
    def weights(self) -> Float[Array, "column phase"]:
        """W, canonical."""
        return jnp.asarray(np.asarray(self._made["W"]), float)

    @property
    def abundances(self) -> Float[Array, "phase pixel"]:
        """H, canonical: counts per unit of G W."""
        values = np.asarray(self._made["H"])
        return jnp.asarray(values.reshape(len(values), -1), float)

    @property
    def abundance(self) -> Float[np.ndarray, "phase y x"]:
        """Share of each phase in the atoms (or counts) of each pixel, summing to one."""
        return np.asarray(self._made["abundance"])

    @functools.cached_property
    def basis(self) -> Basis:
        """G with its typed columns."""
        columns = tuple(_column_from(c) for c in json.loads(self._made.attrs["columns"]))
        return Basis(jnp.asarray(np.asarray(self._made["G"]), float), columns)

    @property
    def energy_axis(self) -> AnyEnergyAxis:
        """Energies of the channels, in keV."""
        energy = np.asarray(self._labels("energy"), np.float64)
        if not self._has("detector"):
            return _axis(energy)
        number = np.asarray(self._labels("detector"))
        return StackedAxis(tuple(_axis(energy[number == k]) for k in dict.fromkeys(number)))

    @property
    def composition(self) -> "xr.DataArray":
        """At% of each element in each phase."""
        return self.dataset["composition"]

    @property
    def converged(self) -> bool:
        """Whether the fit, of the binned image too, met its criteria."""
        return bool(self._made.attrs["converged"])

    @property
    def result(self) -> str:
        """How the fit ended, as a sentence."""
        return self._made.attrs["result"]

    @property
    def objective(self) -> float:
        """Poisson NLL plus penalties at the end, in nats."""
        return float(self._made.attrs["objective"])

    @property
    def nll(self) -> float:
        """Poisson NLL at the end, without penalties, in nats."""
        return float(self._made.attrs["nll"])

    @property
    def parameters(self) -> dict[str, Provenance]:
        """Every physical parameter with its unit and whether it was given, read, defaulted ..."""
        stored = json.loads(self._made.attrs["parameters"])
        return {name: Provenance(**entry) for name, entry in stored.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences that a reader of the result should know."""
        return tuple(json.loads(self._made.attrs["warnings"]))

    def pixel_composition(self, *, weight_percent: bool = False) -> "xr.Dataset":
        """At% (or wt%) of every pixel with standard errors, from the mix of its phases.

        Returns a dataset with `composition(element, y, x)` and `composition_stderr`. The errors
        carry the noise of the pixel's own abundances and that of W; they know of no smoothness,
        which makes them too large where the maps are smoothed. 100 stands for "not known". A pixel
        without abundance gets the mean of the phases and their spread as error, one without any
        atom zeros.
        """
        data = self.dataset
        elements = data["element"].values
        state = data["H_free"].values.reshape(len(data["phase"]), -1)
        rows = np.flatnonzero(self.basis.composition_rows)
        per_atom = np.array([Element(int(z)).atomic_weight for z in data["atomic_number"].values])
        barren = data["composition"].values.sum(0) == 0
        weights = data["W"].values.copy()
        weights[np.ix_(rows, np.flatnonzero(barren))] = 0.0
        fraction, error = _quantify.pixel_composition(
            self.basis,
            weights,
            np.asarray(self.abundances),
            data["exposure"].values.ravel(),
            data["W_covariance"].values,
            state == 1,
            state == -1,
            rows,
            per_atom if weight_percent else np.ones(len(rows)),
            data["H_plane"].values if data.attrs["sum_to_one"] else None,
        )
        shape = (len(elements), len(data["y"]), len(data["x"]))
        dims = ("element", "y", "x")
        unit = {"units": "wt%" if weight_percent else "at%"}
        return xr.Dataset(
            {
                "composition": (dims, 100 * fraction.reshape(shape), unit),
                "composition_stderr": (dims, 100 * error.reshape(shape), unit),
            },
            {"element": elements, "y": data["y"], "x": data["x"]},
        )

    @property
    def dose(self) -> Dose | None:
        """Current, dwell time and solid angle, or `None` where one of them is not known."""
        known = self.parameters
        return _areal.known_dose(known) if _areal.is_known(known) else None

    def pixel_amounts(
        self,
        *,
        beam_current: Number | None = None,
        dwell_time: Number | None = None,
        solid_angle: Number | None = None,
        density: Number | Mapping[str, Number] | None = None,
    ) -> "xr.Dataset":
        """Atoms per area of each element and the mass-thickness of every pixel, with errors.

        - `beam_current` in nA, `dwell_time` in s (live time of a pixel of this solution, all frames
            together), `solid_angle` in sr: go before what the image knew. Of several detectors
            those of the first, to which the sensitivities of the others refer.
        - `density`: in g/cm³, of all phases or of each by name; adds the thickness.

        Returns a dataset with `atoms_per_area(element, y, x)` in atoms/nm² and `mass_thickness(y,
        x)` in g/cm² along the beam, `thickness(y, x)` in nm, each with `_stderr`. The errors are
        those of counting, as in `pixel_composition`: the pixel's own noise and that of W. Errors of
        current, time, solid angle, efficiency and cross sections are not in them; they scale the
        whole map. The error of a pixel without abundance is not known (NaN).

        Raises `InputError`, one sentence, where the dose is not known or the densities do not fit.
        """
        given = {
            "beam_current": beam_current,
            "dwell_time": dwell_time,
            "solid_angle": solid_angle,
        }
        found = self.parameters
        dose = _areal.known_dose(found, **given)
        return _areal.amounts(self, dose, _areal.resting_on(found, **given), density)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the dataset as netCDF-4.

        Raises `InputError` when the folder is missing, and when the file exists unless
        `overwrite`. What was there is replaced only once the new file is complete.
        """
        target = Path(path)
        check(
            overwrite or not target.exists(),
            f"{target} exists already; choose another name or allow overwriting.",
        )
        check(not target.is_dir(), f"{target} is a folder; give the name of a file.")
        check(target.parent.is_dir(), f"There is no folder {target.parent}; create it first.")
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            self.dataset.to_netcdf(partial, engine="h5netcdf")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Solution":
        """Read what `save` wrote. Raises `InputError` for anything else."""
        target = Path(path)
        check(target.is_file(), f"There is no file {target}.")
        try:
            with xr.open_dataset(target, engine="h5netcdf") as data:
                dataset = data.load()
        except Exception as error:
            raise InputError(
                f"{target} cannot be read as a saved solution ({type(error).__name__}); give a "
                "solution.nc that this program wrote."
            ) from error
        check(
            bool(dataset.attrs.get("esmpy_jax_schema") == SCHEMA),
            f"{target} is not a solution of this program, or of another version of its format; "
            "fit the image again.",
        )
        return cls(dataset)


def _axis(energy: Float[np.ndarray, " channel"]) -> EnergyAxis:
    """The axis of one detector with these energies."""
    n = len(energy)
    gain = (energy[-1] - energy[0]) / max(n - 1, 1)
    middle = (n - 1) // 2
    bent = (n - 1 - middle) * middle
    off = energy[0] + gain * middle - energy[middle]
    # less than the rounding of the labels is none
    bend = off / bent if bent and abs(off) > 1e-6 * abs(energy[-1]) else 0.0
    return EnergyAxis(float(energy[0]), float(gain - bend * (n - 1)) or 1.0, n, bend)


def energy_coordinates(axis: AnyEnergyAxis) -> dict[str, Any]:
    """The energy of each channel, and its detector where there are several."""
    found: dict[str, Any] = {
        "energy": ("energy", np.asarray(axis.centres, float), {"units": "keV"})
    }
    if len(axis.parts) > 1:
        found["detector"] = ("energy", detector_numbers(axis))
    return found


def column_record(column: Column) -> dict[str, Any]:
    """One column as plain values, for storage."""
    record = dataclasses.asdict(column)
    record["kind"] = column.kind.value
    return record


def _column_from(record: dict[str, Any]) -> Column:
    limits = record["energy_range"]
    return Column(
        ColumnKind(record["kind"]),
        record["label"],
        record["atomic_number"],
        record["family"],
        None if limits is None else (float(limits[0]), float(limits[1])),
        record["in_composition"],
        record.get("detector"),  # unknown to older files
    )
