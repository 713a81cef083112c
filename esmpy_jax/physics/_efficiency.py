"""What share of the photons a detector counts: its windows, its crystal, or a measured curve."""

import abc
import pathlib
import re

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import InputError, check
from .._types import Scalar
from ._frozen import Frozen
from ._layers import Layer, silicon
from ._scalars import Curve, Number, as_scalar


class AbstractEfficiency(eqx.Module):
    """The share of photons counted in the full-energy peak, as a function of energy."""

    @abc.abstractmethod
    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Between 0 and 1, at `energy` keV."""

    @abc.abstractmethod
    def check_covers(self, low: Number, high: Number) -> None:
        """Raise `InputError` unless the efficiency is known from `low` to `high` keV."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """A few words for tables of parameters."""


class LayeredEfficiency(AbstractEfficiency):
    """Efficiency of a stack of layers:

    ε(E) = exp(-Σ μ ρ t over the windows) · [f + (1 - f) exp(-(μ ρ t) of the grid)]
    · [1 - exp(-(μ ρ t) of the crystal)].

    - `windows`: everything in front of the crystal that covers all of it.
    - `active`: the crystal; its attenuation should be photoelectric, since a photon that is only
      scattered deposits little of its energy.
    - `open_area`: the share f of the window that the bars of a support grid leave open.
    - `support`: the bars; `None` for bars that stop everything.

    Below 0.1 keV the attenuation, and with it ε, keeps its value at 0.1 keV.
    """

    windows: tuple[Layer, ...]
    active: Layer
    open_area: Scalar
    support: Layer | None

    def __init__(
        self,
        windows: tuple[Layer, ...],
        active: Layer,
        open_area: Number = 1.0,
        support: Layer | None = None,
    ):
        check(
            0 < open_area <= 1,
            f"The support grid leaves {open_area:g} of the window open; give a share in (0, 1].",
        )
        self.windows = tuple(windows)
        self.active = active
        self.open_area = as_scalar(open_area)
        self.support = support

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        depth = jnp.zeros_like(energy)
        for window in self.windows:
            depth = depth + window.depth(energy)
        passing = jnp.exp(-depth)
        if self.support is None:
            grid = self.open_area
        else:
            grid = self.open_area + (1 - self.open_area) * jnp.exp(-self.support.depth(energy))
        return passing * grid * -jnp.expm1(-self.active.depth(energy))

    def check_covers(self, low: Number, high: Number) -> None:
        """Layers are known at every energy that the tables of attenuation reach."""
        check(
            high <= 100,
            f"The attenuation of the detector's layers is tabulated up to 100 keV, but {high:g} "
            "keV is asked for; crop the energy axis.",
        )

    @property
    def description(self) -> str:
        parts = [window.description for window in self.windows]
        if self.support is not None or float(self.open_area) < 1:
            parts.append(f"grid {100 * float(self.open_area):g} % open")
        return " + ".join([*parts, f"{self.active.description} crystal"])


class MeasuredEfficiency(AbstractEfficiency):
    """An efficiency curve given as points, with straight lines between them.

    - `energies`: in keV, increasing.
    - `values`: between 0 and 1, differentiable.

    Points (0, 0) at the end, which pad the tables of some instruments, are dropped. Outside the
    points the curve keeps its end values; `check_covers` tells whether that would happen. Raises
    `InputError` for a curve that is not one.
    """

    knots: Frozen[np.ndarray] = eqx.field(static=True)
    values: Float[Array, " knot"]

    def __init__(self, energies: Curve, values: Curve):
        energy, value = np.asarray(energies, float), np.asarray(values, float)
        check(
            energy.ndim == 1 and energy.shape == value.shape,
            f"An efficiency curve has {energy.shape} energies and {value.shape} values; give two "
            "lists of one length.",
        )
        padding = (energy == 0) & (value == 0)
        while len(energy) and padding[-1]:
            energy, value, padding = energy[:-1], value[:-1], padding[:-1]
        check(len(energy) >= 2, "An efficiency curve needs at least two points; give more.")
        check(
            bool(np.isfinite(energy).all() and np.isfinite(value).all()),
            "An efficiency curve holds values that are not finite; remove them.",
        )
        check(
            bool((np.diff(energy) > 0).all()),
            "The energies of an efficiency curve do not increase; sort them and drop repeats.",
        )
        check(
            bool((value >= 0).all() and (value <= 1).all()),
            f"An efficiency curve has values from {value.min():g} to {value.max():g}; give shares "
            "between 0 and 1, not percent.",
        )
        check(
            float(energy[-1]) < 1000,
            f"An efficiency curve ends at {energy[-1]:g}, which looks like eV; give keV.",
        )
        self.knots = Frozen(energy)
        self.values = jnp.asarray(value, float)

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "MeasuredEfficiency":
        """From a text file with two columns, energy in keV and efficiency.

        Columns are separated by blanks, tabs, commas or semicolons; lines starting with "#" and
        lines before the first number (headings) are skipped. Raises `InputError` otherwise.
        """
        path = pathlib.Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The efficiency curve {path} cannot be read: {error}.") from error
        rows: list[tuple[float, float]] = []
        for number, line in enumerate(text.splitlines(), 1):
            words = [word for word in re.split(r"[,;\s]+", line.strip()) if word]
            if not words or words[0].startswith("#"):
                continue
            try:
                energy, value = (float(word) for word in words)
            except ValueError:
                check(
                    not rows,
                    f"Line {number} of {path} does not hold two numbers; give energy in keV and "
                    "efficiency in two columns.",
                )
                continue
            rows.append((energy, value))
        check(bool(rows), f"{path} holds no efficiency curve; give two columns of numbers.")
        return cls(*np.array(rows).T)

    @property
    def energies(self) -> Float[np.ndarray, " knot"]:
        """The energies of the points, in keV."""
        return self.knots.value

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.interp(energy, jnp.asarray(self.energies, float), self.values)

    def check_covers(self, low: Number, high: Number) -> None:
        first, last = (float(end) for end in self.energies[[0, -1]])
        slack = 1e-6 * max(abs(high), 1.0)
        check(
            first <= low + slack and high - slack <= last,
            f"The efficiency curve covers {first:g} to {last:g} keV, but the model needs it from "
            f"{low:.4g} to {high:.4g} keV; crop the energy axis or give a wider curve.",
        )

    @property
    def description(self) -> str:
        return f"measured curve, {self.energies[0]:g} to {self.energies[-1]:g} keV"


_MM = 1e6  # nm


def detector_window(name: str) -> LayeredEfficiency:
    """The efficiency of a typical silicon drift detector behind one of these windows:

    - "windowless": a bare crystal of 0.45 mm, the usual thickness of drift detectors.
    - "ap3.3": Moxtek's polymer window AP3.3 as modelled by NIST (N. Ritchie's public-domain
      NeXLSpectrum): 40 nm Al on 300 nm of C10H8O4N (1.39 g/cm³), a silicon grid 380 µm thick and
      77 % open, a contact of 10 nm Al, 30 nm of dead silicon, and a crystal of 0.37 mm.
    - "be": 8 µm of beryllium (the 0.3 mil foil of commercial detectors), crystal 0.45 mm.
    - "si3n4": 40 nm of Si3N4 (3.44 g/cm³) coated with 30 nm Al on a silicon grid 15 µm thick and
      80 % open, after Amptek's specification of its window C2; crystal 0.45 mm.

    Real detectors differ: give your own `LayeredEfficiency` or `MeasuredEfficiency` where you know
    more. Raises `InputError` for another name.
    """
    match name.strip().lower():
        case "windowless":
            return LayeredEfficiency((), silicon(0.45 * _MM))
        case "ap3.3":
            windows = (
                Layer.of("Al", 2.70, 40),
                Layer.of("C10H8O4N", 1.39, 300),
                Layer.of("Al", 2.70, 10),
                Layer.of("Si", 2.33, 30),
            )
            bars = Layer.of("Si", 2.33, 0.380 * _MM)
            return LayeredEfficiency(windows, silicon(0.37 * _MM), open_area=0.77, support=bars)
        case "be":
            return LayeredEfficiency((Layer.of("Be", 1.85, 8e3),), silicon(0.45 * _MM))
        case "si3n4":
            windows = (Layer.of("Al", 2.70, 30), Layer.of("Si3N4", 3.44, 40))
            bars = Layer.of("Si", 2.33, 15e3)
            return LayeredEfficiency(windows, silicon(0.45 * _MM), open_area=0.80, support=bars)
    raise InputError(
        f"There is no detector window called {name!r}; choose windowless, ap3.3, be or si3n4."
    )
