"""`EDSModel`: from physical parameters to the basis G."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._basis import Basis, Column, ColumnKind
from .._checks import InputError, check
from .._types import Endmembers, Scalar, Weights
from ..atomic import Composition, Element, EmissionLines
from ..physics import (
    AbstractBremsstrahlung,
    Acquisition,
    AnyEnergyAxis,
    Curve,
    Detector,
    EnergyAxis,
    Frozen,
    Number,
    absorption_depth,
    absorption_factor,
)
from ..physics._profiles import LineShapes, gaussian_window
from ._adjustable import Adjustable, adjustables_of, efficiency_names
from ._bound import Oxygen
from ._build import Elements, ModelTables, model_fields
from ._line_data import LineCorrections, LineGroup, check_lines
from ._parameters import Parameter, image_sources

_BARN = 1e-24  # cm²
_CM_PER_NM = 1e-7
_EV_PER_KEV = 1000.0


@runtime_checkable
class ImageLike(Protocol):
    """What a model needs of an image: how it was acquired, not its counts.

    Where it has a `provenance`, as a `SpectrumImage` has, that says what was given and what read.
    """

    @property
    def energy_axis(self) -> AnyEnergyAxis:
        """Energies of the channels, in keV."""
        ...

    @property
    def acquisition(self) -> Acquisition:
        """What is known of the microscope and the detector."""
        ...


class EDSModel(eqx.Module):
    """What each column of G looks like on the detector, from physical parameters.

    Build one with `from_image` or `from_axis`. The array leaves are the physical parameters:
    `energy_axis.offset`, `.gain` and `.quadratic`, `mass_thickness`, `take_off_angle`,
    `detector.resolution.noise_fwhm` and `.fano`, and those of `detector.efficiency` and
    `detector.response`; change them with `equinox.tree_at`, and differentiate `basis` in them.

    The unit of an element's column is the sum over its lines of

    σ [barn] · A(E) · ε(E) · (share of the line in the channel),

    with the cross section σ for producing the photon, the absorption factor A and the detector's
    efficiency ε at the photon's energy E. A bremsstrahlung column is
    b(E) [1/keV] · A(E) · ε(E) · (channel width in eV), broadened where the detector has a response.
    Lines from outside the sample (stray) are not absorbed by it: A = 1. The user's own columns
    enter as they are.

    - `mass_thickness`: in g/cm²; `None` without self-absorption.
    - `take_off_angle`: in degrees; `None` where it is not known.
    - `beam_energy`: in keV.
    - `elements`: of the sample, in the order of their rows of W that are atomic fractions.
    - `columns`: of G, in the order elements, stray, bremsstrahlung, custom.
    - `density`: in g/cm³, by which a thickness was turned into `mass_thickness`.
    """

    energy_axis: EnergyAxis
    detector: Detector
    bremsstrahlung: AbstractBremsstrahlung
    mass_thickness: Scalar | None
    take_off_angle: Scalar | None
    line_corrections: LineCorrections | None
    beam_energy: float = eqx.field(static=True)
    elements: tuple[Element, ...] = eqx.field(static=True)
    columns: tuple[Column, ...] = eqx.field(static=True)
    density: float | None = eqx.field(static=True)
    tables: Frozen[ModelTables] = eqx.field(static=True)
    sources: tuple[tuple[str, str], ...] = eqx.field(static=True)

    @classmethod
    def from_image(
        cls,
        image: ImageLike,
        elements: Elements,
        *,
        stray: Elements = (),
        split: Mapping[str, Number] | None = None,
        columns: Mapping[str, Curve] | None = None,
        detector: Detector | None = None,
        bremsstrahlung: AbstractBremsstrahlung | None = None,
        beam_energy: Number | None = None,
        take_off_angle: Number | None = None,
        thickness: Number | None = None,
        density: Number | None = None,
        reference_composition: Composition | None = None,
        bound_oxygen: Oxygen = False,
        min_cross_section: Number = 1e-27,
        cascades: bool = True,
    ) -> "EDSModel":
        """The model for an image; what is given here goes before what the file says.

        - `elements`: of the sample; one column each, with all its lines in the energy range.
        - `stray`: elements whose X-rays come from elsewhere (grid, column, ion milling); one free
          column for each line family.
        - `split`: for an element an energy in keV below which its lines get a free column of
          their own, because their cross sections are not trusted.
        - `columns`: further columns by label, (channel,) each.
        - `detector`: efficiency and resolution. By default a windowless crystal and the resolution
          of the file, or else 130 eV at Mn Kα.
        - `bremsstrahlung`: the shapes of the continuum.
        - `beam_energy`: in keV. `take_off_angle`: in degrees.
        - `thickness` in nm and `density` in g/cm³: switch self-absorption on.
        - `reference_composition`: for self-absorption where `basis` is given no weights; by
          default equal atomic fractions.
        - `bound_oxygen`: where the energy axis begins above oxygen's line, the oxygen that absorbs
            unseen, in atoms to an atom of each element; `True` for that of the usual oxides. It is
            no part of W nor of the compositions.
        - `min_cross_section`: in cm²; weaker lines are left out. `cascades`: whether vacancies
          handed down from inner shells count.

        Raises `InputError` for what is missing or contradictory.
        """
        axis, *others = image.energy_axis.parts
        check(
            not others,
            f"The image holds the spectra of {1 + len(others)} detectors; build a JointModel, "
            "which has a part for each.",
        )
        fields = model_fields(
            axis,
            image.acquisition,
            image_sources(image),
            elements,
            stray=stray,
            split=split,
            columns=columns,
            detector=detector,
            bremsstrahlung=bremsstrahlung,
            beam_energy=beam_energy,
            take_off_angle=take_off_angle,
            thickness=thickness,
            density=density,
            reference_composition=reference_composition,
            bound_oxygen=bound_oxygen,
            min_cross_section=min_cross_section,
            cascades=cascades,
        )
        return cls(**fields)

    @classmethod
    def from_axis(
        cls,
        energy_axis: EnergyAxis,
        elements: Elements,
        *,
        beam_energy: Number,
        **options: Any,
    ) -> "EDSModel":
        """The model on an energy axis, without an image; `options` are those of `from_image`."""
        fields = model_fields(
            energy_axis,
            Acquisition(),
            dict.fromkeys(image_sources(None), "given"),
            elements,
            beam_energy=beam_energy,
            **options,
        )
        return cls(**fields)

    @property
    def lines(self) -> EmissionLines:
        """Every line that contributes to a column, also from just outside the energy axis."""
        return self.tables.value.lines

    @property
    def line_column(self) -> Int[np.ndarray, " line"]:
        """The column of each of `lines`."""
        return self.tables.value.line_column

    @property
    def atomic_weights(self) -> Float[np.ndarray, " element"]:
        """Of `elements`, in g/mol."""
        return self.tables.value.atomic_weights

    @property
    def mass_per_atom(self) -> Float[np.ndarray, " element"]:
        """In g/mol, of an atom of each of `elements` with the oxygen that it holds unseen."""
        return self.tables.value.mass_per_atom

    @property
    def depends_on_phase(self) -> bool:
        """Whether G depends on each phase's composition: with self-absorption it does."""
        return self.mass_thickness is not None

    @property
    def parts(self) -> "tuple[EDSModel, ...]":
        """The model itself, as that of the only detector."""
        return (self,)

    @property
    def part_columns(self) -> tuple[Int[np.ndarray, " own"], ...]:
        """All columns, of the only detector."""
        return (np.arange(len(self.columns)),)

    def adjustables(self) -> dict[str, Adjustable]:
        """Every parameter that can be refined, by name."""
        return adjustables_of(self)

    def named(self, name: str, detector: int) -> str:
        """The name as it is: there is one detector."""
        return name

    def own_names(self, names: Sequence[str], detector: int) -> tuple[str, ...]:
        """The names as they are: there is one detector."""
        return tuple(names)

    def meant(self, name: str) -> tuple[str, ...]:
        """The parameter of that name."""
        return (name,)

    def with_parts(self, parts: "Sequence[EDSModel]") -> "EDSModel":
        """The model of the only detector."""
        (model,) = parts
        return model

    def with_line_groups(self, *groups: str) -> "EDSModel":
        """The model with corrections of further groups of lines, such as "Mg K-M" or "Hf M".

        Raises `InputError` for a group without a line in the model.
        """
        found = [LineGroup.parse(text) for text in groups]
        check_lines(found, self.lines)
        if not found:
            return self
        corrections = self.line_corrections or LineCorrections.of()
        return dataclasses.replace(self, line_corrections=corrections.extended(found))

    def with_sources(self, sources: Mapping[str, str]) -> "EDSModel":
        """The model with another account of where some of its parameters come from."""
        return dataclasses.replace(self, sources=tuple({**dict(self.sources), **sources}.items()))

    def with_mass_thickness(self, value: Number) -> "EDSModel":
        """The model, with self-absorption already, at another mass-thickness in g/cm²."""
        new = dataclasses.replace(self, mass_thickness=jnp.asarray(value, float))
        return new.with_sources(dict.fromkeys(("mass_thickness", "thickness"), "derived"))

    def lines_in_range(self) -> EmissionLines:
        """The lines whose energy lies on the energy axis, for labels."""
        edges = np.asarray(self.energy_axis.edges)
        energy = self.lines.energy
        return self.lines.select((energy >= edges[0]) & (energy <= edges[-1]))

    def mass_fractions(self, weights: Weights) -> Float[Array, "element phase"]:
        """Mass fractions wᵢ = xᵢ Mᵢ / Σ xⱼ Mⱼ of each phase, from its rows of W.

        Bound oxygen counts with the element that holds it.
        A phase without any element takes the reference composition.
        """
        rows = [i for i, column in enumerate(self.columns) if column.in_composition]
        atoms = jnp.take(weights, jnp.array(rows, int), axis=0)
        reference = jnp.asarray(self.tables.value.reference_composition, float)[:, None]
        atoms = jnp.where(atoms.sum(0, keepdims=True) > 0, atoms, reference)
        mass = atoms * jnp.asarray(self.mass_per_atom, float)[:, None]
        return mass / mass.sum(0, keepdims=True)

    @eqx.filter_jit
    def basis(self, weights: Weights | None = None) -> Basis:
        """G at the model's parameters.

        Without self-absorption its matrix is (channel, column). With it, `weights` (column, phase)
        give each phase's mass fractions and the matrix is (phase, channel, column); without
        `weights` it is that of the reference composition, (channel, column). Compiled once for
        all models that differ in their parameters alone.
        """
        if weights is None or not self.depends_on_phase:
            fractions = self.tables.value.reference_composition * self.mass_per_atom
            fractions = jnp.asarray(fractions / fractions.sum(), float)[:, None]
        else:
            fractions = self.mass_fractions(weights)
        shapes, amplitudes, continua = self._emitted(fractions)
        tables = self.tables.value
        n_columns = len(self.columns) - continua.shape[2] - tables.custom.shape[1]
        member = jnp.asarray(tables.line_column[:, None] == np.arange(n_columns), float)
        # one product for all phases
        mixed = amplitudes.T[:, :, None] * member[:, None, :]
        peaks = shapes.times(mixed.reshape(len(member), -1))
        peaks = jnp.moveaxis(peaks.reshape(shapes.size, -1, n_columns), 1, 0)
        matrix = jax.vmap(self._piled_up)(jnp.concatenate([peaks, continua], axis=2))
        custom = jnp.asarray(tables.custom, float)
        custom = jnp.broadcast_to(custom[None], (len(matrix), *custom.shape))
        matrix = jnp.concatenate([matrix, custom], axis=2)
        if weights is None or not self.depends_on_phase:
            matrix = matrix[0]
        return Basis(matrix, self.columns)

    @eqx.filter_jit
    def endmembers(self, weights: Weights) -> Endmembers:
        """D = G W with the G of these weights: what `basis(weights).endmembers(weights)` gives.

        Without G itself on the way, which costs less where only D is asked for, derivatives above
        all.
        """
        tables = self.tables.value
        shared = not self.depends_on_phase
        fractions = self.mass_fractions(weights)
        shapes, amplitudes, continua = self._emitted(fractions[:, :1] if shared else fractions)
        n_custom, n_shapes = tables.custom.shape[1], continua.shape[2]
        n_lines = len(self.columns) - n_shapes - n_custom
        of_lines = jnp.take(weights, jnp.asarray(tables.line_column), axis=0) * amplitudes.T
        peaks = shapes.times(of_lines)
        continua = jnp.broadcast_to(continua, (weights.shape[1], *continua.shape[1:]))
        smooth = jnp.einsum(
            "pcs,sp->cp", continua, weights[n_lines : n_lines + n_shapes], precision="highest"
        )
        own = jnp.matmul(
            jnp.asarray(tables.custom, float), weights[n_lines + n_shapes :], precision="highest"
        )
        return self._piled_up(peaks + smooth) + own

    def _emitted(
        self, mass_fractions: Float[Array, "element phase"]
    ) -> tuple[
        LineShapes,
        Float[Array, "phase line"],
        Float[Array, "phase channel shape"],
    ]:
        """Shapes and amplitudes of the lines, and the continuum, of samples of a composition."""
        tables, detector = self.tables.value, self.detector
        tabulated, reach = jnp.asarray(tables.lines.energy, float), tables.reach
        energy, strength = tabulated, jnp.asarray(tables.lines.cross_section / _BARN, float)
        if self.line_corrections is not None:
            factor, shift = self.line_corrections(tables.lines)
            energy, strength = energy + shift, strength * factor
        if detector.response is None:
            fwhm = detector.resolution.fwhm(energy)
            window = gaussian_window(self.energy_axis, energy, fwhm, reach)
            shapes = LineShapes((window,), None, self.energy_axis.size)
        else:
            shapes = detector.response.lines(self.energy_axis, energy, detector.resolution, reach)
        amplitude = strength * detector.efficiency(tabulated)
        mass_thickness, angle, table = self.mass_thickness, self.take_off_angle, tables.attenuation
        if mass_thickness is None:
            return shapes, amplitude[None, :], self._continuum(detector.efficiency)[None]
        if angle is None or table is None:
            raise InputError(
                "The model was built without self-absorption; build it again with thickness, "
                "density and a known take-off angle."
            )
        from_sample = np.array([column.kind is ColumnKind.ELEMENT for column in self.columns])
        of_lines = jnp.asarray(tables.line_attenuation, float)

        def behind(fractions: Float[Array, " element"]):
            """Amplitudes of the lines and the continuum behind one phase."""

            def leaving(attenuation: Float[Array, "element x"]) -> Float[Array, " x"]:
                return absorption_factor(
                    absorption_depth(attenuation, fractions, mass_thickness, angle)
                )

            inside = jnp.asarray(from_sample[tables.line_column])
            continuum = self._continuum(lambda e: detector.efficiency(e) * leaving(table(e)))
            return amplitude * jnp.where(inside, leaving(of_lines), 1.0), continuum

        return shapes, *jax.vmap(behind, in_axes=1)(mass_fractions)

    def _continuum(
        self, counted: Callable[[Float[Array, " x"]], Float[Array, " x"]]
    ) -> Float[Array, "channel shape"]:
        """The bremsstrahlung on the detector; `counted`: the share of the photons of an energy."""
        axis, detector = self.energy_axis, self.detector

        def spectrum(energy: Float[Array, " x"]) -> Float[Array, "x shape"]:
            return self.bremsstrahlung(energy, self.beam_energy) * counted(energy)[:, None]

        if detector.response is None:
            per_kev = spectrum(axis.centres)
        else:
            reach = self.tables.value.reach
            per_kev = detector.response.continuum(axis, detector.resolution, spectrum, reach)
        return per_kev * (_EV_PER_KEV * axis.widths)[:, None]

    def _piled_up(self, physical: Float[Array, "channel column"]) -> Float[Array, "channel column"]:
        """With sum peaks, where the detector has them."""
        response = self.detector.response
        if response is None or response.pile_up is None:
            return physical
        return response.pile_up(physical, self.energy_axis)

    def parameters(self) -> dict[str, Parameter]:
        """Every physical parameter by name, with its value now, its unit and its source.

        The source tells where the value was found when the model was built.
        """
        given: dict[str, tuple[float | str | None, str]] = {
            "beam_energy": (self.beam_energy, "keV"),
            "efficiency": (self.detector.efficiency.description, ""),
            "take_off_angle": (None, "°"),
            "mass_thickness": (0.0, "g/cm²"),
        }
        for name, found in self.adjustables().items():
            given[name] = (float(found.of(self)), found.unit)
        if self.mass_thickness is not None and self.density is not None:
            given["thickness"] = (float(self.mass_thickness) / self.density / _CM_PER_NM, "nm")
            given["density"] = (self.density, "g/cm³")
        bound = self.tables.value.bound_oxygen
        if bound.any():
            held = zip(self.elements, bound, strict=True)
            words = ", ".join(f"{x:g} for {e.symbol}" for e, x in held if x > 0)
            given["bound_oxygen"] = (words, "atoms")
        sources = dict.fromkeys(efficiency_names(self), dict(self.sources)["efficiency"])
        sources |= dict(self.sources)
        return {name: Parameter(*v, sources.get(name, "given")) for name, v in given.items()}
