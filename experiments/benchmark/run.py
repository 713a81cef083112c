"""Time per iteration of this program, scikit-learn and espm, side by side on the same counts.

    python experiments/benchmark/run.py [--espm-python PATH] [--quick]

Every program starts from the same G, W and H (scikit-learn, which has no G, from the same G W) and
does plain Poisson (Kullback-Leibler) multiplicative updates of both factors, without constraint
and regulariser. One sample is

- this program: `factorise` with two numbers of steps; the difference in time over the difference
  in steps. It includes the objective that `factorise` computes every ten steps;
- scikit-learn: `non_negative_factorization(solver="mu", tol=0)` with two numbers of iterations,
  likewise; with `tol=0` it never computes the objective;
- espm: from one pass of its loop to the next (see `espm_worker.py`), with the loss that it
  computes in every pass; the row "updates alone" leaves that out.

Programs take turns in every round, so a machine that drifts slows all of them; ratios are formed
within a round. The first round is a warm-up and is dropped; compilation is timed apart. Numbers
of threads are what each program takes by default.
"""

import argparse
import contextlib
import csv
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from scene import N_PHASES, Scene, make_scene
from sklearn.decomposition import non_negative_factorization

import esmpy_jax as ej

HERE = pathlib.Path(__file__).resolve().parent
ESPM = "espm==1.1.3"
DOSES = (18.0, 293.0)
TARGETS = {"espm, float64": 100.0, "scikit-learn, sparse": 3.0}  # at the lower dose


@dataclasses.dataclass
class Program:
    """Something that is timed: `sample()` gives the seconds of one iteration, by name."""

    sample: Callable[[], dict[str, float]]
    compile_seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def per_step(call: Callable[[int], object], few: int, many: int) -> float:
    """Seconds of one step, free of what a call costs whatever its number of steps."""
    return (seconds(lambda: call(many)) - seconds(lambda: call(few))) / (many - few)


def this_program(scene: Scene, storage: str, few: int, many: int) -> Program:
    counts = ej.as_counts(scene.counts, scan_shape=scene.scan_shape, storage=storage)
    start = ej.GivenStart(
        jnp.asarray(scene.weights, jnp.float32), jnp.asarray(scene.abundances, jnp.float32)
    )

    def call(steps):
        fit = ej.factorise(
            counts,
            scene.basis,
            N_PHASES,
            solver=ej.MultiplicativeUpdate(),
            start=start,
            max_steps=steps,
            tol=-1.0,
        )
        jax.block_until_ready((fit.weights, fit.abundances))
        if fit.steps != steps:
            raise RuntimeError(f"The fit made {fit.steps} steps instead of {steps}.")

    first = seconds(lambda: call(many))
    compiling = first - seconds(lambda: call(many))
    call(few)
    name = f"esmpy_jax, {storage}"
    return Program(lambda: {name: per_step(call, few, many)}, {name: compiling})


def scikit_learn(scene: Scene, storage: str, few: int, many: int) -> Program:
    counts = scene.counts.astype(np.float32)
    if storage == "dense":
        counts = counts.toarray()
    endmembers = np.asarray(scene.basis.matrix, np.float64) @ scene.weights
    left = scene.abundances.T.astype(np.float32)
    right = endmembers.T.astype(np.float32)

    def call(steps):
        *_, n = non_negative_factorization(
            counts,
            W=left.copy(),
            H=right.copy(),
            n_components=N_PHASES,
            init="custom",
            solver="mu",
            beta_loss="kullback-leibler",
            tol=0.0,
            max_iter=steps,
        )
        if n != steps:
            raise RuntimeError(f"scikit-learn made {n} iterations instead of {steps}.")

    name = f"scikit-learn, {storage}"
    return Program(lambda: {name: per_step(call, few, many)})


