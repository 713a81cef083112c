"""The figure of the study."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def plot_results(rows: Sequence[dict[str, float]], names: Sequence[str]) -> Figure:
    """Errors of the parameters in standard errors, and those of at% before and after."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    left.axvspan(-2, 2, color="#E8EDF3")
    left.axvline(0, color="#8A94A0", linewidth=0.8)
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        z = np.array([row[f"{name} z"] for row in rows])
        left.plot(z, i + rng.uniform(-0.2, 0.2, len(z)), "o", color="#2F6DB5", markersize=4)
    left.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    left.invert_yaxis()
    left.set_xlim(-5, 5)
    left.set_xlabel("(found - true) / standard error")
    left.set_title("Parameters after refinement", loc="left", fontsize=11)
    labels = ("before", "after", "true model")
    errors = [[row[f"at% {label}"] for row in rows] for label in labels]
    for x, values in enumerate(errors):
        right.plot(x + rng.uniform(-0.12, 0.12, len(values)), values, "o", color="#2F6DB5", ms=4)
        right.plot([x - 0.25, x + 0.25], [np.nanmedian(values)] * 2, color="#1B1F24", linewidth=1.5)
    right.set_xticks(range(3), ["before", "after", "true\nmodel"])
    right.set_yscale("log")
    right.set_ylabel("median error (at%)")
    right.set_title("Compositions", loc="left", fontsize=11)
    return figure
