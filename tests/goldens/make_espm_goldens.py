"""Makes `espm_updates.npz`: 100 updates of espm 1.1.3 from the same start, case by case.

espm pins old versions of its own dependencies, so it gets an environment of its own. The two
commands, from the root of the checkout:

    python3.11 -m venv /tmp/espm && /tmp/espm/bin/pip install espm==1.1.3
    /tmp/espm/bin/python tests/goldens/make_espm_goldens.py

What is run is espm's own `SmoothNMF.fit_transform` with every stopping rule off. A subclass looks
on: it stores W and H after each iteration (H first, then W), before the rescaling that espm
applies at the very end when no simplex constraint is set.

Facts about espm that the comparison must know:

- all-zero pixels and channels of X are replaced by `log_shift` (1e-14), and W and H never fall
  below that value;
- sum-to-one multipliers come from a bisection that stops when the largest error over all pixels
  (or phases) is below a tolerance, or after 100 halvings. Tolerance 0 makes it run all 100, which
  is to the last bit of the multiplier. For H the tolerance is an argument; for W it is a constant
  of the module, 1e-5, which is set to zero here;
- in a pixel without counts the multiplier is a number of size 1e-14 on top of minus the smallest
  column sum of G W: rounding puts all of the pixel into that phase but misses the sum by
  2 to 6 %. The cases with sum-to-one abundances and no smoothness therefore run on `X_filled`,
  where the empty pixel has been given counts (smoothness determines that pixel);
- `algo="l2_surrogate"` ignores `mu`; its smoothness term is lambda/2 tr(H L H^T) with the
  5-point Laplacian L, majorised with the constant `sigmaL` = 8, the bound of L's eigenvalues.

Keys of the file: `G`, `X`, `X_filled`, `W0`, `H0`, `scan_shape`, `element_rows`, and for each case
`<case>/W`, `<case>/H`, `<case>/nll` (sum(GWH) - sum(X log GWH) before the first and after each
update), `<case>/simplex_error` (largest |sum - 1| over all updates; absent without a constraint),
`<case>/mu`, `<case>/epsilon`, `<case>/strength` (0 where unused), `<case>/data` ("X" or
"X_filled").
"""

import argparse
import contextlib
import importlib.metadata
import io
import pathlib

import espm.conf
import espm.estimators.updates
import numpy as np
from espm.estimators import SmoothNMF
from espm.models.base import PhysicalModel

HERE = pathlib.Path(__file__).resolve().parent
UPDATES = 100
N_CHANNELS, SCAN_SHAPE, N_COLUMNS, N_CONTINUUM, N_PHASES = 60, (8, 10), 7, 2, 3
EMPTY_CHANNEL, EMPTY_PIXEL = 41, 37
MU, EPSILON = 1.5, 0.5
STRENGTH, STRENGTH_ON_SHARES = 0.5, 5.0

CASES = {
    "unconstrained": {},
    "log_sparsity": {"mu": MU, "epsilon_reg": EPSILON},
    "laplacian": {"algo": "l2_surrogate", "lambda_L": STRENGTH},
    "simplex_h": {"simplex_H": True},
    "simplex_h_log_sparsity": {"simplex_H": True, "mu": MU, "epsilon_reg": EPSILON},
    "simplex_h_laplacian": {
        "simplex_H": True,
        "algo": "l2_surrogate",
        "lambda_L": STRENGTH_ON_SHARES,
    },
    "simplex_w": {"simplex_W": True},
    "simplex_w_elements": {"simplex_W": True, "element_rows": True},
}


class ElementRows(PhysicalModel):
    """The least that espm asks of a physical model: a fixed G, and which rows of W sum to one."""

    def __init__(self, matrix, rows):
        self.G = matrix
        self.rows = rows

    def generate_g_matr(self, g_parameters):
        return self.G

    def generate_phases(self, phase_parameters):
        return None

    def NMF_initialize_W(self, D):
        return super().NMF_initialize_W(D)

    def NMF_update(self, W=None):
        return self.G

    def NMF_simplex(self):
        return self.rows


class Watched(SmoothNMF):
    """espm's estimator, unchanged, that keeps W and H after every iteration."""

    def _iteration(self, W, H):
        if self.n_iter_ == 0:
            self.steps = [(W.copy(), H.copy())]
        W, H = super()._iteration(W, H)
        self.steps.append((W.copy(), H.copy()))
        return W, H


