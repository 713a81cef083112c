"""What is known of phases: compositions, whose amount is left free, and absent elements."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._arrays import as_floats, on_device
from .._basis import Basis, Column, ColumnKind
from .._checks import check
from .._types import Weights
from ..atomic import Composition, parse_elements
from ..model import AnyModel
from ..solve import Factorisation, Fixed, GivenStart, Problem

#: What `fit` takes for a composition: atoms of each element, a formula, or a `Composition`.
KnownComposition = Composition | str | Mapping[str, float | int]


@dataclasses.dataclass(frozen=True)
class KnownPhases:
    """Known compositions as further columns of G.

    The sum `G f` over the elements of a phase, with its atomic fractions f, becomes a column that
    this phase alone has, and its own elements are held at zero. So its amount and its continuum are
    as free as those of any other phase, whatever the gauge of W.

    - `phases`: which ones, and `keys`, what they are called. `fractions`: atomic fractions of each.
    - `rows`: of W that are atomic fractions. `n_columns`: of G without the further ones.
    """

    phases: Int[np.ndarray, " known"]
    keys: tuple[int | str, ...]
    fractions: Float[np.ndarray, "element known"]
    rows: Int[np.ndarray, " element"]
    n_columns: int

    def record(self, model: AnyModel) -> dict[int, dict[str, float]]:
        """Atomic fractions by phase and element, as plain values for storage."""
        symbols = [element.symbol for element in model.elements]
        return {
            int(p): {s: float(x) for s, x in zip(symbols, own, strict=True) if x > 0}
            for p, own in zip(self.phases, self.fractions.T, strict=True)
        }

    def check_present(self, missing: Bool[np.ndarray, "column phase"], model: AnyModel) -> None:
        """Raise `InputError` where an element of a known composition is said to be absent."""
        for p, key, own in zip(self.phases, self.keys, self.fractions.T, strict=True):
            for j in np.flatnonzero(missing[self.rows, p] & (own > 0)):
                check(
                    False,
                    f"{model.elements[j].symbol} is said to be absent from {_named(key)}, whose "
                    "composition holds it; give one of the two.",
                )

    def check_free(self, fixed_weights: Float[np.ndarray, "column phase"]) -> None:
        """Raise `InputError` where an entry that a known composition decides is held, too."""
        for p, key in zip(self.phases, self.keys, strict=True):
            check(
                not (fixed_weights[self.rows, p] > 0).any(),
                f"The composition of {_named(key)} is given, and fixed_weights holds elements of "
                "it, too; give one of the two.",
            )

    def extended(self, basis: Basis | Callable[[Any], Basis]) -> Basis | Callable[[Any], Basis]:
        """G with the further columns; of a function of W, a function of the longer W."""
        if isinstance(basis, Basis):
            return self._extended(basis)

        def follow(weights: Weights | None) -> Basis:
            return self._extended(basis(None if weights is None else self.plain(weights)))

        return follow

    def _extended(self, basis: Basis) -> Basis:
        own = basis.matrix[..., self.rows]
        more = jnp.matmul(own, as_floats(self.fractions), precision="highest")
        columns = tuple(
            Column(ColumnKind.CUSTOM, f"known composition of phase {p}") for p in self.phases
        )
        return Basis(jnp.concatenate([basis.matrix, more], -1), basis.columns + columns)

    def fixed(
        self, fixed_weights: Float[np.ndarray, "column phase"]
    ) -> Float[np.ndarray, "longer phase"]:
        """Fixed entries of the longer W, NaN where free."""
        n_phases = fixed_weights.shape[1]
        held = np.array(fixed_weights, float)
        held[np.ix_(self.rows, self.phases)] = 0.0
        more = np.zeros((len(self.phases), n_phases))
        more[np.arange(len(self.phases)), self.phases] = np.nan
        return np.concatenate([held, more])

    def plain(self, weights: Float[Array, "longer phase"]) -> Weights:
        """W of G without the further columns."""
        more = jnp.matmul(as_floats(self.fractions), weights[self.n_columns :], precision="highest")
        return weights[: self.n_columns].at[self.rows].add(more)

    def started(self, start: GivenStart) -> GivenStart:
        """The caller's start with the longer W."""
        plain = np.array(start.weights, float)
        check(
            plain.shape[0] == self.n_columns,
            f"The start's W has shape {plain.shape}; G asks for {self.n_columns} columns.",
        )
        more = np.zeros((len(self.phases), plain.shape[1]))
        for i, p in enumerate(self.phases):
            more[i, p] = plain[self.rows, p].sum()
            plain[self.rows, p] = 0.0
        return GivenStart(np.concatenate([plain, more]), start.abundances)

    def restored(self, fit: Factorisation) -> Factorisation:
        """The fit in terms of G without the further columns, whose entries count as fixed."""
        problem, n = fit.problem, self.n_columns
        weights = self.plain(fit.weights)
        mask = np.zeros((n, weights.shape[1]), bool)
        if problem.fixed_weights is not None:
            mask = np.array(problem.fixed_weights.mask[:n])
        mask[np.ix_(self.rows, self.phases)] = True
        basis = Basis(problem.basis.matrix[..., :n], problem.basis.columns[:n])
        held = Fixed(on_device(mask), as_floats(np.where(mask, np.asarray(weights), 0.0)))
        plain = Problem(
            problem.counts,
            basis,
            problem.constraint,
            problem.regulariser,
            held,
            problem.fixed_abundances,
        )
        return dataclasses.replace(fit, weights=weights, problem=plain)


