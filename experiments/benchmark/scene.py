"""The image that all programs are timed on: particles in a mantle rock, simulated."""

import dataclasses
import pathlib

import jax
import numpy as np
import scipy.sparse

import esmpy_jax as ej
from esmpy_jax.simulate import Phase, simulate, spheres

ELEMENTS = ("O", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Nd", "Sm", "Lu", "Hf", "U")  # + 2 continuum
N_CHANNELS, N_PHASES = 1980, 3
TRACES = {"Ti": 0.3, "Nd": 0.2, "Sm": 0.2, "Lu": 0.1, "Hf": 0.1, "U": 0.1}
PHASES = (
    Phase("bridgmanite", {"O": 60, "Mg": 17, "Al": 2, "Si": 19, "Fe": 2, **TRACES}, 4.6),
    Phase("ferropericlase", {"O": 50, "Mg": 38, "Fe": 12}, 4.7),
    Phase("Ca-perovskite", {"O": 60, "Ca": 19, "Si": 19, "Ti": 1, "Nd": 0.5, "U": 0.5}, 4.3),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Counts of shape (pixel, channel), G, and one start for every program."""

    counts: scipy.sparse.csr_matrix
    scan_shape: tuple[int, int]
    basis: ej.Basis
    weights: np.ndarray
    abundances: np.ndarray

    @property
    def counts_per_pixel(self) -> float:
        return float(self.counts.sum() / self.counts.shape[0])

    @property
    def nonzero(self) -> float:
        """Share of the (pixel, channel) entries that hold a count."""
        return self.counts.nnz / float(np.prod(self.counts.shape))

    def facts(self) -> dict:
        """What a table says of the image."""
        return {
            "counts per pixel": self.counts_per_pixel,
            "nonzero": self.nonzero,
            "channels": self.basis.n_channels,
            "columns": self.basis.n_columns,
            "phases": self.weights.shape[1],
        }

    def save(self, path: pathlib.Path) -> None:
        """For a program in another environment: NumPy arrays and nothing else."""
        coo = self.counts.tocoo()
        np.savez(
            path,
            channel=coo.col,
            pixel=coo.row,
            value=coo.data,
            shape=self.counts.shape,
            G=np.asarray(self.basis.matrix, np.float64),
            W0=self.weights,
            H0=self.abundances,
        )


def make_scene(counts_per_pixel: float, size: int = 128, seed: int = 0) -> Scene:
    """`size` × `size` pixels with two spheres; the same seed places them alike at any dose."""
    place, noise, *start = jax.random.split(jax.random.key(seed), 4)
    axis = ej.EnergyAxis(offset=0.2, gain=0.01, size=N_CHANNELS)
    model = ej.EDSModel.from_axis(axis, ELEMENTS, beam_energy=200.0)
    maps = spheres((size, size), key=place, radius=25 * size / 128, count=(1, 1))
    image = simulate(model, PHASES, maps, counts_per_pixel, key=noise)
    basis = model.basis()
    if basis.n_columns != len(ELEMENTS) + 2:
        raise RuntimeError(f"G has {basis.n_columns} columns.")
    pixel, channel, value = image.counts.to_coo()
    shape = (size * size, N_CHANNELS)
    counts = scipy.sparse.csr_matrix((value.astype(np.float64), (pixel, channel)), shape)
    shares = np.asarray(jax.random.uniform(start[0], (basis.n_columns, N_PHASES), minval=0.1))
    weights = shares / np.asarray(basis.matrix).sum(0)[:, None]
    abundances = np.asarray(jax.random.uniform(start[1], (N_PHASES, size * size), minval=0.1))
    return Scene(
        counts,
        (size, size),
        basis,
        weights.astype(np.float64),
        abundances.astype(np.float64) * counts_per_pixel,
    )


class Scenes:
    """Images made once and kept for all parts of a run, in memory and as files in `folder`."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._made: dict[tuple[float, int], tuple[Scene, pathlib.Path]] = {}

    def get(self, counts_per_pixel: float, size: int) -> tuple[Scene, pathlib.Path]:
        """The image and the file of it that other processes read."""
        key = counts_per_pixel, size
        if key not in self._made:
            scene = make_scene(*key)
            path = self._folder / f"scene_{counts_per_pixel:g}_{size}.npz"
            scene.save(path)
            self._made[key] = scene, path
        return self._made[key]
