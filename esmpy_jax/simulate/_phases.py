"""`Phase`: what one phase of a simulated sample consists of, and its column of W."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._basis import Basis, ColumnKind
from .._checks import check
from .._types import Weights
from ..atomic import Composition, parse_element
from ..model import AnyModel, EDSModel
from ..physics import Number

_AVOGADRO = 602.214076  # molecules per (g/mol) in one nm³ at 1 g/cm³
_FLAT_SHARE = 0.1  # of the continuum's counts in the first, nearly flat Lifshin column


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a simulated sample.

    - `name`: for figures and tables.
    - `composition`: a `Composition`, or a mapping of elements to at% (any scale).
    - `density`: g/cm³. A denser phase has more atoms in the same volume and gives more counts.
    - `bremsstrahlung`: one number: the continuum's counts as a ratio of the counts in the lines
      of the sample's elements, over the energy axis, a tenth of them in the first column; or the
      weights (b0, b1) of the continuum's columns per atom.
    - `stray`: per atom of the phase, the weight of each stray element's columns, as if so many
      atoms of it were there. Mapping of symbol to weight.

    Raises `InputError` for a density that is not positive or negative weights.
    """

    name: str
    composition: Composition | Mapping[str, Number]
    density: Number
    bremsstrahlung: Number | tuple[Number, ...] = 0.3
    stray: Mapping[str, Number] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.composition, Composition):
            object.__setattr__(self, "composition", Composition.from_atomic(self.composition))
        check(
            math.isfinite(self.density) and self.density > 0,
            f"The density of phase '{self.name}' is {self.density} g/cm³; it must be positive.",
        )
        continuum = np.atleast_1d(np.asarray(self.bremsstrahlung, float))
        check(
            bool(np.isfinite(continuum).all() and (continuum >= 0).all())
            and all(math.isfinite(v) and v >= 0 for v in self.stray.values()),
            f"The continuum or a stray weight of phase '{self.name}' is negative or not finite.",
        )

    @property
    def atoms_per_volume(self) -> float:
        """Atoms per nm³: density × Avogadro's number / mean atomic weight."""
        assert isinstance(self.composition, Composition)
        return self.density * _AVOGADRO / self.composition.mean_atomic_weight

    def fractions(self) -> dict[int, float]:
        """Atomic fraction by atomic number."""
        assert isinstance(self.composition, Composition)
        return {
            element.atomic_number: fraction
            for element, fraction in zip(
                self.composition.elements, self.composition.atomic_fractions, strict=True
            )
        }


def phase_weights(
    model: AnyModel, phases: Sequence[Phase]
) -> tuple[Float[np.ndarray, "column phase"], Basis]:
    """W of the phases in the canonical gauge, and the basis G it goes with.

    Element rows are atomic fractions (a split element's low lines carry its fraction too), stray
    and continuum rows as the phase says, all per atom and for each detector. Custom columns get
    zero.

    Raises `InputError` when a phase holds an element that the model lacks, or stray elements or
    continuum weights that fit none of its columns.
    """
    check(len(phases) >= 1, "A simulation needs at least one phase; none was given.")
    weights = np.zeros((len(model.columns), len(phases)))
    for part, own in zip(model.parts, model.part_columns, strict=True):
        weights[own] = _part_weights(part, phases)
    return weights, _basis(model, jnp.asarray(weights, float))


def _part_weights(model: EDSModel, phases: Sequence[Phase]) -> Float[np.ndarray, "column phase"]:
    """W of one detector's columns."""
    base = [_emission_weights(model, phase) for phase in phases]
    weights = np.stack(base, axis=1)
    basis = _basis(model, jnp.asarray(weights, float))
    kinds = [column.kind for column in basis.columns]
    continuum = np.array([kind is ColumnKind.BREMSSTRAHLUNG for kind in kinds], bool)
    element = np.array([kind is ColumnKind.ELEMENT for kind in kinds], bool)
    sums = np.broadcast_to(np.asarray(basis.column_sums, np.float64), weights.shape)
    for i, phase in enumerate(phases):
        weights[continuum, i] = _continuum_weights(
            phase, sums[continuum, i], float(sums[element, i] @ weights[element, i])
        )
    return weights


@eqx.filter_jit
def _basis(model: AnyModel, weights: Weights) -> Basis:
    return model.basis(weights)


def _emission_weights(model: EDSModel, phase: Phase) -> np.ndarray:
    """The column of W but for the continuum."""
    fractions = phase.fractions()
    known = {element.atomic_number for element in model.elements}
    for z in fractions:
        check(
            z in known,
            f"Phase '{phase.name}' holds {parse_element(z).symbol}, which the model does not; add "
            "it to the model's elements.",
        )
    stray = {parse_element(symbol).atomic_number: v for symbol, v in phase.stray.items()}
    weights = np.zeros(len(model.columns))
    used = set()
    for j, column in enumerate(model.columns):
        if column.kind is ColumnKind.ELEMENT:
            weights[j] = fractions.get(column.atomic_number or 0, 0.0)
        elif column.kind is ColumnKind.STRAY:
            weights[j] = stray.get(column.atomic_number or 0, 0.0)
            used.add(column.atomic_number)
    for z in stray:
        check(
            z in used,
            f"Phase '{phase.name}' has stray {parse_element(z).symbol}, for which the model has "
            "no column; add it to the model's stray elements.",
        )
    return weights


def _continuum_weights(phase: Phase, column_sums: np.ndarray, line_counts: float) -> np.ndarray:
    n = len(column_sums)
    if isinstance(phase.bremsstrahlung, tuple):
        check(
            len(phase.bremsstrahlung) == n,
            f"Phase '{phase.name}' has {len(phase.bremsstrahlung)} continuum weights, but the "
            f"model has {n} continuum columns; give as many, or one ratio.",
        )
        return np.asarray(phase.bremsstrahlung, float)
    shares = np.array([_FLAT_SHARE, 1 - _FLAT_SHARE]) if n == 2 else np.full(n, 1 / max(n, 1))
    return phase.bremsstrahlung * line_counts * shares / column_sums
