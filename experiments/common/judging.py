"""How well a program found the phases of a simulated image; shared by the studies."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import esmpy_jax as ej
from esmpy_jax.simulate import Phase, phase_weights
from esmpy_jax.solve import mean_weights


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


def shares_of_counts(model: ej.EDSModel, phases: Sequence[Phase], atoms: np.ndarray) -> np.ndarray:
    """The true shares of counts from the true shares of atoms, both (phase, y, x)."""
    weights, basis = phase_weights(model, phases)
    per_atom = np.asarray(basis.endmembers(jax.numpy.asarray(weights, float)), float).sum(0)
    counts = per_atom[:, None, None] * atoms
    return counts / counts.sum(0)


def composition_of(model: ej.EDSModel, spectra: np.ndarray, rounds: int = 3) -> np.ndarray:
    """At% (element, phase) of spectra that were found without G: a Poisson fit of G to each.

    With self-absorption G follows the composition, so it is made again `rounds` times.
    """
    columns = []
    for spectrum in spectra.T:
        basis, atoms = model.basis(), np.zeros(0)
        for _ in range(rounds):
            matrix = basis.matrix[0] if basis.depends_on_phase else basis.matrix
            weights = mean_weights(matrix, jnp.asarray(1e6 * spectrum, float))
            atoms = np.asarray(weights, float)[basis.composition_rows]
            basis = model.basis(weights[:, None])
        columns.append(100 * atoms / max(atoms.sum(), 1e-300))
    return np.stack(columns, 1)


def judge_nmf(
    method: str,
    truth: ej.GroundTruth,
    model: ej.EDSModel,
    phases: Sequence[Phase],
    result: tuple[np.ndarray, np.ndarray, int, float],
    fitted: ej.EDSModel | None = None,
) -> Found:
    """The components of an NMF; its maps are compared with the true shares of counts.

    `fitted` is the model that gives the at%, where it is another than the truth's.
    """
    spectra, counts, steps, used = result
    atoms = np.asarray(truth.abundance, float)
    total = counts.sum(0)
    shares = np.where(total > 0, counts / np.where(total > 0, total, 1.0), 1 / len(atoms))
    return judge(
        method,
        truth,
        shares_of_counts(model, phases, atoms),
        shares.reshape(atoms.shape),
        spectra,
        composition_of(fitted or model, spectra),
        used,
        steps,
    )


def nmf_input(image: ej.SpectrumImage, n_phases: int):
    """Counts for another process, in small types."""
    pixel, channel, value = image.counts.to_coo()
    coo = (pixel.astype(np.int32), channel.astype(np.int32), value.astype(np.uint16))
    return coo, (image.counts.n_pixels, image.counts.n_channels), n_phases


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
