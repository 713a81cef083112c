"""`Basis`: the matrix G with its typed columns, where physics and statistics meet."""

import dataclasses
import enum
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from ._checks import check
from ._types import Endmembers, Weights


class ColumnKind(enum.Enum):
    """What a column of G stands for."""

    ELEMENT = "element"
    STRAY = "stray"
    BREMSSTRAHLUNG = "bremsstrahlung"
    CUSTOM = "custom"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of G, described once.

    - `kind`: see [`ColumnKind`][esmpy_jax.ColumnKind].
    - `label`: a short unique name for tables and figures; never parsed.
    - `atomic_number`: of the emitting element; `None` for continua and custom columns.
    - `family`: the line family ("K", "L", "M") when the column holds only one.
    - `energy_range`: (low, high) in keV when the column holds only the lines inside it.
    - `in_composition`: whether the column's weight is the element's atomic fraction.
    - `detector`: the number, from 1, of the only detector that sees the column; `None` where there
      is one detector, or where all see it.
    """

    kind: ColumnKind
    label: str
    atomic_number: int | None = None
    family: str | None = None
    energy_range: tuple[float, float] | None = None
    in_composition: bool = False
    detector: int | None = None


class Basis(eqx.Module):
    """G: the expected counts in each channel per unit of W H, one column per source of X-rays.

    `matrix` has shape (channel, column), or (phase, channel, column) where the columns depend on
    the phase (self-absorption). With it Y = G W H is, phase by phase, `G_a W[:, a] H[a, :]`.
    """

    matrix: Float[Array, "*phase channel column"]
    columns: tuple[Column, ...] = eqx.field(static=True)

    def __check_init__(self):
        if self.matrix.ndim not in (2, 3):
            raise ValueError("Basis.matrix must have 2 or 3 axes: (phase,) channel, column.")
        if self.matrix.shape[-1] != len(self.columns):
            raise ValueError(
                f"Basis.matrix has {self.matrix.shape[-1]} columns, but "
                f"{len(self.columns)} are described."
            )

    @classmethod
    def from_matrix(
        cls,
        matrix: ArrayLike | np.ndarray,
        labels: Sequence[str] | None = None,
        in_composition: Sequence[bool] | None = None,
    ) -> "Basis":
        """A basis from the user's own G; every column counts as composition by default.

        Raises `InputError` when the matrix holds negative or non-finite values.
        """
        values = np.asarray(matrix)
        check(
            values.ndim in (2, 3),
            f"G has {values.ndim} axes; give (channel, column) or (phase, channel, column).",
        )
        check(
            bool(np.isfinite(values).all() and (values >= 0).all()),
            "G holds negative or non-finite values; its columns must be spectra of counts.",
        )
        n = values.shape[-1]
        labels = [f"column {i}" for i in range(n)] if labels is None else list(labels)
        flags = [True] * n if in_composition is None else [bool(f) for f in in_composition]
        check(
            len(labels) == n and len(flags) == n and len(set(labels)) == n,
            f"G has {n} columns; give as many distinct labels and in_composition flags.",
        )
        columns = tuple(
            Column(ColumnKind.CUSTOM, label, in_composition=flag)
            for label, flag in zip(labels, flags, strict=True)
        )
        return cls(jnp.asarray(values, float), columns)

    @property
    def n_channels(self) -> int:
        return self.matrix.shape[-2]

    @property
    def n_columns(self) -> int:
        return self.matrix.shape[-1]

    @property
    def depends_on_phase(self) -> bool:
        return self.matrix.ndim == 3

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(column.label for column in self.columns)

    @property
    def composition_rows(self) -> Bool[np.ndarray, " column"]:
        """Which rows of W are atomic fractions."""
        return np.array([column.in_composition for column in self.columns], bool)

    @property
    def column_sums(self) -> Float[Array, "column phase_or_1"]:
        """Sum of each column over the channels, ready to broadcast against W."""
        if self.depends_on_phase:
            return self.matrix.sum(-2).T
        return self.matrix.sum(-2)[:, None]

    def endmembers(self, weights: Weights) -> Endmembers:
        """D = G W, shape (channel, phase)."""
        if self.depends_on_phase:
            return jnp.einsum("pcj,jp->cp", self.matrix, weights, precision="highest")
        return jnp.matmul(self.matrix, weights, precision="highest")

    def back_project(self, values: Endmembers) -> Weights:
        """Gᵀ M, phase by phase: the adjoint of `endmembers`."""
        if self.depends_on_phase:
            return jnp.einsum("pcj,cp->jp", self.matrix, values, precision="highest")
        return jnp.matmul(self.matrix.T, values, precision="highest")
