"""Atoms per area, mass-thickness and thickness, where the dose is known."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .._checks import InputError, check
from ..model import AnyModel
from ..physics import Acquisition, Dose, Number
from ..physics._stacked_axis import of_detector
from ._quantify import pixel_amounts

if TYPE_CHECKING:
    import xarray as xr

    from ._solution import Solution
else:
    from .._xarray import xr

#: Molecules per mol (exact in the SI).
AVOGADRO = 6.02214076e23
_NM2_PER_CM2 = 1e14
_NM_PER_CM = 1e7

#: What the amounts of a solution rest on, by its parameters' names.
FACTORS = {"beam_current": "beam current", "dwell_time": "dwell time", "solid_angle": "solid angle"}

#: Mass-thicknesses of dose and self-absorption that differ by less than this factor agree.
AGREES = 1.25


def atoms_per_area(
    abundances: Float[np.ndarray, "phase *scan"], dose: Dose
) -> Float[np.ndarray, "phase *scan"]:
    """Atoms of the sample's elements in each phase, per nm² seen along the beam.

    `H / (Nₑ (Ω / 4π) 10⁻¹⁰)` with H in the canonical gauge (element rows of W sum to one, H carries
    the counts); times W they are the atoms of each element. H is per unit of exposure, so that the
    dose is that of a pixel of exposure one.
    """
    return np.asarray(abundances, np.float64) / dose.abundance_per_area


def mass_thickness(
    atoms: Float[np.ndarray, "kind *scan"], atomic_weights: Float[np.ndarray, " kind"]
) -> Float[np.ndarray, "*scan"]:
    """ρt in g/cm² of atoms per nm² of each kind: `sum_i N_i M_i / N_A`, M in g/mol.

    A kind is an element, or a phase with its mean atomic weight.
    """
    per_nm2 = np.tensordot(np.asarray(atomic_weights, np.float64), np.asarray(atoms), 1)
    return per_nm2 * (_NM2_PER_CM2 / AVOGADRO)


def thickness(
    mass_thickness: Float[np.ndarray, "*shape"], density: Number
) -> Float[np.ndarray, "*shape"]:
    """t in nm of a mass-thickness in g/cm² at a density in g/cm³."""
    check(
        bool(np.isfinite(density) and density > 0),
        f"The density is {density} g/cm³; give a positive number.",
    )
    return np.asarray(mass_thickness) / density * _NM_PER_CM


def typical(
    mass_thickness: Float[np.ndarray, "y x"], pixel_counts: Float[np.ndarray, "y x"]
) -> float:
    """The mean mass-thickness where the mass is, `sum m² / sum m`, so that holes do not count.

    In the squares m² (1 - 1/n) stands for m², with n the counts of the pixel: n (n - 1) has the
    mean λ² of a Poisson number, without its variance.
    """
    n = np.asarray(pixel_counts, np.float64)
    squares = np.square(mass_thickness) * (1 - 1 / np.maximum(n, 1.0))
    total = float(np.sum(mass_thickness))
    return float(np.sum(squares)) / total if total > 0 else 0.0


def _told(parameters: Mapping, name: str) -> Any:
    """What is told of a quantity: of several detectors the first, by which H is counted."""
    return parameters.get(name, parameters.get(of_detector(name, 1)))


def is_known(parameters: Mapping) -> bool:
    """Whether a solution's parameters tell the dose."""
    entries = (_told(parameters, name) for name in FACTORS.values())
    return all(entry is not None and entry.value is not None for entry in entries)


def known_dose(parameters: Mapping, **given: Number | None) -> Dose:
    """The dose by a solution's parameters, or by what is given here.

    Raises `InputError`, one sentence, where something is not known.
    """
    names = {**FACTORS, "live_time": "live time"}
    entries = {k: _told(parameters, v) for k, v in names.items()}
    found = {k: entry.value for k, entry in entries.items() if entry is not None}
    return Dose.from_acquisition(Acquisition(**found), **given)


def resting_on(parameters: Mapping, **given: Number | None) -> str:
    """What amounts were computed from: "0.5 nA (given), 0.01 s per pixel (given), 0.7 sr (given)".

    Meant for a dose that is known.
    """
    words = []
    for name, unit in (
        ("beam_current", "nA"),
        ("dwell_time", "s per pixel"),
        ("solid_angle", "sr"),
    ):
        value, source = given.get(name), "given"
        if value is None:
            entry = _told(parameters, FACTORS[name])
            value, source = entry.value, entry.source
        words.append(f"{value:.4g} {unit} ({source})")
    return ", ".join(words)


def cosine_of_tilt(parameters: Mapping) -> float:
    """cos α cos β, by which a film is thinner along its normal than along the beam.

    A tilt that is not known counts as zero.
    """
    angles = [getattr(parameters.get(name), "value", None) for name in ("tilt alpha", "tilt beta")]
    return float(np.prod(np.cos(np.deg2rad([a or 0.0 for a in angles]))))


