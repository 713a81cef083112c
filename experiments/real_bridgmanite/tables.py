"""Tables of compositions and of what the physics does to them."""

import jax.numpy as jnp
import numpy as np

from esmpy_jax.physics import Layer

LINES = {"Mg K": 1.254, "Al K": 1.487, "Si K": 1.740, "Ca K": 3.691, "Fe K": 6.400}


def composition_table(carried) -> str:
    """At% ± total standard error (that of the counts alone), as Markdown."""
    phases = [str(name) for name in carried["phase"].values]
    order = ("element", "phase")
    found, counted, total = (
        carried[name].transpose(*order).values
        for name in ("composition", "composition_stderr", "composition_stderr_total")
    )
    lines = ["| at% | " + " | ".join(phases) + " |", "|---" * (1 + len(phases)) + "|"]
    for e, symbol in enumerate(carried["element"].values):
        cells = [
            f"{x:.2f} ± {t:.2f} ({c:.2f})"
            for x, t, c in zip(found[e], total[e], counted[e], strict=True)
        ]
        lines.append(f"| {symbol} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n± total standard error (in brackets: the counts alone)."


def sensitivity_table(carried, least: float = 0.05) -> str:
    """The largest change of at% in each phase by a step of each parameter, those that matter."""
    phases = [str(name) for name in carried["phase"].values]
    change = carried["composition_sensitivity"].transpose("parameter", "element", "phase").values
    elements = carried["element"].values
    head = "| parameter | step | " + " | ".join(phases) + " |"
    lines = [head, "|---" * (2 + len(phases)) + "|"]
    for k in np.argsort(-np.abs(change).max((1, 2)), kind="stable"):
        name, step = str(carried["parameter"].values[k]), str(carried["step"].values[k])
        if np.abs(change[k]).max() < least or name.startswith("energy_"):
            continue
        most = np.abs(change[k]).argmax(0)
        cells = [f"{change[k][e, a]:+.2f} {elements[e]}" for a, e in enumerate(most)]
        lines.append(f"| {name} | {step} | " + " | ".join(cells) + " |")
    said = f"Left out: the energy axis, and what changes no element by {least:g} at%."
    return "\n".join(lines) + f"\n\nThe element that changes most, in at%, by a step. {said}"


def attenuation_table() -> str:
    """Mass attenuation of MgSiO3 and of its cations alone."""
    lines = ["| cm²/g | " + " | ".join(LINES) + " |", "|---" * (1 + len(LINES)) + "|"]
    energies = jnp.array(list(LINES.values()))
    for label, formula in (("MgSiO3", "MgSiO3"), ("Mg and Si alone", "MgSi")):
        found = np.asarray(Layer.of(formula, 4.1, 100).attenuation(energies))
        lines.append(f"| {label} | " + " | ".join(f"{x:.0f}" for x in found) + " |")
    return "\n".join(lines)
