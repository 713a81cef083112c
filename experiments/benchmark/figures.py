"""Figures of the benchmark."""

import pathlib

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

COLOURS = {"multiplicative": "tab:gray", "Newton": "tab:orange"}


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def figure_of_programs(section: dict, path: pathlib.Path) -> None:
    """Seconds to within a nat of the optimum as bars; the thin part is compilation."""
    doses = section["doses"]
    rows, summary = doses[0]["rows"], doses[0]["summary"]
    names = sorted(rows, key=lambda n: -summary[n]["median"])
    size = 5.5 * len(doses) + 2, 0.45 * len(names) + 1.2
    fig, axes = plt.subplots(1, len(doses), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, dose in zip(axes[0], doses, strict=True):
        rows, summary = dose["rows"], dose["summary"]
        here = [n for n in names if n in rows]
        ax.barh(here, [rows[n]["first"] for n in here], height=0.25, color="lightgray")
        for name in here:
            median, within = summary[name]["median"], rows[name]["within"]
            colour = "tab:blue" if name.startswith("espm") else "tab:orange"
            ax.barh([name], [median], height=0.7, color=colour, alpha=1.0 if within else 0.3)
            at = max(median, rows[name]["first"])
            more = "" if within else "> "
            text = f" {more}{digits(median)} s, ×{digits(summary[name]['ratio'])}"
            ax.text(at, name, text, va="center", fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel("seconds to within 1 nat (thin: with compilation)")
        ax.set_title(f"{dose['counts per pixel']:.0f} counts per pixel", fontsize=10)
    low, high = axes[0, 0].get_xlim()
    axes[0, 0].set_xlim(low, high * (high / low) ** 0.6)  # room for the texts
    _save(fig, path)


def figure_of_scaling(section: dict, path: pathlib.Path) -> None:
    """Milliseconds of a step against each size, with straight lines of slope one."""
    axes = section["axes"]
    fig, panels = plt.subplots(1, len(axes), figsize=(3 * len(axes), 3.4), sharey=True)
    for ax, (name, found) in zip(panels, axes.items(), strict=True):
        x = [p["x"] for p in found["points"]]
        for step, value in found["exponents"].items():
            y = [1e3 * p[step] for p in found["points"]]
            label = f"{step}: {value:.2f}"
            ax.loglog(x, y, "o-", color=COLOURS[step], markersize=4, label=label)
            middle = len(x) // 2
            line = [y[middle] * v / x[middle] for v in x]
            ax.loglog(x, line, "k:", linewidth=0.8, label="_")
        ax.set_xticks(x, [f"{v:g}" for v in x], fontsize=8)
        ax.minorticks_off()
        ax.set_xlabel(name)
        ax.legend(title="exponent", fontsize=8, title_fontsize=8)
    panels[0].set_ylabel("milliseconds per step (dotted: slope one)")
    _save(fig, path)


def _save(fig, path):
    fig.tight_layout()
    fig.savefig(path, dpi=150)
    plt.close(fig)
