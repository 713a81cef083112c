"""Runs espm in its own environment for `run.py`: one JSON command a line in, one answer out.

    {"scene": "FILE.npz", "scan_shape": [128, 128], "dtype": "float64", "iterations": 4}
    -> {"iteration": [4 × seconds], "updates": [4 × seconds], "steps": 6, "nll": ...}

`iteration` is the time from the beginning of one pass of espm's own loop to that of the next;
`updates` is the part of it spent in the updates of H and W, without the loss, the copies and the
relative changes that espm computes in every pass. One pass before is a warm-up and one after ends
the last interval, so `nll`, sum(GWH) - sum(X log GWH), is that after two more steps.

    espm_worker.py --memory FILE.npz SIZE ITERATIONS

runs so many iterations in float64 and prints what `memory.py` does.
"""

import contextlib
import io
import json
import sys
import time

import numpy as np


def main():
    answers = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()):
        from espm.estimators import SmoothNMF

    class Watched(SmoothNMF):
        """espm's estimator, unchanged, with a look at the clock."""

        def _iteration(self, W, H):
            if self.n_iter_ == 0:
                self.began, self.took = [], []
            self.began.append(time.perf_counter())
            W, H = super()._iteration(W, H)
            self.took.append(time.perf_counter() - self.began[-1])
            self.worked_in = str(np.result_type(W, H))
            return W, H

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer({"ready": versions()})
    loaded = {}
    for line in sys.stdin:
        command = json.loads(line)
        key = (command["scene"], command["dtype"])
        if key not in loaded:
            loaded.clear()  # one image at a time: they are dense here
            loaded[key] = load(*key)
        X, G, W, H = loaded[key]
        n = command["iterations"]
        estimator = made(Watched, G, W, n + 2, command["scan_shape"])
        with contextlib.redirect_stdout(io.StringIO()):
            estimator.fit_transform(X, W=W.copy(), H=H.copy())
        Y = (estimator.G_ @ estimator.W_) @ estimator.H_
        filled = X > 0
        nll = Y.sum(dtype=np.float64) - (X[filled] * np.log(Y[filled])).sum(dtype=np.float64)
        answer(
            {
                "iteration": np.diff(estimator.began).tolist()[1:],
                "updates": estimator.took[1:-1],
                "steps": n + 2,
                "nll": float(nll),
                "dtype": estimator.worked_in,
            }
        )
        del estimator, Y, filled


def made(kind, G, W, iterations, scan_shape):
    """The estimator without regularisation, constraint and stopping test."""
    return kind(
        n_components=W.shape[1],
        G=G,
        max_iter=iterations,
        shape_2d=scan_shape,
        tol=0.0,
        no_stop_criterion=True,
        simplex_W=False,
        simplex_H=False,
        verbose=0,
    )


def memory(path, size, iterations):
    from memory import peak

    with contextlib.redirect_stdout(io.StringIO()):
        from espm.estimators import SmoothNMF

        before = peak()
        X, G, W, H = load(path, "float64")
        estimator = made(SmoothNMF, G, W, iterations, (size, X.shape[1] // size))
        estimator.fit_transform(X, W=W, H=H)
    print(json.dumps({"imports": before, "peak": peak()}))


def load(path, dtype):
    with np.load(path) as stored:
        pixels, channels = (int(n) for n in stored["shape"])
        X = np.zeros((channels, pixels), dtype)
        X[stored["channel"], stored["pixel"]] = stored["value"]
        return X, *(stored[name].astype(dtype) for name in ("G", "W0", "H0"))


def versions():
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("espm", "numpy", "scikit-learn")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
