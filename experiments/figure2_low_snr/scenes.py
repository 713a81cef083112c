"""The simulated images, and how well a method found their phases."""

import dataclasses
import itertools

import jax
import numpy as np

import esmpy_jax as ej
from esmpy_jax.simulate import demo_image, mineral_phases, phase_weights

#: Foil thickness over the spheres' radius, and what it means for the maps.
SCENES = {
    "demo": (2.0, "the demo: the foil is as thick as a particle, whose middle is pure"),
    "thick foil": (4.0, "a foil twice as thick as a particle: never more than half of a pixel"),
}
RADIUS = 25 / 128  # of the image's side


@dataclasses.dataclass(frozen=True)
class Found:
    """What a method found, its phases in the order of the truth.

    `maps` are shares of atoms (this program) or of counts (scikit-learn) and are compared with
    the truth of the same kind.
    """

    method: str
    maps: np.ndarray  # (phase, y, x)
    spectra: np.ndarray  # (channel, phase), each of sum one
    composition: np.ndarray  # (element, phase), at%
    correlation: np.ndarray  # (phase,)
    angle: np.ndarray  # (phase,), degrees
    error: np.ndarray  # (phase,), at%
    seconds: float  # of CPU
    steps: int

    @property
    def found(self) -> bool:
        return bool((self.correlation >= 0.9).all())


def make_image(
    model: ej.EDSModel, scene: str, dose: float, seed: int, size: int
) -> ej.SpectrumImage:
    """Two spheres of radius 25 in 128 at places that follow from the seed, like the counts."""
    thickness = SCENES[scene][0] * RADIUS * size
    return demo_image(
        jax.random.key(seed),
        counts_per_pixel=dose,
        shape=(size, size),
        foil_thickness=thickness,
        model=model,
    )


def shares_of_counts(model: ej.EDSModel, atoms: np.ndarray) -> np.ndarray:
    """The true shares of counts from the true shares of atoms, both (phase, y, x)."""
    weights, basis = phase_weights(model, mineral_phases())
    per_atom = np.asarray(basis.endmembers(jax.numpy.asarray(weights, float)), float).sum(0)
    counts = per_atom[:, None, None] * atoms
    return counts / counts.sum(0)


def judge(
    method: str,
    truth: ej.GroundTruth,
    true_maps: np.ndarray,
    maps: np.ndarray,
    spectra: np.ndarray,
    composition: np.ndarray,
    seconds: float,
    steps: int,
) -> Found:
    """Match the phases by the best total correlation of the maps, and compare."""
    n = len(true_maps)
    pairs = np.array([[_correlation(t, m) for m in maps] for t in true_maps])
    order = list(max(itertools.permutations(range(n)), key=lambda p: pairs[range(n), p].sum()))
    spectra = spectra / np.maximum(spectra.sum(0), 1e-300)
    spectra, composition = spectra[:, order], composition[:, order]
    true_spectra = np.asarray(truth.spectra, float)
    true_percent = 100 * np.asarray(truth.composition, float)
    lengths = np.linalg.norm(true_spectra, axis=0) * np.linalg.norm(spectra, axis=0)
    cosine = (true_spectra * spectra).sum(0) / np.maximum(lengths, 1e-300)
    off = np.where(true_percent > 1, np.abs(composition - true_percent), np.nan)
    return Found(
        method,
        maps[order],
        spectra,
        composition,
        pairs[range(n), order],
        np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        np.nanmean(off, axis=0),
        seconds,
        steps,
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where a map is constant."""
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0
