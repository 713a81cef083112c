"""Layers of matter that X-rays cross: windows, contacts, support grids, the detector's crystal."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import xraylib
from jaxtyping import Array, Float

from .._arrays import as_floats
from .._checks import check
from .._types import Scalar
from ..atomic import AttenuationTable, Composition
from ._frozen import Frozen
from ._scalars import Number, as_scalar

_CM_PER_NM = 1e-7
_TABULATED = (0.1, 100.0)  # keV


def _table(composition: Composition, photoelectric: bool) -> AttenuationTable:
    table = AttenuationTable.tabulate(composition.elements, _TABULATED)
    if not photoelectric:
        return table
    # Scattering runs smoothly through the edges, so taking it off keeps both sides of each.
    energy = np.clip(np.exp(np.asarray(table.log_energy, np.float64)), *_TABULATED)
    scattering = [
        [xraylib.CS_Rayl(z, e) + xraylib.CS_Compt(z, e) for e in energy.tolist()]
        for z in (element.atomic_number for element in composition.elements)
    ]
    total = np.exp(np.asarray(table.log_attenuation, np.float64))
    log_absorbed = as_floats(np.log(total - np.array(scattering)))
    return AttenuationTable(table.log_energy, log_absorbed, table.elements)


def _length(nm: float) -> str:
    """A length in the unit that suits it."""
    for size, unit in ((1e6, "mm"), (1e3, "µm")):
        if nm >= size:
            return f"{nm / size:g} {unit}"
    return f"{nm:g} nm"


class Layer(eqx.Module):
    """A homogeneous layer, crossed at right angles.

    - `thickness`: in nm, differentiable.
    - `density`: in g/cm³.
    - `material`: its name.
    - `composition`: its elements.
    """

    thickness: Scalar
    density: float = eqx.field(static=True)
    material: str = eqx.field(static=True)
    composition: Composition = eqx.field(static=True)
    table: Frozen[AttenuationTable] = eqx.field(static=True)

    def __init__(
        self,
        composition: Composition,
        density: Number,
        thickness: Number,
        *,
        material: str,
        photoelectric: bool = False,
    ):
        """`photoelectric`: count photons that are absorbed, not those that are only scattered."""
        check(
            bool(np.isfinite(density)) and density > 0,
            f"The density of the layer of {material} is {density:g} g/cm³; give a positive one.",
        )
        check(
            bool(np.isfinite(thickness)) and thickness >= 0,
            f"The layer of {material} is {thickness:g} nm thick; give zero or a positive number.",
        )
        self.thickness = as_scalar(thickness)
        self.density = float(density)
        self.material = material
        self.composition = composition
        self.table = Frozen(_table(composition, photoelectric))

    @classmethod
    def of(
        cls, formula: str, density: Number, thickness: Number, *, photoelectric: bool = False
    ) -> "Layer":
        """A layer of a compound such as "Si3N4"; density in g/cm³, thickness in nm."""
        composition = Composition.from_formula(formula)
        return cls(composition, density, thickness, material=formula, photoelectric=photoelectric)

    def attenuation(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Mass attenuation coefficient of the layer's material, in cm²/g, at `energy` keV."""
        fractions = jnp.asarray(self.composition.weight_fractions, float)
        return jnp.tensordot(fractions, self.table.value(energy), axes=1, precision="highest")

    def depth(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Optical depth μ ρ t at `energy` keV; exp(-depth) of the photons pass."""
        return self.attenuation(energy) * (self.density * _CM_PER_NM * self.thickness)

    @property
    def description(self) -> str:
        """Thickness and material, as "50 nm Si3N4"."""
        return f"{_length(float(self.thickness))} {self.material}"


def silicon(thickness: Number) -> Layer:
    """Silicon of a crystal, `thickness` nm deep, that counts what it absorbs."""
    return Layer.of("Si", 2.33, thickness, photoelectric=True)