def scene(seed: int = 20240611):
    """G, X, W0, H0: lines on a floor and two continua, Poisson counts, one empty pixel and channel.

    The truth has two blurred particles in a matrix, pixels where phases are absent, and about 90
    counts per pixel.
    """
    rng = np.random.default_rng(seed)
    channel = np.arange(N_CHANNELS)[:, None]
    n_lines = N_COLUMNS - N_CONTINUUM
    centre = rng.uniform(4, N_CHANNELS - 4, (2, n_lines))
    height = rng.uniform(0.3, 1.0, (2, n_lines))
    lines = sum(
        h * np.exp(-0.5 * ((channel - c) / 2.2) ** 2) for c, h in zip(centre, height, strict=True)
    )
    continua = np.concatenate([np.exp(-channel / 15.0), 1 - channel / (N_CHANNELS + 5.0)], axis=1)
    G = np.concatenate([lines, 0.2 * continua], axis=1)
    G = G + rng.uniform(1e-3, 1e-2, G.shape)

    W = rng.uniform(0.02, 1.0, (N_COLUMNS, N_PHASES))
    y, x = np.mgrid[0 : SCAN_SHAPE[0], 0 : SCAN_SHAPE[1]]
    first = np.exp(-((y - 2) ** 2 + (x - 3) ** 2) / 4.0)
    second = np.exp(-((y - 5) ** 2 + (x - 7) ** 2) / 6.0)
    shares = np.stack([np.clip(1 - 1.2 * (first + second), 0, 1), first, second])
    shares = np.where(shares < 0.1, 0, shares).reshape(N_PHASES, -1)
    shares = shares / shares.sum(0)
    expected = G @ W @ shares
    expected *= 90 / expected.sum(0).mean()
    expected[EMPTY_CHANNEL] = 0
    X_filled = rng.poisson(expected).astype(float)
    X = X_filled.copy()
    X[:, EMPTY_PIXEL] = 0
    W0 = rng.uniform(0.1, 1.0, W.shape)
    H0 = rng.uniform(0.1, 1.0, shares.shape)
    return G, X, X_filled, W0, H0


def run(G, X, W0, H0, rows, element_rows=False, **options):
    """W and H before the first and after each update, as two stacked arrays."""
    model = ElementRows(G, rows) if element_rows else G
    settings = {"simplex_W": False, "simplex_H": False, **options}
    estimator = Watched(
        n_components=N_PHASES,
        G=model,
        shape_2d=SCAN_SHAPE,
        max_iter=UPDATES,
        tol=0.0,
        no_stop_criterion=True,
        dicotomy_tol=0.0,
        verbose=0,
        **settings,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # one line per bisection that used all halvings
        estimator.fit_transform(X, W=W0.copy(), H=H0.copy())
    if len(estimator.steps) != UPDATES + 1:
        raise RuntimeError(f"espm stopped after {len(estimator.steps) - 1} updates.")
    weights, abundances = zip(*estimator.steps, strict=True)
    return np.stack(weights), np.stack(abundances)


def poisson_nll(G, X, W, H):
    """sum(GWH) - sum(X log GWH) on the true counts, 0 log 0 = 0."""
    predicted = G @ W @ H
    return predicted.sum() - (X[X > 0] * np.log(predicted[X > 0])).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "espm_updates.npz")
    arguments = parser.parse_args()
    version = importlib.metadata.version("espm")
    if version != "1.1.3":
        raise SystemExit(f"This environment has espm {version}; the goldens are of 1.1.3.")
    espm.estimators.updates.dicotomy_tol = 0.0  # what `multiplicative_step_w` reads

    G, X, X_filled, W0, H0 = scene()
    rows = np.arange(N_COLUMNS - N_CONTINUUM)
    out = {"G": G, "X": X, "X_filled": X_filled, "W0": W0, "H0": H0}
    out |= {"scan_shape": np.array(SCAN_SHAPE), "element_rows": rows}
    out |= {"updates": np.array(UPDATES), "log_shift": np.array(espm.conf.log_shift)}
    out |= {"espm_version": np.array(version), "numpy_version": np.array(np.__version__)}
    for case, options in CASES.items():
        data = "X_filled" if options.get("simplex_H") and not options.get("lambda_L") else "X"
        counts = out[data]
        weights, abundances = run(G, counts, W0, H0, rows, **options)
        nll = [poisson_nll(G, counts, w, h) for w, h in zip(weights, abundances, strict=True)]
        out |= {f"{case}/W": weights[-1], f"{case}/H": abundances[-1], f"{case}/nll": np.array(nll)}
        out |= {f"{case}/data": np.array(data)}
        out |= {f"{case}/mu": np.array(options.get("mu", 0.0))}
        out |= {f"{case}/epsilon": np.array(options.get("epsilon_reg", 0.0))}
        out |= {f"{case}/strength": np.array(options.get("lambda_L", 0.0))}
        report = f"{case:24s} nll {nll[0]:.6f} -> {nll[-1]:.6f}"
        error = None
        if options.get("simplex_H"):
            error = np.abs(abundances[1:].sum(1) - 1).max()
        elif options.get("simplex_W"):
            constrained = weights[1:][:, rows] if options.get("element_rows") else weights[1:]
            error = np.abs(constrained.sum(1) - 1).max()
        if error is not None:
            out[f"{case}/simplex_error"] = np.array(error)
            report += f"  largest |sum - 1| {error:.1e}"
        print(report)
    np.savez_compressed(arguments.out, **out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
