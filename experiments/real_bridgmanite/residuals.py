"""What the residuals may be: by how much one more column would lower the deviance."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

import esmpy_jax as ej
from esmpy_jax import Element
from esmpy_jax.model import adjusted, switched_on

#: Elements that are neither in the model nor gases nor radioactive, but for Th.
_NUMBERS = [23, *range(32, 36), *range(37, 40), 41, *range(44, 54), *range(55, 60), *range(63, 71)]
_NUMBERS += [73, *range(75, 78), *range(79, 84), 90]
CANDIDATES = tuple(Element(number).symbol for number in _NUMBERS)


def fitted(
    matrix: np.ndarray, counts: np.ndarray, start: np.ndarray, rounds: int = 6
) -> tuple[np.ndarray, float]:
    """Weights >= 0 and their deviance, by least squares weighted with the fit of the last round."""
    unit = matrix.sum(0) + 1e-30
    mean, weights = start, np.zeros(matrix.shape[1])
    for _ in range(rounds):
        root = 1 / np.sqrt(np.maximum(mean, 0.05))
        weights = nnls(matrix / unit * root[:, None], counts * root, maxiter=5000)[0]
        mean = matrix / unit @ weights + 1e-9
    some = counts > 0
    deviance = 2 * (
        (mean - counts).sum() + (counts[some] * np.log(counts[some] / mean[some])).sum()
    )
    return weights, float(deviance)


def explanations(
    image: ej.SpectrumImage, refined: ej.Refinement, build: Callable[..., ej.EDSModel]
) -> str:
    """Deviance less by a copy of the fit shifted or broadened, by Ca K moved, or by an element."""
    names = list(refined.parameters)
    model = switched_on(build(image, CANDIDATES), names, np.asarray(image.sum_spectrum()))
    model = adjusted(model, refined.values)
    labels = [column.label for column in model.columns]
    known = {str(n): i for i, n in enumerate(refined.dataset["column"].values)}
    weights = np.zeros((len(labels), 1))
    for i, label in enumerate(labels):
        weights[i] = refined.dataset["W"].values[known[label]] if label in known else 0.0
    matrix = np.asarray(model.basis(weights).matrix, float)[0]
    base = matrix[:, [i for i, label in enumerate(labels) if label in known]]
    counts, mean = (refined.dataset[n].values for n in ("counts_sum", "fit_sum"))
    gain = float(model.energy_axis.gain)
    without = fitted(base, counts, mean)[1]

    def gained(columns: np.ndarray) -> tuple[float, float]:
        found, deviance = fitted(np.column_stack([base, columns]), counts, mean)
        return without - deviance, found[base.shape[1] :].sum()

    tried = [_shifted(mean, gain, gained)]
    wide = gaussian_filter1d(mean, 0.4 / gain)[:, None]
    tried.append(("a copy of the whole fit, 0.4 keV (σ) wide, about each peak", *gained(wide)))
    place = np.arange(len(counts))
    moved = np.interp(place - 0.003 / gain, place, matrix[:, labels.index("Ca")])[:, None]
    tried.append(("a copy of the Ca lines 3 eV higher", *gained(moved)))
    elements = [
        (
            f"{symbol} lines",
            *gained(matrix[:, [i for i, x in enumerate(labels) if x.split()[0] == symbol]]),
        )
        for symbol in CANDIDATES
    ]
    tried += sorted(elements, key=lambda one: -one[1])[:8]
    lines = ["| column | deviance less | counts in it |", "|---|---|---|"]
    lines += [f"| {what} | {less:.0f} | {held:.0f} |" for what, less, held in tried]
    return (
        "\n".join(lines) + f"\n\nOf {without:.0f}, the physics held. W is fitted again each time."
    )


def _shifted(mean: np.ndarray, gain: float, gained: Callable) -> tuple[str, float, float]:
    """The copy of the fit, moved up by up to 1.2 keV, that explains most."""

    def moved(by: int) -> np.ndarray:
        return np.concatenate([np.zeros(by), mean[:-by]])[:, None]

    best = max(range(10, int(1.2 / gain), 2), key=lambda by: gained(moved(by))[0])
    return (f"a copy of the whole fit {best * gain:.2f} keV higher", *gained(moved(best)))
