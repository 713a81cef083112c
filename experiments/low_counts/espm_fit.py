"""One fit of espm in its own environment: espm_fit.py IN.npz OUT.npz PHASES SECONDS SEED.

Its estimator with its defaults and G given, in float64 on dense counts. It ends by its own tests,
after 200 iterations (its default), or in the iteration after SECONDS of wall time.
"""

import contextlib
import io
import sys
import time

import numpy as np


def main(source, target, n_phases, seconds, seed):
    from espm.estimators import SmoothNMF

    class Capped(SmoothNMF):
        """espm's estimator, ended by the interruption that it knows how to end well."""

        def _iteration(self, W, H):
            if time.perf_counter() - began > seconds:
                raise KeyboardInterrupt
            return super()._iteration(W, H)

    with np.load(source) as stored:
        pixels, channels = (int(n) for n in stored["shape"])
        X = np.zeros((channels, pixels))
        X[stored["channel"], stored["pixel"]] = stored["value"]
        G = stored["G"].astype(float)
    used = time.process_time()
    began = time.perf_counter()
    estimator = Capped(n_components=n_phases, G=G, random_state=seed, verbose=0)
    estimator.fit_transform(X)
    took = time.perf_counter() - began
    np.savez(
        target,
        W=estimator.W_,
        H=estimator.H_,
        steps=estimator.n_iter_,
        seconds=time.process_time() - used,
        capped=took > seconds,
    )


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        main(*sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