class EspmWorker:
    """espm in its own environment, spoken to through pipes."""

    def __init__(self, python: pathlib.Path):
        self._process = subprocess.Popen(
            [str(python), "-W", "ignore", str(HERE / "espm_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions = self._answer()["ready"]

    def ask(self, **command) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("espm ended unexpectedly; try its Python with espm_worker.py by hand.")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def espm(worker: EspmWorker, scene: Scene, path: pathlib.Path, dtype: str, n: int) -> Program:
    label = f"espm, {dtype}"

    def ask(iterations=n):
        return worker.ask(
            scene=str(path), scan_shape=scene.scan_shape, dtype=dtype, iterations=iterations
        )

    answer = ask(1)
    if answer["dtype"] != dtype:
        raise RuntimeError(f"espm worked in {answer['dtype']}.")
    # the same updates on the same data end at the same likelihood, or the comparison is void
    ours = nll_after(scene, answer["steps"])
    if abs(ours - answer["nll"]) > 1e-4 * abs(ours):
        raise RuntimeError(f"espm reaches the NLL {answer['nll']}, this program {ours}.")

    def sample():
        answer = ask()
        found = {label: statistics.median(answer["iteration"])}
        return found | {f"{label}, updates alone": statistics.median(answer["updates"])}

    return Program(sample)


def nll_after(scene: Scene, steps: int) -> float:
    counts = ej.as_counts(scene.counts, scan_shape=scene.scan_shape, storage="sparse")

    @eqx.filter_jit
    def run(counts, basis, weights, abundances):
        def one(_, carry):
            weights, abundances = carry
            abundances = ej.update_abundances(counts, basis, weights, abundances)
            return ej.update_weights(counts, basis, weights, abundances), abundances

        weights, abundances = jax.lax.fori_loop(0, steps, one, (weights, abundances))
        return ej.poisson_nll(counts, basis, weights, abundances)

    start = (jnp.asarray(a, jnp.float32) for a in (scene.weights, scene.abundances))
    return float(run(counts, scene.basis, *start))


def programs(scene: Scene, path: pathlib.Path, worker: EspmWorker, quick: bool) -> list[Program]:
    """In the order in which they take turns; long enough to time, short enough to wait for."""
    jax.clear_caches()  # so that the compilation of every program is seen
    bright = scene.nonzero > 0.03
    made = [
        this_program(scene, "sparse", 10, 50 if bright else 310),
        scikit_learn(scene, "sparse", 2, 6 if bright else 22),
        this_program(scene, "dense", 10, 30),
        scikit_learn(scene, "dense", 1, 4),
        espm(worker, scene, path, "float64", 2 if quick else 3),
    ]
    if not quick:
        made.append(espm(worker, scene, path, "float32", 3))
    return made


def measure(made: list[Program], rounds: int) -> list[dict[str, float]]:
    """Seconds per iteration of each program, round by round, without the warm-up round."""
    found = []
    for _ in range(rounds + 1):
        found.append({})
        for program in made:
            found[-1] |= program.sample()
    return found[1:]


def summarise(rounds: list[dict[str, float]], baseline: str) -> dict[str, dict[str, float]]:
    """Median and range, and the median of the ratios to `baseline` within a round."""
    return {
        name: {
            "median": statistics.median(r[name] for r in rounds),
            "smallest": min(r[name] for r in rounds),
            "largest": max(r[name] for r in rounds),
            "ratio": statistics.median(r[name] / r[baseline] for r in rounds),
        }
        for name in rounds[0]
    }


def espm_python(given: pathlib.Path | None) -> pathlib.Path:
    """The Python of espm's environment, which is made on first use."""
    if given is not None:
        return given
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    folder = cache / "esmpy_jax" / ESPM.replace("==", "-")
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"Installing {ESPM}, with the old versions it pins, in {folder} (once).")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", ESPM], check=True)
        complete.touch()
    return python


def machine(worker: EspmWorker) -> dict:
    import threadpoolctl

    blas = {i["internal_api"]: i["num_threads"] for i in threadpoolctl.threadpool_info()}
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(v.split(":")[1].strip() for v in lines if v.startswith("model name"))
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores usable": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads of BLAS and OpenMP": blas,
        "threads of XLA": "all usable cores",
        "jax device": str(jax.devices()[0]),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "espm environment": worker.versions,
        },
    }


def milliseconds(value: float) -> str:
    return digits(1e3 * value)


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(results: dict) -> Iterator[str]:
    doses = results["doses"]
    yield (
        "| milliseconds per iteration: median (range) | "
        + " | ".join(
            f"{d['counts per pixel']:.0f} counts/pixel, {d['nonzero']:.2%} nonzero | × slower"
            for d in doses
        )
        + " |"
    )
    yield "|---" * (1 + 2 * len(doses)) + "|"
    names = sorted(doses[0]["summary"], key=lambda n: doses[0]["summary"][n]["median"])
    for name in names:
        cells = [name]
        for dose in doses:
            s = dose["summary"][name]
            cells.append(
                f"{milliseconds(s['median'])} "
                f"({milliseconds(s['smallest'])}-{milliseconds(s['largest'])})"
            )
            cells.append(digits(s["ratio"]))
        yield "| " + " | ".join(cells) + " |"


def verdicts(results: dict) -> Iterator[str]:
    summary = results["doses"][0]["summary"]
    baseline = results["doses"][0]["baseline"]
    for name, target in TARGETS.items():
        ratio = summary[name]["ratio"]
        word = "met" if ratio >= target else "NOT met"
        yield (
            f"At {results['doses'][0]['counts per pixel']:.0f} counts per pixel {baseline} is "
            f"{digits(ratio)} times faster than {name} (aim: {target:g}, {word})."
        )