def variables(
    parameters: Mapping,
    abundances: Float[np.ndarray, "phase pixel"],
    fractions: Float[np.ndarray, "element phase"],
    mass_per_atom: Float[np.ndarray, " element"],
    scan_shape: tuple[int, int],
) -> dict[str, Any]:
    """`atoms_per_area` and `mass_thickness` of a solution's dataset; empty for an unknown dose.

    `fractions` are atomic; a phase whose are all zero holds no atoms. `mass_per_atom` is in g/mol,
    with oxygen that is bound unseen.
    """
    if not is_known(parameters):
        return {}
    atoms = atoms_per_area(abundances, known_dose(parameters))
    atoms = np.where(fractions.sum(0)[:, None] > 0, atoms, 0.0)
    mass = mass_thickness(atoms, mass_per_atom @ fractions)
    source = resting_on(parameters)
    return {
        "atoms_per_area": (
            ("phase", "y", "x"),
            atoms.reshape(-1, *scan_shape),
            {"units": "atoms/nm²", "from": source},
        ),
        "mass_thickness": (
            ("y", "x"),
            mass.reshape(scan_shape),
            {"units": "g/cm²", "from": source},
        ),
    }


def amounts(
    solution: "Solution", dose: Dose, source: str, density: Number | Mapping[str, Number] | None
) -> "xr.Dataset":
    """The dataset of `Solution.pixel_amounts`."""
    data = solution.dataset
    phases = [str(name) for name in data["phase"].values]
    n_phases, ny, nx = data["H"].shape
    rows = np.flatnonzero(solution.basis.composition_rows)
    weights = data["W"].values.copy()
    barren = data["composition"].values.sum(0) == 0
    weights[np.ix_(rows, np.flatnonzero(barren))] = 0.0
    masses = np.asarray(data["mass_per_atom"].values, np.float64)
    per_column = np.zeros((len(rows) + 2, len(weights)))
    per_column[np.arange(len(rows)), rows] = 1.0
    per_column[-2:, rows] = masses
    per_phase = np.ones((len(per_column), n_phases))
    if density is None:
        per_column, per_phase = per_column[:-1], per_phase[:-1]
    else:
        per_phase[-1] = 1 / _densities(density, phases)
    state = data["H_free"].values.reshape(n_phases, -1)
    held = data.attrs["sum_to_one"]
    # shares sum to one, but how many counts a pixel has was free
    held = held and json.loads(data.attrs["settings"])["constraint"] == "SumToOneAbundances"
    found = pixel_amounts(
        solution.basis,
        weights,
        data["H"].values.reshape(n_phases, -1),
        data["exposure"].values.ravel(),
        data["W_covariance"].values,
        state == 1,
        state == -1,
        per_column,
        per_phase,
        data["H_plane"].values if held else None,
    )
    to_mass = _NM2_PER_CM2 / AVOGADRO
    values, errors = (x.reshape(-1, ny, nx) / dose.abundance_per_area for x in found)
    e, grid = len(rows), ("y", "x")
    variables: dict[str, Any] = {}
    for end, maps in (("", values), ("_stderr", errors)):
        kinds = {
            "atoms_per_area": (("element", *grid), maps[:e], "atoms/nm²"),
            "mass_thickness": (grid, maps[e] * to_mass, "g/cm²"),
        }
        if density is not None:
            kinds["thickness"] = (grid, maps[e + 1] * to_mass * _NM_PER_CM, "nm")
        for name, (dims, map_, unit) in kinds.items():
            variables[name + end] = (dims, map_, {"units": unit, "from": source})
    places = {"element": data["element"].values, "y": data["y"], "x": data["x"]}
    return xr.Dataset(variables, places)


def _densities(density: Number | Mapping[str, Number], phases: Sequence[str]) -> np.ndarray:
    """g/cm³ of each phase."""
    if isinstance(density, Mapping):
        check(
            set(density) == set(phases),
            f"Densities are given for {', '.join(density) or 'nothing'}, but the phases are "
            f"{', '.join(phases)}; give one for each.",
        )
        found = np.array([density[name] for name in phases], float)
    else:
        found = np.full(len(phases), float(density))
    check(
        bool((np.isfinite(found) & (found > 0)).all()),
        f"The densities are {', '.join(f'{x:g}' for x in found)} g/cm³; give positive numbers.",
    )
    return found


def with_mass_thickness(model: AnyModel, solution: "Solution") -> AnyModel:
    """The model with the mass-thickness for self-absorption that the dose of a solution gives.

    It is the mean along the film's normal, `cos α cos β sum m² / sum m`, with m the solution's
    `mass_thickness` along the beam and the tilts of the stage.

    Raises `InputError` where the dose is not known or the model has no self-absorption.
    """
    if model.mass_thickness is None:
        raise InputError(
            "The model was built without self-absorption; build it with a rough thickness and "
            "density first."
        )
    known_dose(solution.parameters)
    along_beam = typical(*(solution.dataset[k].values for k in ("mass_thickness", "pixel_counts")))
    check(along_beam > 0, "The solution has no atoms, and so no mass-thickness for the model.")
    found = along_beam * cosine_of_tilt(solution.parameters)
    return model.with_mass_thickness(found)
