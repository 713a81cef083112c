"""Labels of emission lines that never overlap: which to show, and where to put them."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from .._checks import check
from ..atomic import EmissionLines, parse_element, siegbahn
from ._style import SOFT, LineLabels, Number

_FONT = 9  # points
_ROW = 1.2 * _FONT / 72  # inches that a label turned on its side needs
_WINDOW = 0.25  # keV on both sides in which a peak must stand out
_OFF = 0.03  # keV by which a peak may be off its line


def strongest_lines(
    lines: EmissionLines,
    *,
    per_family: int = 1,
    energy_range: tuple[Number, Number] | None = None,
    notation: str = "siegbahn",
) -> list[tuple[float, str]]:
    """(energy in keV, text) of the strongest lines of each element's K, L and M family.

    **Arguments:**

    - `lines`: as from `emission_lines`, or `model.lines`.
    - `per_family`: how many different labels each family of an element gets at most.
    - `energy_range`: only lines inside (low, high) keV.
    - `notation`: "siegbahn" ("Fe Kα", one label for the unresolved Kα1 and Kα2, at the stronger
      one's energy) or "iupac" ("Fe K-L3").

    Returns the strongest first, which is also the order in which figures keep them when there is
    no room for all.
    """
    check(
        notation in ("siegbahn", "iupac"),
        f"Unknown line notation '{notation}'; choose 'siegbahn' or 'iupac'.",
    )
    energy = np.asarray(lines.energy, float)
    strength = np.asarray(lines.cross_section, float)
    numbers = np.asarray(lines.atomic_number, int)
    kept: dict[tuple[int, str], list[str]] = {}
    labels = []
    for i in np.argsort(-strength, kind="stable"):
        if energy_range is not None and not energy_range[0] <= energy[i] <= energy_range[1]:
            continue
        z = int(numbers[i])
        name = _display(str(lines.name[i]), notation)
        shown = kept.setdefault((z, str(lines.family[i])), [])
        if name in shown or len(shown) == per_family:
            continue
        shown.append(name)
        labels.append((float(energy[i]), f"{parse_element(z).symbol} {name}"))
    return labels


def visible_lines(
    lines: LineLabels,
    energy: Float[np.ndarray, " channel"],
    spectrum: Float[np.ndarray, " channel"],
    *,
    prominence: float = 1.2,
    least: float = 0.0,
) -> list[tuple[float, str]]:
    """The lines at which the spectrum has a peak of its own, in the order given.

    A peak has its top within 0.03 keV of the line, is at least `least` high, and `prominence`
    times as high as the higher of the lowest points within 0.25 keV on both of its sides. A line
    on the flank of a stronger one is left out.
    """
    gain = energy[1] - energy[0] if len(energy) > 1 else 1.0
    reach, core = max(2, round(_WINDOW / gain)), max(1, round(_OFF / gain))
    found = []
    for line, text in lines:
        if not energy[0] <= line <= energy[-1]:
            continue
        at = int(np.argmin(np.abs(energy - line)))
        first = max(0, at - core - 1)
        near = spectrum[first : at + core + 2]
        top = first + int(np.argmax(near))
        if top in (first, first + len(near) - 1):
            continue
        left = spectrum[max(0, top - reach) : top + 1].min()
        right = spectrum[top : top + reach + 1].min()
        if spectrum[top] > max(prominence * max(left, right), least):
            found.append((line, text))
    return found


def label_lines(
    axes: Axes,
    lines: LineLabels,
    energy: Float[np.ndarray, " channel"],
    spectrum: Float[np.ndarray, " channel"],
    *,
    size: tuple[float, float],
) -> None:
    """Write the labels in a row above the axes, each joined to its peak by a thin leader.

    The limits and scale of the axes must be final; `size` is their width and height in inches,
    roughly. Where there is no room for all labels the last ones are left out.
    """
    low, high = axes.get_xlim()
    step = _ROW / size[0] * (high - low)
    inch = 1 / size[1]  # in axes heights
    room = max(1, int((high - low) / step))
    shown = sorted([line for line in lines if low <= line[0] <= high][:room])
    if not shown:
        return
    at = np.array([line for line, _ in shown])
    places = spread(at, step, low + step / 2, high - step / 2)
    where = axes.get_xaxis_transform()
    to_axes = axes.transData + axes.transAxes.inverted()
    for (line, text), place in zip(shown, places, strict=True):
        index = int(np.argmin(np.abs(energy - line)))
        height = spectrum[max(0, index - 2) : index + 3].max()
        foot = float(to_axes.transform((line, height))[1]) + 0.06 * inch
        axes.plot(
            [line, line, place, place],
            [min(max(foot, 0.0), 1.0), 1.0, 1.0 + 0.16 * inch, 1.0 + 0.2 * inch],
            transform=where,
            color=SOFT,
            linewidth=0.6,
            alpha=0.8,
            clip_on=False,
            zorder=1,
            label="_leader",
        )
        axes.text(
            place,
            1.0 + 0.24 * inch,
            text,
            transform=where,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=_FONT,
            gid="line-label",
        )


def spread(
    wanted: Float[np.ndarray, " n"], step: float, low: float, high: float
) -> Float[np.ndarray, " n"]:
    """The positions closest to the sorted `wanted` ones, at least `step` apart in [low, high].

    Minimises `sum (x - wanted)²` under `x[i+1] - x[i] >= step`: an isotonic regression of
    `wanted[i] - i step`, solved by pooling neighbours; then moved into the limits, which must
    leave room.
    """
    ramp = step * np.arange(len(wanted))
    blocks: list[list[float]] = []  # [mean, size]
    for value in np.asarray(wanted, float) - ramp:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            total = blocks[-1][1] + size
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * size) / total, total]
    base = np.concatenate([np.full(int(size), mean) for mean, size in blocks])
    return np.clip(base, low, max(low, high - (ramp[-1] if len(ramp) else 0.0))) + ramp


def _display(iupac: str, notation: str) -> str:
    if notation == "iupac":
        return iupac
    name = siegbahn(iupac)
    # Kα1 and Kα2 are one peak in EDS; names without a Siegbahn one stay in IUPAC ("M1-N3").
    return name if "-" in name else name.rstrip("0123456789,'")
