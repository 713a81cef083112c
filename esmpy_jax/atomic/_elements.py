"""Elements, their names, and compositions in atomic and weight fractions."""

import dataclasses
import difflib
import functools
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import xraylib
from jaxtyping import Array, Float

from .._checks import InputError, check

_TABLE = """
H Hydrogen He Helium Li Lithium Be Beryllium B Boron C Carbon N Nitrogen O Oxygen F Fluorine Ne Neon
Na Sodium Mg Magnesium Al Aluminium Si Silicon P Phosphorus S Sulfur Cl Chlorine Ar Argon
K Potassium Ca Calcium Sc Scandium Ti Titanium V Vanadium Cr Chromium Mn Manganese Fe Iron
Co Cobalt Ni Nickel Cu Copper Zn Zinc Ga Gallium Ge Germanium As Arsenic Se Selenium Br Bromine
Kr Krypton Rb Rubidium Sr Strontium Y Yttrium Zr Zirconium Nb Niobium Mo Molybdenum Tc Technetium
Ru Ruthenium Rh Rhodium Pd Palladium Ag Silver Cd Cadmium In Indium Sn Tin Sb Antimony Te Tellurium
I Iodine Xe Xenon Cs Caesium Ba Barium La Lanthanum Ce Cerium Pr Praseodymium Nd Neodymium
Pm Promethium Sm Samarium Eu Europium Gd Gadolinium Tb Terbium Dy Dysprosium Ho Holmium Er Erbium
Tm Thulium Yb Ytterbium Lu Lutetium Hf Hafnium Ta Tantalum W Tungsten Re Rhenium Os Osmium
Ir Iridium Pt Platinum Au Gold Hg Mercury Tl Thallium Pb Lead Bi Bismuth Po Polonium At Astatine
Rn Radon Fr Francium Ra Radium Ac Actinium Th Thorium Pa Protactinium U Uranium Np Neptunium
Pu Plutonium Am Americium Cm Curium Bk Berkelium Cf Californium Es Einsteinium
"""
_SYMBOLS = tuple(_TABLE.split()[0::2])
_NAMES = tuple(_TABLE.split()[1::2])
_SPELLINGS = {"aluminum": 13, "sulphur": 16, "cesium": 55, "wolfram": 74}
_BY_SYMBOL = {symbol.lower(): z for z, symbol in enumerate(_SYMBOLS, 1)}
_BY_NAME = {name.lower(): z for z, name in enumerate(_NAMES, 1)} | _SPELLINGS
_HEAVIEST = len(_SYMBOLS)

Fractions = TypeVar(
    "Fractions", Float[Array, "element *shape"], Float[np.ndarray, "element *shape"]
)


@dataclasses.dataclass(frozen=True, order=True)
class Element:
    """A chemical element, Z = 1-99; elements sort by atomic number.

    Raises `InputError` for any other atomic number.
    """

    atomic_number: int

    def __post_init__(self):
        check(
            1 <= self.atomic_number <= _HEAVIEST,
            f"Atomic number {self.atomic_number} is out of range; "
            f"elements 1 (H) to {_HEAVIEST} ({_SYMBOLS[-1]}) are known.",
        )

    @property
    def symbol(self) -> str:
        """Chemical symbol, e.g. "Fe"."""
        return _SYMBOLS[self.atomic_number - 1]

    @property
    def name(self) -> str:
        """English name, e.g. "Iron"."""
        return _NAMES[self.atomic_number - 1]

    @property
    def atomic_weight(self) -> float:
        """Standard atomic weight in g/mol (xraylib)."""
        return float(xraylib.AtomicWeight(self.atomic_number))

    def __str__(self) -> str:
        return self.symbol


ElementLike = Element | str | int | np.integer


def _nearest(text: str) -> str:
    """Symbols that look most like `text`, as "Fe, F or Er"."""
    names = difflib.get_close_matches(text.lower(), _BY_NAME, n=2, cutoff=0.7)
    symbols = [_SYMBOLS[_BY_NAME[name] - 1] for name in names]
    by_symbol = difflib.get_close_matches(text.lower(), _BY_SYMBOL, n=3, cutoff=0.0)
    symbols += [_SYMBOLS[_BY_SYMBOL[key] - 1] for key in by_symbol]
    nearest = list(dict.fromkeys(symbols))[:3]
    return f"{', '.join(nearest[:-1])} or {nearest[-1]}"


def parse_element(value: ElementLike) -> Element:
    """The element meant by a symbol or English name (any case), or an atomic number (26 or "26").

    Raises `InputError`, naming the nearest symbols, when there is none.
    """
    if isinstance(value, Element):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return Element(int(value))
    text = str(value).strip()
    if re.fullmatch(r"[0-9]{1,3}", text):
        return Element(int(text))
    number = _BY_SYMBOL.get(text.lower()) or _BY_NAME.get(text.lower())
    if number is None:
        raise InputError(f"'{text}' is not an element; did you mean {_nearest(text)}?")
    return Element(number)


