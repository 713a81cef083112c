"""The section "memory": the most memory that each program holds while it fits, in its own process.

    python memory.py PROGRAM SCENE.npz SIZE

prints one JSON object: mebibytes after the imports and at the peak, which includes reading the
counts. What is read is a file of the nonzero counts.
"""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ITERATIONS = 5
PROGRAMS = ("esmpy_jax, Newton", "esmpy_jax, multiplicative", "scikit-learn, sparse")
DENSE = "scikit-learn, dense"


def peak() -> float:
    """Mebibytes that this process has held at most.

    From /proc where there is one: what `ru_maxrss` says of a process there may be the
    peak of the one that started it.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        line = next(v for v in status.read_text().splitlines() if v.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def memory(path: pathlib.Path, size: int, espm_python: pathlib.Path | None) -> dict:
    """Peaks of all programs for one image."""
    commands = {
        name: [sys.executable, "-W", "ignore", str(HERE / "memory.py"), name, str(path), str(size)]
        for name in (*PROGRAMS, DENSE)
    }
    if espm_python is not None:
        worker = HERE / "espm_worker.py"
        commands["espm, float64"] = [
            *(str(espm_python), "-W", "ignore", str(worker)),
            *("--memory", str(path), str(size), str(ITERATIONS)),
        ]
    found = {}
    for name, command in commands.items():
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_ours(path: pathlib.Path, size: int, solver: str) -> dict:
    """`factorise` from the file's start."""
    import numpy as np

    import esmpy_jax as ej

    before = peak()
    with np.load(path) as stored:
        n_pixels, n_channels = (int(n) for n in stored["shape"])
        counts = ej.counts_from_coo(
            stored["pixel"],
            stored["channel"],
            stored["value"],
            scan_shape=(size, n_pixels // size),
            n_channels=n_channels,
        )
        start = ej.GivenStart(stored["W0"], stored["H0"])
        ej.factorise(
            counts,
            stored["G"],
            stored["W0"].shape[1],
            solver=ej.VariableProjectionNewton()
            if solver == "Newton"
            else ej.MultiplicativeUpdate(),
            start=start,
            max_steps=ITERATIONS,
            tol=-1.0,
        )
    return {"imports": before, "peak": peak()}


def run_sklearn(path: pathlib.Path, storage: str) -> dict:
    """scikit-learn's NMF from the file's start, in float32."""
    import numpy as np
    import scipy.sparse
    from sklearn.decomposition import non_negative_factorization

    before = peak()
    with np.load(path) as stored:
        value = stored["value"].astype(np.float32)
        place = stored["pixel"], stored["channel"]
        if storage == "dense":
            counts = np.zeros(stored["shape"], np.float32)
            counts[place] = value
        else:
            counts = scipy.sparse.csr_matrix((value, place), stored["shape"])
        non_negative_factorization(
            counts,
            W=stored["H0"].T.astype(np.float32).copy(),
            H=(stored["G"] @ stored["W0"]).T.astype(np.float32).copy(),
            n_components=stored["W0"].shape[1],
            init="custom",
            solver="mu",
            beta_loss="kullback-leibler",
            tol=0.0,
            max_iter=ITERATIONS,
        )
    return {"imports": before, "peak": peak()}


if __name__ == "__main__":
    program, storage = sys.argv[1].split(", ")
    file = pathlib.Path(sys.argv[2])
    if program == "esmpy_jax":
        print(json.dumps(run_ours(file, int(sys.argv[3]), storage)))
    else:
        print(json.dumps(run_sklearn(file, storage)))
