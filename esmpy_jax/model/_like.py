"""`ModelLike`: what fits and refinements ask of a model, of one detector or of several."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int

from .._basis import Basis, Column
from .._types import Endmembers, Scalar, Weights
from ..atomic import Element
from ..physics import AnyEnergyAxis
from ._parameters import Parameter

if TYPE_CHECKING:
    from ._model import EDSModel


@runtime_checkable
class ModelLike(Protocol):
    """Physical parameters, and the basis G that follows from them.

    An `EDSModel` of one detector, or a `JointModel` of several.
    """

    @property
    def energy_axis(self) -> AnyEnergyAxis:
        """Of the channels of G."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of G."""
        ...

    @property
    def elements(self) -> tuple[Element, ...]:
        """Of the sample, in the order of their rows of W that are atomic fractions."""
        ...

    @property
    def atomic_weights(self) -> Float[np.ndarray, " element"]:
        """Of `elements`, in g/mol."""
        ...

    @property
    def mass_per_atom(self) -> Float[np.ndarray, " element"]:
        """Of `elements` in g/mol, with the oxygen that they hold unseen."""
        ...

    @property
    def beam_energy(self) -> float:
        """In keV."""
        ...

    @property
    def mass_thickness(self) -> Scalar | None:
        """Of the sample in g/cm²; `None` without self-absorption."""
        ...

    @property
    def depends_on_phase(self) -> bool:
        """Whether G depends on each phase's composition: with self-absorption it does."""
        ...

    @property
    def parts(self) -> "tuple[EDSModel, ...]":
        """The model of each detector."""
        ...

    @property
    def part_columns(self) -> tuple[Int[np.ndarray, " own"], ...]:
        """Which columns of G each detector has, in the order of its own."""
        ...

    def basis(self, weights: Weights | None = None) -> Basis:
        """G, at these weights where it depends on them; see `EDSModel.basis`."""
        ...

    def endmembers(self, weights: Weights) -> Endmembers:
        """D = G W with the G of these weights."""
        ...

    def mass_fractions(self, weights: Weights) -> Float[Array, "element phase"]:
        """Mass fractions of each phase, from its rows of W."""
        ...

    def parameters(self) -> dict[str, Parameter]:
        """Every physical parameter by name, with its value now, its unit and its source."""
        ...

    def adjustables(self) -> dict[str, Any]:
        """Every parameter that can be refined, by name; see `Adjustable`."""
        ...

    def named(self, name: str, detector: int) -> str:
        """The name, in the model, of a parameter of a detector, these numbered from 0."""
        ...

    def own_names(self, names: Sequence[str], detector: int) -> tuple[str, ...]:
        """Those of the names that are of a detector, as its own model knows them."""
        ...

    def meant(self, name: str) -> tuple[str, ...]:
        """The parameters that a name stands for: without a detector, those of each one."""
        ...

    def with_parts(self, parts: "Sequence[EDSModel]") -> "ModelLike":
        """With other models of the detectors, the sample staying as it is."""
        ...

    def with_line_groups(self, *groups: str) -> "ModelLike":
        """With corrections of further groups of lines, such as "Mg K-M" or "Hf M".

        Raises `InputError` for a group without a line in the model.
        """
        ...

    def with_sources(self, sources: Mapping[str, str]) -> "ModelLike":
        """With another account of where some of the parameters come from."""
        ...
