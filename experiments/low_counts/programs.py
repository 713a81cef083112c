"""The three programs, each from an image to what `judging.Found` holds."""

import dataclasses
import pathlib
import subprocess
import tempfile
import time

import jax
import numpy as np
from judging import Found, judge, judge_nmf, nmf_input
from nmf import kl_nmf
from scenes import Scene

import esmpy_jax as ej
from esmpy_jax import fit

OURS, NMF, ESPM = "esmpy_jax", "scikit-learn", "espm"
HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Fit:
    """One program on one image."""

    scene: str
    dose: float
    seed: int
    found: Found
    note: str = ""  # "stopped" or nothing
    warnings: tuple[str, ...] = ()
    phases_found: int | None = None  # by the automatic choice, where it was asked for


def ours(
    image: ej.SpectrumImage, model: ej.EDSModel, scene: Scene, seed: int
) -> tuple[Found, ej.Solution]:
    """`esmpy_jax.fit` by its defaults."""
    began = time.process_time()
    solution = fit(image, model, len(scene.phases), key=jax.random.key(seed))
    used = time.process_time() - began
    return judged(image, solution, used), solution


def judged(image: ej.SpectrumImage, solution: ej.Solution, seconds: float) -> Found:
    """A solution against the truth."""
    return judge(
        OURS,
        image.truth,
        np.asarray(image.truth.abundance, float),
        solution.abundance,
        solution.dataset["spectra"].values,
        solution.composition.values,
        seconds,
        int(solution.dataset.attrs["n_steps"]),
    )


def count_phases(image: ej.SpectrumImage, model: ej.EDSModel, seed: int) -> int:
    """How many phases `fit(image, model, "auto")` takes."""
    return len(fit(image, model, "auto", key=jax.random.key(seed)).abundance)


def scikit_learn(
    image: ej.SpectrumImage,
    true_model: ej.EDSModel,
    model: ej.EDSModel,
    scene: Scene,
    seed: int,
    max_iter: int,
) -> Found:
    """Kullback-Leibler NMF; shares of counts are judged by the true shares of counts."""
    result = kl_nmf(*nmf_input(image, len(scene.phases)), seed, max_iter=max_iter)
    return judge_nmf(NMF, image.truth, true_model, scene.phases, result, fitted=model)


def espm(
    image: ej.SpectrumImage,
    model: ej.EDSModel,
    scene: Scene,
    seed: int,
    python: pathlib.Path,
    seconds: float,
) -> tuple[Found, str]:
    """espm with this program's G for the mean composition; at% are its W's rows of elements."""
    basis = model.basis()
    matrix = np.asarray(basis.matrix, float)
    matrix = matrix[0] if basis.depends_on_phase else matrix
    pixel, channel, value = image.counts.to_coo()
    shape = (image.counts.n_pixels, image.counts.n_channels)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (pathlib.Path(folder) / name for name in ("in.npz", "out.npz"))
        np.savez(source, channel=channel, pixel=pixel, value=value, shape=shape, G=matrix)
        command = [python, "-W", "ignore", HERE / "espm_fit.py", source, target]
        command += [len(scene.phases), seconds, seed]
        subprocess.run([str(c) for c in command], check=True, stderr=subprocess.DEVNULL)
        with np.load(target) as stored:
            weights, maps, steps, used, capped = (
                stored[name] for name in ("W", "H", "steps", "seconds", "capped")
            )
    atoms = weights[np.asarray(basis.composition_rows)]
    size = atoms.sum(0)
    atoms_map = (maps * size[:, None]).reshape(image.truth.abundance.shape)
    total = atoms_map.sum(0)
    shares = np.where(total > 0, atoms_map / np.where(total > 0, total, 1.0), 1 / len(size))
    found = judge(
        ESPM,
        image.truth,
        np.asarray(image.truth.abundance, float),
        shares,
        matrix @ weights,
        100 * atoms / np.where(size > 0, size, 1.0),
        float(used),
        int(steps),
    )
    return found, "stopped" if capped else ""