def parse_elements(values: str | Iterable[ElementLike]) -> tuple[Element, ...]:
    """Elements from "O,Mg,Si" (commas, semicolons or spaces) or from a sequence, in their order.

    Raises `InputError` for an unknown or a repeated element.
    """
    if isinstance(values, str):
        parts = re.split(r"[,;]|(?<=\w)\s+(?=\w)", values)
        values = [] if not values.strip() else parts
    elements = tuple(parse_element(value) for value in values)
    for i, element in enumerate(elements):
        check(element not in elements[:i], f"{element} is listed twice; give each element once.")
    return elements


def _rescaled(values: Fractions, factors: Float[np.ndarray, " element"] | Float[Array, " element"]):
    """values·factors along axis 0, scaled to sum one; zeros where everything is zero."""
    product = values * factors.reshape((-1,) + (1,) * (values.ndim - 1))
    total = product.sum(0, keepdims=True)
    return product / (total + (total == 0))


def atomic_to_weight(
    fractions: Fractions, atomic_weights: Float[np.ndarray, " element"] | Float[Array, " element"]
) -> Fractions:
    """Weight fractions w_i = x_i A_i / sum_j x_j A_j along axis 0, from atomic fractions x.

    `fractions` need not sum to one, `atomic_weights` (g/mol) only matter up to a scale, and a
    composition of zeros stays zeros. NumPy or JAX arrays; differentiable.
    """
    return _rescaled(fractions, atomic_weights)


def weight_to_atomic(
    fractions: Fractions, atomic_weights: Float[np.ndarray, " element"] | Float[Array, " element"]
) -> Fractions:
    """Atomic fractions x_i = (w_i/A_i) / sum_j (w_j/A_j) along axis 0: see `atomic_to_weight`."""
    return _rescaled(fractions, 1.0 / atomic_weights)


# Keys are `ElementLike`; spelled loosely because the keys of a Mapping are invariant.
Amounts = Mapping[Any, float | int]


def _normalised(amounts: Amounts):
    """Elements and their amounts scaled to sum one, checked."""
    elements = parse_elements(amounts)
    values = np.array([float(value) for value in amounts.values()])
    check(len(elements) > 0, "The composition holds no element; give at least one.")
    check(
        bool(np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0),
        f"The amounts {dict(zip(map(str, elements), values.tolist(), strict=True))} must be "
        "finite, not negative and not all zero.",
    )
    return elements, values / values.sum()


@functools.lru_cache(maxsize=256)
def _parsed_formula(formula: str) -> tuple[tuple[int, float], ...]:
    try:
        compound = xraylib.CompoundParser(formula)
    except ValueError as error:
        raise InputError(
            f"'{formula}' is not a chemical formula; write it like Mg0.9Fe0.1SiO3 or Ca5(PO4)3F."
        ) from error
    return tuple(zip(compound["Elements"], compound["nAtoms"], strict=True))


@dataclasses.dataclass(frozen=True)
class Composition:
    """What a material is made of: elements and their atomic fractions, which sum to one."""

    elements: tuple[Element, ...]
    atomic_fractions: tuple[float, ...]

    def __post_init__(self):
        check(
            len(self.elements) == len(self.atomic_fractions) == len(set(self.elements)) != 0,
            "A composition needs one atomic fraction for each of its distinct elements.",
        )
        check(
            min(self.atomic_fractions) >= 0 and math.isclose(sum(self.atomic_fractions), 1.0),
            f"Atomic fractions {self.atomic_fractions} must not be negative and must sum to one.",
        )

    @classmethod
    def from_atomic(cls, amounts: Amounts) -> "Composition":
        """From amounts of substance in any unit, e.g. {"O": 60, "Mg": 40} or {"O": 3, "Mg": 2}."""
        elements, fractions = _normalised(amounts)
        return cls(elements, tuple(fractions.tolist()))

    @classmethod
    def from_weight(cls, amounts: Amounts) -> "Composition":
        """From masses in any unit, e.g. weight percent."""
        elements, fractions = _normalised(amounts)
        weights = np.array([element.atomic_weight for element in elements])
        return cls(elements, tuple(weight_to_atomic(fractions, weights).tolist()))

    @classmethod
    def from_formula(cls, formula: str) -> "Composition":
        """From a chemical formula, e.g. "Mg0.9Fe0.1SiO3"; elements come sorted by Z."""
        return cls.from_atomic(dict(_parsed_formula(formula.strip())))

    @property
    def mean_atomic_weight(self) -> float:
        """Mean atomic weight in g/mol: sum_i x_i A_i."""
        pairs = zip(self.elements, self.atomic_fractions, strict=True)
        return sum(element.atomic_weight * fraction for element, fraction in pairs)

    @property
    def weight_fractions(self) -> tuple[float, ...]:
        """Weight fractions, in the order of `elements`."""
        weights = np.array([element.atomic_weight for element in self.elements])
        return tuple(atomic_to_weight(np.array(self.atomic_fractions), weights).tolist())
