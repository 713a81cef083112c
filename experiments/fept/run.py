"""A FePt spectrum quantified with refined physics, against its published k-factor result.

    python experiments/fept/run.py [--file FILE] [--quick] [--out DIR]

FILE is the spectrum that exspy ships; without it an importable exspy is looked for. Writes the
figure, and the tables between the markers of this folder's README.md (with `--out`, into
DIR/tables.md). `--quick` takes the K and L lines alone and writes into DIR or a temporary folder.
"""

import importlib.util
import pathlib
import sys
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import esmpy_jax as ej
from esmpy_jax.atomic import parse_element

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))

import refinements  # noqa: E402

SPECTRUM = pathlib.Path("data", "EDS_TEM_FePt_nanoparticles.hspy")  # in exspy
K_FACTORS = {"Fe": 1.450226, "Pt": 5.075602}  # by weight, from the documentation of exspy
INTENSITIES = {"Fe": 2754.0, "Pt": 15090.0}  # Kα and Lα less background, by exspy
ALPHA = {"Fe": ("K-L2", "K-L3"), "Pt": ("L3-M4", "L3-M5")}

FIRST = ["energy_offset", "energy_gain", "noise_fwhm", "fano", "tail_depth", "tail_relative_loss"]
SMOOTH = [f"continuum_correction_{k}" for k in (1, 2, 3, 4)]


class Way(NamedTuple):
    """A way to quantify: what of the spectrum is fitted, and with which freedom."""

    label: str
    low: float  # keV
    stray: list[str]
    split: dict[str, float] | None
    parameters: list[str]


WIDE = ["Cu", "O", "Si", "Zr", "Co", "Al", "S"]
WAYS = [
    Way("K and L lines alone, 5 to 20 keV", 5.0, ["Cu", "Zr", "Co"], None, FIRST + SMOOTH[:2]),
    Way("0.45 to 20 keV, M and Fe L lines as tabulated", 0.45, WIDE, None, FIRST + SMOOTH),
    Way(
        "0.45 to 20 keV, M and Fe L lines free",
        0.45,
        WIDE,
        {"Pt": 5.0, "Fe": 3.0},
        [*FIRST, *SMOOTH, "Pt M2 ratio", "Pt M3 ratio", "Pt M4 ratio"],
    ),
]


def main(arguments: list[str] | None = None) -> pathlib.Path | None:
    """Make tables and the figure; returns the folder with what it wrote."""
    parser = refinements.options(__doc__, "the K and L lines alone")
    parser.add_argument("--file", type=pathlib.Path, help="the spectrum that exspy ships")
    options = parser.parse_args(arguments)
    path = options.file or shipped()
    if path is None or not path.is_file():
        print("The FePt spectrum is not here; install exspy or give the file with --file.")
        return None
    out = refinements.folder(options.out, options.quick, HERE)
    began = time.perf_counter()
    rows = [(way, *refined(path, way)) for way in (WAYS[:1] if options.quick else WAYS)]
    _, model, last, _ = rows[-1]
    low = float(last.dataset["energy"][0])
    ranges = [(low, 5.0), (5.0, 20.0)] if low < 5 else [(5.0, 20.0)]
    refinements.plot_fit(last, ranges).savefig(out / "fit.png", dpi=100)
    primary = build(ej.load(path, energy_range=(WAYS[0].low, 20.0)), WAYS[0], cascades=False)
    parts = [
        "### Composition\n\n" + composition_table(rows),
        "### k-factors\n\n" + factor_table(model, primary),
        "### Which part makes which difference\n\n" + parts_table(rows[0][2], last, primary),
        "### Parameters of the last way\n\n" + refinements.parameter_table(last),
        f"Made in {time.perf_counter() - began:.0f} s.",
    ]
    refinements.write("\n\n".join(parts), out, HERE)
    print(f"wrote {out}")
    return out


def shipped() -> pathlib.Path | None:
    """The spectrum in an exspy that is installed."""
    found = importlib.util.find_spec("exspy")
    places = found.submodule_search_locations if found is not None else None
    return pathlib.Path(places[0]) / SPECTRUM if places else None


def build(image: ej.SpectrumImage, way: Way, cascades: bool = True) -> ej.EDSModel:
    width = image.acquisition.energy_resolution_mn_ka or 130.0
    return ej.EDSModel.from_image(
        image,
        ["Fe", "Pt"],
        stray=way.stray,
        split=way.split,
        detector=refinements.detector(width),
        cascades=cascades,
    )


def refined(path: pathlib.Path, way: Way) -> tuple[ej.EDSModel, ej.Refinement, float]:
    """The model before, the refinement and the seconds it took."""
    image = ej.load(path, energy_range=(way.low, 20.0))
    model = build(image, way)
    began = time.perf_counter()
    found = ej.refine(image, model, parameters=way.parameters)
    return model, found, time.perf_counter() - began


