"""What a refinement is fitted to: all counts together, pools of pixels, or every pixel."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .._checks import check
from ..model import AnyModel
from ..objective import AbstractCounts, as_counts, exposure_or_one, pool_counts
from ..solve import BatchFactorisation
from ._image import SpectrumImage
from ._pools import as_bright, assigned, number_of_pools, pooled_amounts
from ._solution import Solution

#: Batches of pixels, to be gone through again and again; see `factorise_batches`.
Batches = Iterable[Any] | Callable[[], Iterable[Any]]

#: Sum of a column, relative to the largest, that is as good as none.
_INVISIBLE = 1e-20

_NO_COUNTS = "The image holds no counts, so nothing can be refined; load another part of it."
_OTHER = "The solution is not one of this image and model: it has other pixels or columns."


def fitted_counts(
    image: SpectrumImage | Batches,
    model: AnyModel,
    solution: Solution | BatchFactorisation | None,
    loss: str,
) -> tuple[AbstractCounts, Float[np.ndarray, "column phase"], Float[np.ndarray, "phase pixel"]]:
    """The counts to be fitted, with W and H to start from.

    Raises `InputError` for counts that do not fit the model or the solution, or are none.
    """
    check(
        loss == "summed" or solution is not None,
        f"The loss '{loss}' needs the phases of a solution; fit the image first.",
    )
    if isinstance(image, SpectrumImage):
        total = image.counts
        _check_channels(total, model)
        check(total.total > 0, _NO_COUNTS)
        if loss == "summed":
            whole = pool_counts(total, np.zeros(total.n_pixels, np.int64), (1,), "dense")
            return _one_phase(whole, model)
        assert solution is not None
        weights, maps, endmembers = _factors(solution)
        check(maps.shape[1] == total.n_pixels and len(weights) == len(model.columns), _OTHER)
        if loss == "pixels":
            return total, weights, np.maximum(maps, 1e-3 * maps.sum(0))
        counts, amounts = pooled_amounts(total, endmembers, maps)
        return counts, weights, amounts
    check(
        not hasattr(image, "__next__"),
        "The batches can be gone through once only; give a list, or a function that returns them "
        "anew.",
    )
    check(
        loss != "pixels",
        "Batches are refined as pools of pixels that hold the same; give loss='pools' or 'summed'.",
    )
    if loss == "summed":
        counts = _gathered(image, model, lambda first, n: np.zeros(n, np.int64), 1)
        return _one_phase(counts, model)
    assert solution is not None
    weights, maps, endmembers = _factors(solution)
    totals, doses = [], []
    for part in _parts(image, model):
        totals.append(np.asarray(part.pixel_totals(), np.float64))
        doses.append(np.broadcast_to(np.asarray(exposure_or_one(part)), (1, part.n_pixels))[0])
    bright, dose = np.concatenate(totals), np.concatenate(doses).astype(np.float64)
    check(maps.shape[1] == len(bright) and len(weights) == len(model.columns), _OTHER)
    pool, mean = assigned(bright, dose, maps, number_of_pools(float(bright.sum())))
    counts = _gathered(image, model, lambda first, n: pool[first : first + n], mean.shape[1])
    return counts, weights, as_bright(counts, endmembers, mean)


def _check_channels(counts: AbstractCounts, model: AnyModel) -> None:
    check(
        model.energy_axis.size == counts.n_channels,
        f"The model has {model.energy_axis.size} channels but the image has "
        f"{counts.n_channels}; build the model from this image.",
    )


def _factors(solution: Solution | BatchFactorisation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W, H and D in double precision; of batches in the gauge where spectra sum to one."""
    weights, maps = (np.asarray(x, np.float64) for x in (solution.weights, solution.abundances))
    endmembers = np.asarray(solution.basis.endmembers(solution.weights), np.float64)
    if isinstance(solution, BatchFactorisation):
        sums = np.where(endmembers.sum(0) > 0, endmembers.sum(0), 1.0)
        return weights / sums, maps * sums[:, None], endmembers / sums
    return weights, maps, endmembers


def _parts(batches: Batches, model: AnyModel) -> Iterator[AbstractCounts]:
    for item in batches() if callable(batches) else batches:
        counts = as_counts(item)
        _check_channels(counts, model)
        yield counts
        del item, counts


def _gathered(
    batches: Batches,
    model: AnyModel,
    pool: Callable[[int, int], Int[np.ndarray, " pixel"]],
    n_pools: int,
) -> AbstractCounts:
    """All batches pooled; `pool` tells the pools of so many pixels from a first one on."""
    summed, exposure, first = np.zeros((n_pools, model.energy_axis.size)), np.zeros(n_pools), 0
    for part in _parts(batches, model):
        at = pool(first, part.n_pixels)
        some = pool_counts(part, at, (n_pools,), "dense")
        place, channel, value = some.to_coo()
        np.add.at(summed, (place, channel), value)
        exposure += np.asarray(some.exposure, np.float64).ravel()
        first += part.n_pixels
    check(bool(summed.any()), _NO_COUNTS)
    return as_counts(summed, scan_shape=(n_pools,), storage="dense", exposure=exposure)


def _one_phase(
    counts: AbstractCounts, model: AnyModel
) -> tuple[AbstractCounts, np.ndarray, np.ndarray]:
    """One spectrum with W by which every column that shows makes as many counts."""
    each = np.asarray(model.basis().matrix, np.float64).sum(0)
    shows = each > _INVISIBLE * each.max(initial=0.0)
    share = counts.total / float(exposure_or_one(counts)[0, 0]) / max(int(shows.sum()), 1)
    return (
        counts,
        np.where(shows, share / np.where(shows, each, 1.0), 0.0)[:, None],
        np.ones((1, 1)),
    )
