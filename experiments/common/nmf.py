"""scikit-learn's Kullback-Leibler NMF; no JAX here, so that it runs beside the fits."""

import time
import warnings

import numpy as np
import scipy.sparse
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

MAX_ITER = 200  # scikit-learn's default, like its tolerance


def kl_nmf(
    coo: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    n_phases: int,
    seed: int,
    max_iter: int = MAX_ITER,
    tol: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Spectra (channel, phase) of sum one, counts of each phase (phase, pixel), iterations, CPU s.

    `coo` is pixel, channel and value of the nonzero counts, `shape` (pixel, channel). The start is
    NNDSVD with its zeros filled at random ("nndsvdar"), so it changes with the seed.
    """
    pixel, channel, value = coo
    counts = scipy.sparse.csr_matrix((value.astype(np.float32), (pixel, channel)), shape=shape)
    began = time.process_time()
    model = NMF(
        n_phases,
        init="nndsvdar",
        solver="mu",
        beta_loss="kullback-leibler",
        random_state=seed,
        max_iter=max_iter,
        tol=tol,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        maps = model.fit_transform(counts)
    spectra = np.asarray(model.components_, float).T
    size = spectra.sum(0)
    used = time.process_time() - began
    maps = np.asarray(maps, float).T * size[:, None]
    return spectra / np.where(size > 0, size, 1.0), maps, int(model.n_iter_), used