def known_phases(
    compositions: Mapping[int | str, KnownComposition],
    model: AnyModel,
    n_phases: int,
    names: Sequence[str] | None,
) -> KnownPhases:
    """The known compositions of phases given by number (from 0) or by name.

    Raises `InputError` for a phase or an element that there is not.
    """
    check_mapping(compositions, "compositions", '{0: "MgSiO3"}')
    rows = np.flatnonzero([column.in_composition for column in model.columns])
    phases, fractions = [], []
    for key, amounts in compositions.items():
        phases.append(_place(key, n_phases, names, "A composition is"))
        fractions.append(atomic_fractions(model, amounts, f"composition of {_named(key)}"))
    check(len(set(phases)) == len(phases), "A phase has two compositions; give one.")
    keys = tuple(compositions)
    return KnownPhases(np.array(phases), keys, np.stack(fractions, 1), rows, len(model.columns))


def absent_entries(
    absent: Mapping[int | str, str | Sequence[str]],
    model: AnyModel,
    n_phases: int,
    names: Sequence[str] | None,
) -> Bool[np.ndarray, "column phase"]:
    """True for the entries of W of elements that phases, by number (from 0) or name, have not.

    Raises `InputError` for a phase or an element that there is not.
    """
    check_mapping(absent, "absent", '{1: "Si,Ca"}')
    numbers = np.array([column.atomic_number or 0 for column in model.columns])
    own = np.array([column.kind is ColumnKind.ELEMENT for column in model.columns])
    out = np.zeros((len(own), n_phases), bool)
    for key, listed in absent.items():
        place = _place(key, n_phases, names, "Absent elements are")
        check(
            isinstance(listed, str | list | tuple) and len(listed) > 0,
            f'The elements absent from {_named(key)} are {listed!r}; give some, such as "Si,Ca".',
        )
        for element in parse_elements(listed):
            rows = own & (numbers == element.atomic_number)
            check(
                bool(rows.any()),
                f"{element.symbol} is said to be absent from {_named(key)}, but the model has no "
                f"{element.symbol} among its elements; leave it out.",
            )
            out[rows, place] = True
    return out


def check_mapping(given: Any, name: str, example: str) -> None:
    """Raise `InputError` for what is no mapping from phases."""
    check(
        isinstance(given, Mapping),
        f"{name} is a {type(given).__name__}; give a mapping from phases to what is known of them, "
        f"such as {name}={example}.",
    )


def _named(key: Any) -> str:
    """A phase by what the caller calls it."""
    return key if isinstance(key, str) else f"phase {key}"


def _place(key: Any, n_phases: int, names: Sequence[str] | None, what: str) -> int:
    """Which phase a number or a name means."""
    at = list(names).index(key) if isinstance(key, str) and names and key in names else key
    check(
        isinstance(at, Integral) and not isinstance(at, bool) and 0 <= int(at) < n_phases,
        f"{what} given for the phase {key!r}; give its number, from 0 to {n_phases - 1}, or its "
        "name in phase_names.",
    )
    return int(at)


def atomic_fractions(
    model: AnyModel, amounts: KnownComposition, what: str = "composition"
) -> Float[np.ndarray, " element"]:
    """Atomic fractions in the order of a model's elements.

    Raises `InputError` for an element that the model has not.
    """
    if isinstance(amounts, str):
        composition = Composition.from_formula(amounts)
    elif isinstance(amounts, Composition):
        composition = amounts
    else:
        check(
            isinstance(amounts, Mapping),
            f'The {what} is {amounts!r}; give a formula such as "MgSiO3", or atoms of each element '
            'such as {"Mg": 1, "Si": 1, "O": 3}.',
        )
        composition = Composition.from_atomic(dict(amounts))
    symbols = [element.symbol for element in model.elements]
    own = np.zeros(len(symbols))
    for element, share in zip(composition.elements, composition.atomic_fractions, strict=True):
        check(
            element.symbol in symbols,
            f"The {what} holds {element.symbol}, which the model has not among its elements; add "
            "it there.",
        )
        own[symbols.index(element.symbol)] = share
    return own


def nan_where_free(fixed_weights: Any, shape: tuple[int, int]) -> Float[np.ndarray, "column phase"]:
    """Fixed entries as an array of their own. Raises `InputError` for one of another shape."""
    if fixed_weights is None:
        return np.full(shape, np.nan)
    if isinstance(fixed_weights, Fixed):
        return np.where(fixed_weights.mask, np.asarray(fixed_weights.values), np.nan)
    held = np.array(fixed_weights, float)
    check(held.shape == shape, f"fixed_weights has shape {held.shape}; it must be {shape}.")
    return held


def wholly_fixed(
    fixed_weights: Any, rows: Int[np.ndarray, " element"], shape: tuple[int, int]
) -> Bool[np.ndarray, " phase"]:
    """Phases all of whose elements are held, some of them above zero."""
    own = nan_where_free(fixed_weights, shape)[rows]
    return np.asarray(~np.isnan(own).any(0) & (np.nan_to_num(own) > 0).any(0))
