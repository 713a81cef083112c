"""`simulate`: from phases and their maps to a spectrum image with its truth."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._checks import check
from ..inference import GroundTruth, Provenance, SpectrumImage
from ..inference._detectors import joined_provenance
from ..model import AnyModel, EDSModel
from ..objective import sample_counts
from ..physics import Acquisition, Number
from ._phases import Phase, phase_weights

_MN_KA = 5.895  # keV


def simulate(
    model: AnyModel,
    phases: Sequence[Phase],
    abundance: Float[Array, "phase y x"] | Float[np.ndarray, "phase y x"],
    counts_per_pixel: Number,
    *,
    key: Key[Array, ""],
    thickness: Float[Array, "ny nx"] | Float[np.ndarray, "ny nx"] | None = None,
    pixel_size: tuple[Number, Number] = (1.0, 1.0),
    pixel_unit: str = "nm",
    title: str = "simulated",
) -> SpectrumImage:
    """A spectrum image of a sample whose truth is known.

    With v the volume fractions, t the relative thickness and n the atoms per volume of each
    phase, the expected counts are `Y = D H`, `D = G W` with W in the canonical gauge (atomic
    fractions), `H[p, x] = s · n[p] v[p, x] t[x]`, and s set so that their mean over the pixels is
    `counts_per_pixel`. The counts are Poisson.

    The truth that travels with the image is in the canonical gauge as well: `truth.abundance` is
    `H / sum_p H`, each phase's share of a pixel's **atoms**, which is what a fit estimates. It
    differs from `abundance`, shares of volume, where the phases differ in atoms per volume.

    **Arguments:**

    - `model`: gives G; with self-absorption each phase gets its own. `thickness` scales the dose
      of atoms only, not the absorption. A `JointModel` gives one image of all its detectors.
    - `abundance`: volume fractions of the phases, summing to one in each pixel.
    - `counts_per_pixel`: the mean over the image, > 0.
    - `key`: the same key gives the same counts.
    - `thickness`: relative, >= 0; one everywhere by default.
    - `pixel_size`: (y, x) step in `pixel_unit`.

    Raises `InputError` for shapes that do not match, fractions that do not sum to one, elements
    the model lacks, or an image without any expected counts.
    """
    volume = np.asarray(abundance, np.float64)
    check(
        volume.shape[0] == len(phases),
        f"There are {len(phases)} phases but {volume.shape[0]} abundance maps; give one for each.",
    )
    check(
        bool(np.isfinite(volume).all() and (volume >= 0).all())
        and bool((np.abs(volume.sum(0) - 1) < 1e-4).all()),
        "The abundance maps must be non-negative and sum to one over the phases in each pixel.",
    )
    check(
        math.isfinite(counts_per_pixel) and counts_per_pixel > 0,
        f"{counts_per_pixel} counts per pixel were asked for; give a positive number.",
    )
    scan_shape = volume.shape[1:]
    dose = np.ones(scan_shape) if thickness is None else np.asarray(thickness, np.float64)
    check(
        dose.shape == scan_shape,
        f"The thickness map has the shape {dose.shape}, the abundance maps {scan_shape}; make "
        "them equal.",
    )
    check(
        bool(np.isfinite(dose).all() and (dose >= 0).all()),
        "The thickness map holds negative or non-finite values; give relative thicknesses.",
    )

    weights, basis = phase_weights(model, phases)
    matrix = np.asarray(basis.matrix, np.float64)
    equation = "pcj,jp->cp" if basis.depends_on_phase else "cj,jp->cp"
    endmembers = np.einsum(equation, matrix, weights)
    atoms = np.array([phase.atoms_per_volume for phase in phases])
    abundances = (atoms[:, None, None] * volume * dose).reshape(len(phases), -1)
    check(
        bool((endmembers.sum(0) > 0).all()),
        "A phase emits nothing in the model's energy range; choose a range with lines of it.",
    )
    mean = float((endmembers.sum(0) @ abundances).mean())
    check(mean > 0, "The thickness map is zero everywhere, so no counts are expected.")
    abundances *= counts_per_pixel / mean
    counts = sample_counts(endmembers, abundances, key=key, scan_shape=scan_shape)
    shares = atoms[:, None, None] * volume
    truth = GroundTruth(
        abundance=shares / shares.sum(0),
        spectra=endmembers / endmembers.sum(0),
        composition=_composition(model, phases),
        element_symbols=tuple(element.symbol for element in model.elements),
        phase_names=tuple(phase.name for phase in phases),
    )
    acquisitions = [_acquisition(part) for part in model.parts]
    records = [
        _provenance(part, own, pixel_size, pixel_unit)
        for part, own in zip(model.parts, acquisitions, strict=True)
    ]
    return SpectrumImage(
        counts=counts,
        energy_axis=model.energy_axis,
        acquisition=acquisitions[0],
        pixel_size=(float(pixel_size[0]), float(pixel_size[1])),
        pixel_unit=pixel_unit,
        title=title,
        provenance=joined_provenance(records),
        truth=truth,
        further_acquisitions=tuple(acquisitions[1:]),
    )


def _composition(model: AnyModel, phases: Sequence[Phase]) -> np.ndarray:
    """Atomic fractions (element, phase) in the order of the model's elements."""
    columns = [
        [phase.fractions().get(element.atomic_number, 0.0) for element in model.elements]
        for phase in phases
    ]
    return np.array(columns).T


def _acquisition(model: EDSModel) -> Acquisition:
    """What a microscope would have written: an untilted stage, so elevation = take-off angle."""
    angle = None if model.take_off_angle is None else float(model.take_off_angle)
    level = None if angle is None else 0.0
    return Acquisition(
        beam_energy=model.beam_energy,
        elevation=angle,
        azimuth=level,
        tilt_alpha=level,
        tilt_beta=level,
        energy_resolution_mn_ka=1e3 * float(model.detector.resolution.fwhm(jnp.asarray(_MN_KA))),
        elements=tuple(element.symbol for element in model.elements),
    )


def _provenance(
    model: EDSModel, acquisition: Acquisition, pixel_size: tuple[Number, Number], unit: str
) -> dict[str, Provenance]:
    axis = model.energy_axis
    values = {
        "beam energy": (acquisition.beam_energy, "keV"),
        "elevation": (acquisition.elevation, "°"),
        "azimuth": (acquisition.azimuth, "°"),
        "tilt alpha": (acquisition.tilt_alpha, "°"),
        "tilt beta": (acquisition.tilt_beta, "°"),
        "energy resolution": (acquisition.energy_resolution_mn_ka, "eV"),
        "energy offset": (float(axis.offset), "keV"),
        "energy gain": (float(axis.gain), "keV"),
        "pixel size y": (float(pixel_size[0]), unit),
        "pixel size x": (float(pixel_size[1]), unit),
    }
    return {
        name: Provenance(None, unit, "missing")
        if value is None
        else Provenance(float(f"{value:.7g}"), unit, "given")  # the digits of 32 bits
        for name, (value, unit) in values.items()
    }