def figure(results: dict, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    doses = results["doses"]
    names = sorted(doses[0]["summary"], key=lambda n: -doses[0]["summary"][n]["median"])
    fig, axes = plt.subplots(
        1, len(doses), figsize=(9, 0.45 * len(names) + 1.2), sharex=True, sharey=True
    )
    for ax, dose in zip(axes, doses, strict=True):
        medians = [1e3 * dose["summary"][n]["median"] for n in names]
        colours = ["tab:orange" if n.startswith("esmpy_jax") else "tab:gray" for n in names]
        ax.barh(names, medians, color=colours)
        for y, name in enumerate(names):
            times = [1e3 * r[name] for r in dose["rounds"]]
            ax.plot(times, [y] * len(times), "k.", markersize=3)
            text = f" {digits(medians[y])} ms, ×{digits(dose['summary'][name]['ratio'])}"
            ax.text(max(times), y, text, va="center", fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel("milliseconds per iteration")
        ax.set_title(f"{dose['counts per pixel']:.0f} counts per pixel", fontsize=10)
    every = [1e3 * s["median"] for d in doses for s in d["summary"].values()]
    axes[0].set_xlim(min(every) / 3, max(every) * 60)
    fig.tight_layout()
    fig.savefig(path, dpi=150)
    plt.close(fig)


def report(results: dict, folder: pathlib.Path) -> None:
    """results.json, results.csv (one row a sample), the figure, and the README's table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["counts_per_pixel", "round", "program", "seconds_per_iteration"])
        for dose in results["doses"]:
            for i, found in enumerate(dose["rounds"]):
                for name, value in found.items():
                    rows.writerow([f"{dose['counts per pixel']:.2f}", i, name, f"{value:.6g}"])
    figure(results, folder / "benchmark.png")
    readme = folder / "README.md"
    if not readme.exists():
        return
    begin, end = "<!-- results: begin -->", "<!-- results: end -->"
    before, _, rest = readme.read_text().partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text("\n".join([before + begin, *lines(results), end]) + after)


def lines(results: dict) -> Iterator[str]:
    info = results["machine"]
    yield from table(results)
    yield ""
    yield from (f"- {v}" for v in verdicts(results))
    if (info["load before"] or 0) > 0.5 * info["cores usable"]:
        yield (
            "- **Not to be quoted**: the machine was busy with other work before the run, which "
            "slows programs that use all cores for every operation the most."
        )
    for dose in results["doses"]:
        times = ", ".join(f"{n} {s:.2g} s" for n, s in dose["compile seconds"].items())
        yield f"- Compilation, not included, at {dose['counts per pixel']:.0f} counts: {times}."
    versions = info["versions"]
    yield (
        f"- {results['size']} × {results['size']} pixels, {results['channels']} channels, "
        f"{results['columns']} columns, {N_PHASES} phases; {results['rounds']} rounds. "
        f"{info['date']}, {info['cpu']}, {info['cores usable']} usable cores, device "
        f"{info['jax device']}, load {info['load before']:.1f} before. Threads: BLAS and OpenMP "
        f"{info['threads of BLAS and OpenMP']}, XLA {info['threads of XLA']}. jax "
        f"{versions['jax']}, scikit-learn {versions['scikit-learn']}, numpy {versions['numpy']}; "
        f"espm {versions['espm environment']['espm']} with numpy "
        f"{versions['espm environment']['numpy']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--espm-python",
        type=pathlib.Path,
        help=f"Python of an environment with {ESPM}; by default one is made in the user's cache "
        "folder, ~/.cache/esmpy_jax",
    )
    parser.add_argument(
        "--quick", action="store_true", help="64 × 64 pixels, 2 rounds; only prints its table"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="default: the folder of this script")
    arguments = parser.parse_args()
    size, rounds = (64, 2) if arguments.quick else (128, arguments.rounds)

    warnings.simplefilter("ignore", category=sklearn.exceptions.ConvergenceWarning)
    worker = EspmWorker(espm_python(arguments.espm_python))
    results = {"size": size, "rounds": rounds, "machine": machine(worker), "doses": []}
    with tempfile.TemporaryDirectory() as folder:
        for dose in DOSES:
            scene = make_scene(dose, size)
            path = pathlib.Path(folder) / f"scene_{dose:.0f}.npz"
            scene.save(path)
            made = programs(scene, path, worker, arguments.quick)
            found = measure(made, rounds)
            auto = ej.as_counts(scene.counts, scan_shape=scene.scan_shape)
            baseline = f"esmpy_jax, {'sparse' if auto.is_sparse else 'dense'}"
            results |= {"channels": scene.basis.n_channels, "columns": scene.basis.n_columns}
            results["doses"].append(
                {
                    "counts per pixel": scene.counts_per_pixel,
                    "nonzero": scene.nonzero,
                    "baseline": baseline,
                    "compile seconds": {k: v for p in made for k, v in p.compile_seconds.items()},
                    "rounds": found,
                    "summary": summarise(found, baseline),
                }
            )
    worker.close()
    print("\n".join(lines(results)))
    if not arguments.quick or arguments.out is not None:
        report(results, arguments.out or HERE)


if __name__ == "__main__":
    main()
