"""The results of `fit`, `refine` and `demo`: files in a folder, and a table on the screen."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from ._figures import FIGURES, figures, refinement_figure
from ._output import filled
from ._refined import Refined, write_parameters, write_sensitivity
from ._results import amount_sentence, print_composition, print_warnings, write_composition
from ._truth import Comparison, compare, print_comparison

if TYPE_CHECKING:
    from rich.console import Console

    from ..inference import Solution, SpectrumImage

_FILES = ("report.html", "composition.csv", "solution.nc")
_REFINED = ("parameters.csv", "sensitivity.csv")


def write_results(
    solution: Solution, image: SpectrumImage, out: pathlib.Path, refined: Refined | None = None
) -> tuple[Comparison | None, list[str]]:
    """Write everything into the folder `out`; returns the comparison with the truth, and names."""
    from ._report import report

    truth = compare(solution, image.truth)
    pictures = figures(solution)
    files = _FILES
    if refined is not None:
        files += _REFINED
        pictures["refinement.png"] = refinement_figure(solution, refined.refinement)
    with filled(out, (*_FILES, *_REFINED, *FIGURES)) as folder:
        solution.save(folder / "solution.nc")
        write_composition(solution, folder / "composition.csv")
        if refined is not None:
            write_parameters(refined, folder / "parameters.csv")
            write_sensitivity(solution, folder / "sensitivity.csv")
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
        page = report(solution, pictures, truth, refined)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return truth, [*files, *pictures]


def announce(
    solution: Solution,
    truth: Comparison | None,
    out: pathlib.Path,
    written: list[str],
    screen: Console,
) -> None:
    """How the fit ended, the compositions, the notes, and where everything is."""
    data, n = solution.dataset, int(solution.dataset.sizes["phase"])
    pixels, steps = data.sizes["y"] * data.sizes["x"], int(data.attrs["n_steps"])
    ended = "The fit converged." if solution.converged else "The fit did not converge."
    screen.print(
        f"{ended} {n} phase{'s' if n > 1 else ''} in {data.sizes['y']} × "
        f"{data.sizes['x']} pixel{'s' if pixels > 1 else ''}, "
        f"{steps} step{'s' if steps != 1 else ''}, {data.attrs['seconds']:.0f} s."
    )
    screen.print()
    if truth is None:
        print_composition(solution, screen)
    else:
        print_comparison(solution, truth, screen)
    screen.print()
    if "mass_thickness" in data:
        screen.print(amount_sentence(data), markup=False)
        screen.print()
    print_warnings(solution, screen)
    pictures = sum(name.endswith(".png") for name in written)
    others = ", ".join(name for name in written if not name.endswith(".png"))
    screen.print(f"Written to {out}: {others} and {pictures} figures.", markup=False)
