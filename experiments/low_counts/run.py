"""How few counts are enough: three programs, thirteen samples, doses from 5 to 500.

    python experiments/low_counts/run.py [--quick] [--seeds N] [--minutes M] [--no-espm]
                                         [--count-phases] [--out DIR]

Writes the figure, `results.csv` with every fit, and the table and the failures between the
markers of this folder's README.md (with `--out`, into DIR/tables.md). `--quick` is a small run
that shows that everything works; it writes into DIR or a temporary folder.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "common"))

from espm_environment import espm_python
from figures import plot_low_counts
from programs import OURS, Fit, count_phases, espm, ours, scikit_learn
from readme import fill
from scenes import SCENES, make_image, make_models, peak_ratio
from tables import as_markdown, write_csv

HERE = pathlib.Path(__file__).resolve().parent
VARIED = "spheres"  # the scene whose dose is varied
DOSES = (5.0, 18.0, 50.0, 150.0, 293.0, 500.0)
ESPM_DOSES = (18.0, 293.0)
ESPM_SECONDS = 60.0
NMF_ITERATIONS = 200
QUICK_SCENES = ("spheres", "grain boundary")
QUICK_DOSES = (150.0,)


def main(arguments: list[str] | None = None) -> pathlib.Path:
    """Run the study; returns the folder with what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run of one seed")
    parser.add_argument("--seeds", type=int, help="of each scene; 3 by default")
    parser.add_argument(
        "--minutes",
        type=float,
        default=25.0,
        help="after these no fit of a second or later seed begins; 25 by default",
    )
    parser.add_argument("--no-espm", action="store_true", help="leave espm out")
    parser.add_argument("--espm-python", type=pathlib.Path, help="Python of an environment of it")
    parser.add_argument(
        "--count-phases", action="store_true", help='also fit with "auto" phases (slow)'
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder for everything that is written")
    options = parser.parse_args(arguments)
    quick = options.quick
    size, names = (32, QUICK_SCENES) if quick else (128, tuple(SCENES))
    n_seeds = options.seeds or (1 if quick else 3)
    doses = QUICK_DOSES if quick else DOSES
    out = options.out or (pathlib.Path(tempfile.mkdtemp()) if quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    cells = [(n, d) for n in names for d in _doses(n, doses, quick)]
    fits, ratios = [], {}
    python, reason = _espm(options)
    espm_doses = doses if quick else ESPM_DOSES

    def keep(fit: Fit) -> None:
        """At once, so that a run that is cut off has not been for nothing."""
        fits.append(fit)
        write_csv(out / "results.csv", fits, ratios)
        print(_line(fit), flush=True)

    for seed in range(n_seeds):  # outermost, so that time that is up costs seeds and not scenes
        jax.clear_caches()  # programs map memory, of which a process may have some 65 000 pieces
        for name, dose in cells:
            if seed > 0 and time.perf_counter() - began > 60 * options.minutes:
                break
            scene = SCENES[name]
            true_model, model = make_models(scene)
            image = make_image(scene, true_model, dose, seed, size)
            found, solution = ours(image, model, scene, seed)
            number = count_phases(image, model, seed) if options.count_phases else None
            if name == "grain boundary":
                ratios[name, dose, seed, OURS] = peak_ratio(image, solution)
            keep(Fit(name, dose, seed, found, "", tuple(solution.warnings), number))
            if seed == 0:
                iterations = 50 if quick else NMF_ITERATIONS
                theirs = scikit_learn(image, true_model, model, scene, seed, iterations)
                keep(Fit(name, dose, seed, theirs))
            if seed == 0 and name == VARIED and dose in espm_doses and python is not None:
                cap = 5.0 if quick else ESPM_SECONDS
                found, note = espm(image, model, scene, seed, python, cap)
                keep(Fit(name, dose, seed, found, note))

    scene = SCENES[VARIED]
    true_model, _ = make_models(scene)
    missing = len(cells) * n_seeds - sum(f.found.method == OURS for f in fits)
    shown = {d: {f.found.method: f for f in _first(fits, d)} for d in doses}
    truth = make_image(scene, true_model, doses[0], 0, size).truth
    phases = [phase.name for phase in scene.phases]
    varied = [f for f in fits if f.scene == VARIED]
    figure = plot_low_counts(np.asarray(truth.abundance, float), shown, varied, phases)
    figure.savefig(out / "low_counts.png", dpi=160)
    minutes = (time.perf_counter() - began) / 60
    about = (
        f"{size} × {size} pixels, 1980 channels; the run took {minutes:.0f} minutes."
        + " A quick run, whose numbers mean nothing." * quick
        + f" {missing} fits of later seeds were left out after {options.minutes:g} minutes."
        * (missing > 0)
    )
    text = as_markdown(fits, ratios, about, 5.0 if quick else ESPM_SECONDS, reason)
    _write(out, text)
    print(f"wrote {out} after {minutes:.1f} min")
    return out


def _doses(name: str, doses: tuple[float, ...], quick: bool) -> tuple[float, ...]:
    if name == VARIED:
        return doses
    return doses[:1] if quick else (SCENES[name].dose,)


def _first(fits: list[Fit], dose: float) -> list[Fit]:
    return [f for f in fits if f.scene == VARIED and f.dose == dose and f.seed == 0]


def _espm(options: argparse.Namespace) -> tuple[pathlib.Path | None, str | None]:
    """Its Python, or a sentence why there is none."""
    if options.no_espm:
        return None, "espm was left out (`--no-espm`)."
    try:
        return espm_python(options.espm_python), None
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"espm was left out, as its environment could not be made: {error}."


def _write(out: pathlib.Path, text: str) -> None:
    if out != HERE:
        (out / "tables.md").write_text(text + "\n", encoding="utf-8")
        return
    fill(out, text)


def _line(fit: Fit) -> str:
    found = fit.found
    return f"{fit.scene}, {fit.dose:g}, seed {fit.seed}, {found.method}: " + " | ".join(
        (
            " ".join(f"{v:.3f}" for v in found.correlation),
            " ".join(f"{v:.1f}°" for v in found.angle),
            " ".join(f"{v:.2f}" for v in found.error),
            f"{found.steps} steps, {found.seconds:.1f} s {fit.note}",
        )
    )


if __name__ == "__main__":
    main()
