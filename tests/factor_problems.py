"""Small factorisation problems, and what NumPy says about them in float64."""

import dataclasses

import numpy as np

from esmpy_jax._basis import Basis
from esmpy_jax.objective import as_counts

STORAGES = ("dense", "sparse")
N_CHANNELS, N_COLUMNS, N_PHASES = 14, 5, 3


@dataclasses.dataclass
class Example:
    """Counts and factors as NumPy arrays; `matrix` may depend on the phase."""

    y: np.ndarray  # (pixel, channel)
    matrix: np.ndarray
    weights: np.ndarray
    abundances: np.ndarray
    scan_shape: tuple[int, ...]
    exposure: np.ndarray | None = None

    def counts(self, storage):
        return as_counts(
            self.y, scan_shape=self.scan_shape, storage=storage, exposure=self.exposure
        )

    def basis(self, in_composition=None):
        return Basis.from_matrix(self.matrix, in_composition=in_composition)

    def endmembers(self):
        if self.matrix.ndim == 3:
            return np.einsum("pcj,jp->cp", self.matrix, self.weights)
        return self.matrix @ self.weights

    def dose(self):
        return np.ones(len(self.y)) if self.exposure is None else self.exposure

    def model(self):
        """Expected counts, (channel, pixel)."""
        return self.endmembers() @ self.abundances * self.dose()


def example(name="awkward", seed=0, *, exposure=False, by_phase=False):
    """`awkward`: empty pixels, empty channels, one very bright pixel; or `pixel`, `channel`."""
    rng = np.random.default_rng(seed)
    scan_shape = {"pixel": (1,), "channel": (3, 4), "awkward": (5, 6)}[name]
    n_channels = 1 if name == "channel" else N_CHANNELS
    n_columns = 1 if name == "channel" else N_COLUMNS
    n_pixels = int(np.prod(scan_shape))
    shape = (N_PHASES, n_channels, n_columns) if by_phase else (n_channels, n_columns)
    matrix = rng.random(shape) ** 4 + 0.01
    weights = rng.random((n_columns, N_PHASES)) + 0.05
    abundances = rng.random((N_PHASES, n_pixels)) + 0.05
    out = Example(np.zeros((n_pixels, n_channels), int), matrix, weights, abundances, scan_shape)
    if exposure:
        out.exposure = rng.uniform(0.3, 3.0, n_pixels)
    y = rng.poisson(out.model().T)
    if name == "awkward":
        y[[0, 7, 29]] = 0
        y[:, [0, 5]] = 0
        y[11] = rng.poisson(3e5 * out.model()[:, 11])
        y[11, 3] = 2_000_000
    out.y = y
    return out


def nll(problem):
    """The Poisson NLL of each pixel, and the sum of the magnitudes of its terms."""
    model, y = problem.model(), problem.y.T
    logs = y * np.log(model)
    return (model - logs).sum(0), (model + np.abs(logs)).sum(0)


def deviance(problem):
    """The deviance, and the sum of the magnitudes of its terms."""
    model, y = problem.model(), problem.y.T
    logs = y * np.log(np.where(y > 0, y, 1) / model)
    return 2 * (logs - y + model).sum(), 2 * (np.abs(logs) + y + model).sum()


def passes(problem):
    """The ratio of counts and model summed over channels and over pixels, times D and H."""
    endmembers = problem.endmembers()
    ratio = problem.y.T / (endmembers @ problem.abundances)
    return endmembers.T @ ratio, ratio @ problem.abundances.T


def plain_update_abundances(problem):
    pixel_pass, _ = passes(problem)
    sums = problem.endmembers().sum(0)[:, None] * problem.dose()
    return problem.abundances * pixel_pass / sums


def plain_update_weights(problem):
    _, channel_pass = passes(problem)
    dose = (problem.abundances * problem.dose()).sum(1)
    if problem.matrix.ndim == 3:
        back = np.einsum("pcj,cp->jp", problem.matrix, channel_pass)
        sums = problem.matrix.sum(1).T
    else:
        back, sums = problem.matrix.T @ channel_pass, problem.matrix.sum(0)[:, None]
    return problem.weights * back / (sums * dose)


def array_sizes(function, *args):
    """(size, dtype) of every array computed in a function, in all its inner programs."""
    import jax

    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            found.extend((v.aval.size, v.aval.dtype) for v in equation.outvars)
            for inner in inner_programs(equation):
                walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def inner_programs(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