def composition_table(rows) -> str:
    """At% of every way, ± with the parameters' share, and how well it fits."""
    lines = ["| way | Fe at% | Pt at% | deviance / dof before | after | parameters | seconds |"]
    lines += ["|---" * 7 + "|", "| k-factors, exspy | 15.41 | 84.59 | | | | |"]
    for way, _, found, seconds in rows:
        at, error = (
            found.dataset[n].values[:, 0] for n in ("composition", "composition_stderr_total")
        )
        cells = [f"{x:.2f} ± {e:.2f}" for x, e in zip(at, error, strict=True)]
        cells += [f"{found.deviance_before / found.dof_before:.2f}"]
        cells += [f"{refinements.per_dof(found):.2f}", str(len(found.parameters)), f"{seconds:.0f}"]
        lines.append(f"| {way.label} | " + " | ".join(cells) + " |")
    distant = {way.label: refinements.far(found) for way, _, found, _ in rows}
    said = "; ".join(f"{label}: {names}" for label, names in distant.items() if names != "none")
    return "\n".join(lines) + f"\n\nBeyond 3 prior sd: {said or 'none'}."


def produced(model: ej.EDSModel, symbol: str) -> tuple[float, float]:
    """Cross section of an element's α lines, and their efficiency-weighted sum, in cm²."""
    lines, number = model.lines, parse_element(symbol).atomic_number
    chosen = (lines.atomic_number == number) & np.isin(lines.name, ALPHA[symbol])
    strength = np.asarray(lines.cross_section)[chosen]
    seen = np.asarray(model.detector.efficiency(jnp.asarray(lines.energy[chosen], float)))
    return float(strength.sum()), float((strength * seen).sum())


def k_ratio(model: ej.EDSModel, efficiency: bool = True) -> float:
    """k of Fe over k of Pt, by weight: k = M / (σ ε)."""
    fe, pt = (produced(model, symbol)[1 if efficiency else 0] for symbol in ("Fe", "Pt"))
    return parse_element("Fe").atomic_weight / fe / (parse_element("Pt").atomic_weight / pt)


def at_percent(ratio: float, intensities: dict[str, float]) -> float:
    """Fe in at% by Cliff and Lorimer, from k(Fe) / k(Pt) and the two intensities."""
    per_atom = ratio * parse_element("Pt").atomic_weight / parse_element("Fe").atomic_weight
    x = per_atom * intensities["Fe"] / intensities["Pt"]
    return 100 * x / (1 + x)


def factor_table(model: ej.EDSModel, primary: ej.EDSModel) -> str:
    """Our k-factor ratio in its parts, and exspy's; `primary`: without cascades."""
    lines = ["| | Fe Kα | Pt Lα | k(Fe) / k(Pt), by weight |", "|---|---|---|---|"]
    for label, one in (("with", model), ("without", primary)):
        cells = " | ".join(f"{1e23 * produced(one, s)[0]:.2f}" for s in ("Fe", "Pt"))
        ratio = k_ratio(one, efficiency=False)
        lines.append(f"| σ of the lines (10⁻²³ cm²), {label} cascades | {cells} | {ratio:.4f} |")
    shares = [seen / made for made, seen in (produced(model, s) for s in ("Fe", "Pt"))]
    seen = " | ".join(f"{share:.4f}" for share in shares)
    lines.append(
        f"| efficiency; the ratio with it, with cascades | {seen} | {k_ratio(model):.4f} |"
    )
    given = K_FACTORS["Fe"] / K_FACTORS["Pt"]
    lines.append(f"| exspy | {K_FACTORS['Fe']} | {K_FACTORS['Pt']} | {given:.4f} |")
    return "\n".join(lines)


def fitted_intensities(refinement: ej.Refinement) -> dict[str, float]:
    """Counts of the α lines by the refined model, with their tails."""
    weights = refinement.dataset["W"].isel(phase=0)
    barn = 1e-24
    return {
        symbol: float(weights.sel(column=symbol)) * produced(refinement.model, symbol)[1] / barn
        for symbol in ("Fe", "Pt")
    }


def parts_table(narrow: ej.Refinement, wide: ej.Refinement, primary: ej.EDSModel) -> str:
    """Fe in at% by each pair of intensities and k-factors."""
    ratios = K_FACTORS["Fe"] / K_FACTORS["Pt"], k_ratio(wide.model), k_ratio(primary)
    lines = ["| intensities | Fe Kα | Pt Lα | exspy's k | our k | our k without cascades |"]
    lines += ["|---" * 6 + "|"]
    for label, one in (
        ("exspy, windows", INTENSITIES),
        ("fit of 5 to 20 keV", fitted_intensities(narrow)),
        ("fit of the last way", fitted_intensities(wide)),
    ):
        found = " | ".join(f"{at_percent(ratio, one):.2f}" for ratio in ratios)
        lines.append(f"| {label} | {one['Fe']:.0f} | {one['Pt']:.0f} | {found} |")
    return "\n".join(lines) + "\n\nFe in at% by each pair."


if __name__ == "__main__":
    main()
