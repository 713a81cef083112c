"""How well the phases of simulated images with few counts are found, over ten seeds.

    python experiments/figure2_low_snr/run.py [--quick] [--out DIR]

Ground truth, scikit-learn's Kullback-Leibler NMF and `esmpy_jax.fit` with its defaults on the same
counts. Writes the figures, `results.csv` with every seed, and the tables between the markers of
this folder's README.md (with `--out`, into DIR/tables.md). `--quick` is a small run of one seed
that shows that everything works; it writes into DIR or a temporary folder.
"""

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from figures import plot_maps, plot_seeds, plot_spectra
from judging import Found, judge, judge_nmf, nmf_input
from nmf import kl_nmf
from readme import fill
from scenes import SCENES, make_image
from tables import as_markdown, write_csv

import esmpy_jax as ej
from esmpy_jax.simulate import demo_model, mineral_phases

HERE = pathlib.Path(__file__).resolve().parent
OURS, THEIRS, LONGER = "esmpy_jax", "scikit-learn", "scikit-learn, longer"
DOSES = (18.0, 293.0)
PHASES = mineral_phases()
N_PHASES = len(PHASES)
N_BESIDE = max(1, (os.cpu_count() or 2) - 1)  # processes for scikit-learn
N_LONGER = {18.0: 1000, 293.0: 200}  # iterations of the first seed of the first scene
CHECK = 5000.0  # counts per pixel at which the truth must come out


def fit_defaults(image: ej.SpectrumImage, model: ej.EDSModel, seed: int) -> Found:
    """`esmpy_jax.fit` as it is."""
    began = time.process_time()
    solution = ej.fit(image, model, N_PHASES, key=jax.random.key(seed))
    used = time.process_time() - began
    return judge(
        OURS,
        image.truth,
        np.asarray(image.truth.abundance, float),
        solution.abundance,
        solution.dataset["spectra"].values,
        solution.composition.values,
        used,
        int(solution.dataset.attrs["n_steps"]),
    )


def main(arguments: list[str] | None = None) -> pathlib.Path:
    """Run the study; returns the folder with what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run: one scene, one seed")
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    quick = options.quick
    size, n_seeds, scenes = (32, 1, ["demo"]) if quick else (128, 10, list(SCENES))
    out = options.out or (pathlib.Path(tempfile.mkdtemp()) if quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model = demo_model()

    records, truths, shown, jobs = [], {}, {}, []
    with contextlib.ExitStack() as stack:
        submit = _inline if quick else _beside(stack)
        for scene in scenes:
            for dose in DOSES:
                for seed in range(n_seeds):
                    image = make_image(model, scene, dose, seed, size)
                    cell = (scene, dose, seed)
                    truths[cell] = image.truth
                    data = nmf_input(image, N_PHASES)
                    jobs.append((cell, THEIRS, submit(kl_nmf, *data, seed)))
                    if seed == 0 and scene == scenes[0] and not quick:
                        more = submit(kl_nmf, *data, seed, N_LONGER[dose], 0.0)
                        jobs.append((cell, LONGER, more))
                    records.append((*cell, fit_defaults(image, model, seed)))
                    print(_line(*records[-1]), flush=True)
        checks = []
        for scene in [] if quick else scenes:
            image = make_image(model, scene, CHECK, 0, 64)
            checks.append((scene, CHECK, 0, fit_defaults(image, model, 0)))
            print(_line(*checks[-1]), flush=True)
        for cell, method, job in jobs:
            records.append((*cell, judge_nmf(method, truths[cell], model, PHASES, job.result())))
            print(_line(*records[-1]), flush=True)

    for scene, dose, seed, found in records:
        if seed == 0:
            shown[scene, dose, found.method] = found
    names = list(truths[scenes[0], DOSES[0], 0].phase_names)
    energy = np.asarray(model.energy_axis.centres, float)
    for scene in scenes:
        tag = scene.replace(" ", "_")
        truth = truths[scene, DOSES[0], 0]
        pairs = {d: [shown[scene, d, m] for m in (THEIRS, OURS)] for d in DOSES}
        atoms = np.asarray(truth.abundance, float)
        plot_maps(atoms, pairs, names).savefig(out / f"maps_{tag}.png")
        spectra = np.asarray(truth.spectra, float)
        plot_spectra(energy, spectra, pairs, names).savefig(out / f"spectra_{tag}.png")
    plot_seeds(records, names, scenes, DOSES, [THEIRS, OURS]).savefig(out / "seeds.png")
    write_csv(out / "results.csv", records, names)

    minutes = (time.perf_counter() - began) / 60
    text = as_markdown(records, checks, names, [OURS, THEIRS, LONGER], (size, n_seeds, minutes))
    if out == HERE:
        fill(out, text)
    else:
        (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {out} after {minutes:.1f} min")
    return out


def _line(scene: str, dose: float, seed: int, found: Found) -> str:
    numbers = (
        " ".join(f"{v:.3f}" for v in found.correlation),
        " ".join(f"{v:.1f}°" for v in found.angle),
        " ".join(f"{v:.2f}" for v in found.error),
    )
    return f"{scene}, {dose:g}, seed {seed}, {found.method}: " + " | ".join(
        (*numbers, f"{found.steps} steps, {found.seconds:.1f} s")
    )


class _Done:
    def __init__(self, value):
        self._value = value

    def result(self):
        return self._value


def _inline(function, *arguments):
    return _Done(function(*arguments))


def _beside(stack: contextlib.ExitStack):
    """`submit` of processes that work beside this one."""
    context = multiprocessing.get_context("spawn")  # a process with JAX must not be forked
    pool = concurrent.futures.ProcessPoolExecutor(N_BESIDE, mp_context=context)
    return stack.enter_context(pool).submit


if __name__ == "__main__":
    main()
