"""The prior of the maps whose strength held-out counts choose."""

from typing import Literal

import numpy as np
from jaxtyping import Array, Bool

from ..objective import AbstractRegulariser, LaplacianSmoothness, NoRegulariser, TotalVariation

#: Steps of the maps well below this cost like a Laplacian, others in proportion to their height.
SMALL_STEP = 0.01

#: Total variation keeps sharp borders; a Laplacian rounds them.
Prior = Literal["total variation", "laplacian"]

#: Least, first and largest strength of a total variation that are tried, over the root of the
#: counts per pixel, and by what it is multiplied or divided. A Laplacian's are the squares.
_LEAST, _FIRST, _MOST, _RATIO = 0.1, 1.0, 16.0, float(np.sqrt(2))


def smoothing(
    strength: float, pixels: Bool[Array, "*scan"] | None = None, prior: Prior = "total variation"
) -> AbstractRegulariser:
    """The prior of a strength among some pixels of the scan, or nothing."""
    if strength <= 0:
        return NoRegulariser()
    if prior == "laplacian":
        return LaplacianSmoothness(strength, pixels)
    return TotalVariation(strength, SMALL_STEP, pixels)


def scaled(prior: Prior, counts: float) -> float:
    """What so many times as many counts do to a strength: noise falls like their root.

    A height of that noise costs a total variation in proportion, and a Laplacian by its square.
    """
    return counts if prior == "laplacian" else float(np.sqrt(counts))


def search_range(prior: Prior, counts_per_pixel: float) -> tuple[float, float, float, float]:
    """Least, first and largest strength, and the ratio of one to the next."""
    unit, power = scaled(prior, counts_per_pixel), 2 if prior == "laplacian" else 1
    least, first, most = (unit * x**power for x in (_LEAST, _FIRST, _MOST))
    return least, first, most, _RATIO**power
