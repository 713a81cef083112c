"""Composition along a coordinate, from the counts of all pixels that share it."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from .._checks import check
from ..objective import exposure_or_one, pool_counts
from ..solve import AbundanceNewton, GivenStart, factorise
from ._fisher import free_abundances
from ._image import SpectrumImage
from ._quantify import pixel_composition
from ._solution import Solution

#: Most places along a profile.
_MOST = 100_000


def profile(
    image: SpectrumImage,
    solution: Solution,
    position: Float[np.ndarray, "y x"],
    *,
    width: float = 1.0,
) -> xr.Dataset:
    """At% against a coordinate, such as the distance from a grain boundary.

    The counts of all pixels of a bin of the coordinate are added up, and H is fitted to each sum
    with the solution's W held (Poisson likelihood, H >= 0, nothing else). A map at few counts has
    to be smoothed, which lowers narrow peaks; a profile has the counts to do without.

    - `position`: the coordinate of each pixel, in any unit; NaN leaves the pixel out.
    - `width`: of a bin, in the same unit.

    Returns a dataset over `position` (the middles of the bins) with `composition` and
    `composition_stderr` (element, position) in at%, `abundance` (phase, position), shares of the
    atoms, and `counts`. The errors carry the noise of the sums and that of W. Bins without pixels
    are left out.

    Raises `InputError` for a position of another shape than the image or without a finite entry, a
    width that is not positive or much too small, and a solution of another image.
    """
    shape = image.shape[:2]
    position = np.asarray(position, float)
    check(
        position.shape == shape,
        f"The position has shape {position.shape}, but the image has {shape[0]} × {shape[1]} "
        "pixels; give one coordinate for each.",
    )
    data = solution.dataset
    check(
        (len(data["y"]), len(data["x"]), len(data["energy"])) == image.shape,
        "The solution is not one of this image: it has other pixels or channels.",
    )
    check(bool(np.isfinite(width) and width > 0), f"The width is {width}; give a positive number.")
    used = np.isfinite(position).ravel()
    check(bool(used.any()), "No pixel has a finite position; give some.")
    steps = np.floor(position.ravel() / width)
    first, last = steps[used].min(), steps[used].max()
    check(
        bool(last - first < _MOST),
        f"The positions span {last - first:.3g} bins of {width:g}; give a larger width.",
    )
    n = int(last - first) + 1
    # pixels that are left out go behind the last bin
    pool = np.where(used, np.where(used, steps, 0) - first, n).astype(np.int64)
    n_pools = max(n + 1, len(data["phase"]))
    counts = pool_counts(image.counts, pool, (n_pools,))
    basis, weights = solution.basis, data["W"].values.copy()
    start = np.asarray(solution.abundances).mean(1, keepdims=True)
    start = np.repeat(np.maximum(start, 0.01 * start.sum()), n_pools, axis=1)
    fit = factorise(
        counts,
        basis,
        len(start),
        solver=AbundanceNewton(),
        start=GivenStart(solution.weights, start),
        fixed_weights=weights,
        tol=0.01,
    )
    free = np.asarray(free_abundances(fit.problem, fit.weights, fit.abundances))
    amounts = np.asarray(fit.abundances, float)
    barren = data["composition"].values.sum(0) == 0
    rows = np.flatnonzero(basis.composition_rows)
    weights[np.ix_(rows, np.flatnonzero(barren))] = 0.0
    fraction, error = pixel_composition(
        basis,
        weights,
        amounts,
        np.broadcast_to(np.asarray(exposure_or_one(counts), float), (1, n_pools)).ravel(),
        data["W_covariance"].values,
        free,
        np.zeros_like(free),
        rows,
        np.ones(len(rows)),
    )
    seen = np.flatnonzero(np.bincount(pool, minlength=n_pools)[:n])
    atoms = np.where(barren[:, None], 0.0, amounts)
    total = atoms.sum(0)
    share = atoms / np.where(total > 0, total, 1.0)
    percent = {"units": "at%"}
    return xr.Dataset(
        {
            "composition": (("element", "position"), 100 * fraction[:, seen], percent),
            "composition_stderr": (("element", "position"), 100 * error[:, seen], percent),
            "abundance": (("phase", "position"), share[:, seen]),
            "counts": ("position", np.asarray(counts.pixel_totals())[seen]),
        },
        {
            "element": data["element"].values,
            "phase": data["phase"].values,
            "position": (first + seen + 0.5) * width,
        },
    )
