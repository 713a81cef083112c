"""`JointModel`: several detectors that see the same sample at once."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._arrays import as_floats
from .._basis import Basis, Column, ColumnKind
from .._checks import check
from .._types import Endmembers, Scalar, Weights
from ..atomic import Element
from ..physics import Detector, Number, StackedAxis
from ..physics._stacked_axis import of_detector
from ._adjustable import Adjustable, adjustables_of, adjustables_of_sample, positive
from ._build import Elements
from ._line_data import LineCorrections, LineGroup, check_lines
from ._model import EDSModel, ImageLike
from ._parameters import Parameter

#: Spread of a sensitivity around that of the solid angles, and where these are not known.
_KNOWN, _UNKNOWN = 0.1, 1.0

_SENSITIVITY = "sensitivity"
_OF_SAMPLE = ("beam_energy", "mass_thickness", "thickness", "density", "bound_oxygen")


class JointModel(eqx.Module):
    """The spectra of several detectors of one scan, one after another, with shared W and H.

    With G_d of detector d and its sensitivity s_d, which is relative to the first detector
    (s_1 = 1),

    Y = [Y_1; Y_2; ...] = [s_1 G_1; s_2 G_2; ...] W H.

    The rows of W of the sample's elements are shared. What comes from elsewhere (stray lines) or
    depends on the direction (the continuum) has columns for each detector, which are zero in the
    channels of the others. The sample's mass-thickness and the corrections of lines are shared;
    angle, efficiency, resolution, response and energy axis are each detector's own.

    Build one with `of` or `from_images`.

    - `detectors`: the model of each, without what they share; see `parts` for the whole ones.
    - `sensitivity`: of the detectors after the first; the ratio of solid angles times live times.
    """

    detectors: tuple[EDSModel, ...]
    sensitivity: Float[Array, " later"]
    mass_thickness: Scalar | None
    line_corrections: LineCorrections | None
    sources: tuple[tuple[str, str], ...] = eqx.field(static=True)

    @classmethod
    def of(
        cls, parts: Sequence[EDSModel], sensitivity: Sequence[Number] | None = None
    ) -> "JointModel":
        """The joint model of detectors that each have a model of their own.

        - `parts`: of the same elements, beam energy and sample.
        - `sensitivity`: of each detector after the first, relative to it. Ones stand in for them
            where they are not given; then refine them.

        Raises `InputError` for models that cannot be of one scan.
        """
        _check_parts(parts)
        later = len(parts) - 1
        given = [1.0] * later if sensitivity is None else [float(s) for s in sensitivity]
        check(
            len(given) == later,
            f"{len(given)} sensitivities are given for {len(parts)} detectors; give one for each "
            "after the first, relative to the first.",
        )
        for number, value in enumerate(given, 2):
            check(
                math.isfinite(value) and value > 0,
                f"The sensitivity of detector {number} is {value:g}; give a positive number.",
            )
        source = "default" if sensitivity is None else "given"
        names = [of_detector(_SENSITIVITY, number) for number in range(2, len(parts) + 1)]
        return cls(
            detectors=tuple(map(_bare, parts)),
            sensitivity=as_floats(given),
            mass_thickness=parts[0].mass_thickness,
            line_corrections=None,
            sources=tuple((name, source) for name in names),
        )

    @classmethod
    def from_images(
        cls,
        images: Sequence[ImageLike],
        elements: Elements,
        *,
        sensitivity: Sequence[Number] | None = None,
        detectors: Sequence[Detector] | None = None,
        take_off_angles: Sequence[Number] | None = None,
        **options: Any,
    ) -> "JointModel":
        """The joint model of the images of each detector; see `EDSModel.from_image`.

        - `sensitivity`: as in `of`; by default the ratio of the solid angles, times that of the
            live times, where all images tell them.
        - `detectors`, `take_off_angles` (degrees): one for each image, where files lack them.
        - `options`: of `EDSModel.from_image`, the same for all.

        Raises `InputError` for what is missing or contradictory.
        """
        for what, given in (("detectors", detectors), ("take-off angles", take_off_angles)):
            check(
                given is None or len(given) == len(images),
                f"{0 if given is None else len(given)} {what} are given for {len(images)} images; "
                "give one for each.",
            )
        n = len(images)
        parts = [
            EDSModel.from_image(image, elements, detector=own, take_off_angle=angle, **options)
            for image, own, angle in zip(
                images, detectors or [None] * n, take_off_angles or [None] * n, strict=True
            )
        ]
        if sensitivity is not None:
            return cls.of(parts, sensitivity)
        found = _of_solid_angles(images)
        model = cls.of(parts, found)
        if found is None:
            return model
        return model.with_sources(dict.fromkeys(dict(model.sources), "read from the file"))

    @property
    def depends_on_phase(self) -> bool:
        """Whether G depends on each phase's composition: with self-absorption it does."""
        return self.mass_thickness is not None

    @property
    def parts(self) -> tuple[EDSModel, ...]:
        """The model of each detector, with the sample."""
        return tuple(
            dataclasses.replace(
                one, mass_thickness=self.mass_thickness, line_corrections=self.line_corrections
            )
            for one in self.detectors
        )

    @property
    def energy_axis(self) -> StackedAxis:
        """The channels of all detectors, one detector after the other."""
        return StackedAxis(tuple(one.energy_axis for one in self.detectors))

    @property
    def elements(self) -> tuple[Element, ...]:
        """Of the sample."""
        return self.detectors[0].elements

    @property
    def atomic_weights(self) -> Float[np.ndarray, " element"]:
        """Of `elements`, in g/mol."""
        return self.detectors[0].atomic_weights

    @property
    def mass_per_atom(self) -> Float[np.ndarray, " element"]:
        """Of `elements` in g/mol, with the oxygen that they hold unseen."""
        return self.detectors[0].mass_per_atom

    @property
    def beam_energy(self) -> float:
        """In keV."""
        return self.detectors[0].beam_energy

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of G: those of the sample's elements, then those of each detector."""
        shared = _n_shared(self.detectors[0])
        common = [
            column
            if all(one.columns[j].family == column.family for one in self.detectors)
            else dataclasses.replace(column, family=None)
            for j, column in enumerate(self.detectors[0].columns[:shared])
        ]
        own = [
            dataclasses.replace(column, label=f"{column.label}, detector {i}", detector=i)
            for i, one in enumerate(self.detectors, 1)
            for column in one.columns[shared:]
        ]
        return (*common, *own)

    @property
    def part_columns(self) -> tuple[Int[np.ndarray, " own"], ...]:
        """Which columns of G each detector has, in the order of its own."""
        shared = _n_shared(self.detectors[0])
        found, first = [], shared
        for one in self.detectors:
            last = first + len(one.columns) - shared
            found.append(np.concatenate([np.arange(shared), np.arange(first, last)]))
            first = last
        return tuple(found)

    def _sensitivities(self) -> Float[Array, " detector"]:
        return jnp.concatenate([jnp.ones(1, self.sensitivity.dtype), self.sensitivity])

    def mass_fractions(self, weights: Weights) -> Float[Array, "element phase"]:
        """Mass fractions of each phase, from its rows of W; see `EDSModel.mass_fractions`."""
        return self.parts[0].mass_fractions(weights[self.part_columns[0]])

    @eqx.filter_jit
    def basis(self, weights: Weights | None = None) -> Basis:
        """G, the channels of the detectors one after another; see `EDSModel.basis`."""
        columns, blocks = self.columns, []
        for i, (part, own) in enumerate(zip(self.parts, self.part_columns, strict=True)):
            matrix = part.basis(None if weights is None else weights[own]).matrix
            none = jnp.zeros((*matrix.shape[:-1], len(columns)), matrix.dtype)
            blocks.append(none.at[..., own].set(self._sensitivities()[i] * matrix))
        return Basis(jnp.concatenate(blocks, axis=-2), columns)

    @eqx.filter_jit
    def endmembers(self, weights: Weights) -> Endmembers:
        """D = G W with the G of these weights, without G itself on the way."""
        return jnp.concatenate(
            [
                self._sensitivities()[i] * part.endmembers(weights[own])
                for i, (part, own) in enumerate(zip(self.parts, self.part_columns, strict=True))
            ]
        )

    def adjustables(self) -> dict[str, Adjustable]:
        """Every parameter that can be refined, by name: of each detector, then of the sample."""
        found = {
            of_detector(name, i + 1): one.inside(lambda m, i=i: m.detectors[i])
            for i, part in enumerate(self.detectors)
            for name, one in adjustables_of(part).items()
        }
        for i in range(len(self.sensitivity)):
            name = of_detector(_SENSITIVITY, i + 2)
            spread = _UNKNOWN if dict(self.sources)[name] == "default" else _KNOWN
            found[name] = Adjustable(lambda m: m.sensitivity, "", positive(spread), index=i)
        return found | adjustables_of_sample(self)

    def named(self, name: str, detector: int) -> str:
        """The name with its detector, "noise_fwhm of detector 2"; the sample's as they are."""
        return name if self._of_sample(name) else of_detector(name, detector + 1)

    def own_names(self, names: Sequence[str], detector: int) -> tuple[str, ...]:
        """Those of the names that are of a detector, without it."""
        end = of_detector("", detector + 1)
        return tuple(name.removesuffix(end) for name in names if name.endswith(end))

    def meant(self, name: str) -> tuple[str, ...]:
        """A name without a detector stands for that of each one, unless it is the sample's."""
        numbers = range(len(self.detectors))
        whole = any(name.endswith(of_detector("", i + 1)) for i in numbers)
        if whole or self._of_sample(name):
            return (name,)
        return tuple(self.named(name, i) for i in numbers if i or name != _SENSITIVITY)

    def _of_sample(self, name: str) -> bool:
        return name in _OF_SAMPLE or name.endswith((" ratio", " energy"))

    def with_parts(self, parts: Sequence[EDSModel]) -> "JointModel":
        """With other models of the detectors; what they share stays."""
        return dataclasses.replace(self, detectors=tuple(map(_bare, parts)))

    def with_line_groups(self, *groups: str) -> "JointModel":
        """With corrections of further groups of lines, shared by the detectors.

        Raises `InputError` for a group of which no detector sees a line.
        """
        found = [LineGroup.parse(text) for text in groups]
        check_lines(found, *(one.lines for one in self.detectors))
        if not found:
            return self
        corrections = self.line_corrections or LineCorrections.of()
        return dataclasses.replace(self, line_corrections=corrections.extended(found))

    def with_mass_thickness(self, value: Number) -> "JointModel":
        """The model, with self-absorption already, at another mass-thickness in g/cm²."""
        new = dataclasses.replace(self, mass_thickness=jnp.asarray(value, float))
        return new.with_sources(dict.fromkeys(("mass_thickness", "thickness"), "derived"))

    def with_sources(self, sources: Mapping[str, str]) -> "JointModel":
        """With another account of where some of the parameters come from."""
        return dataclasses.replace(self, sources=tuple({**dict(self.sources), **sources}.items()))

    def parameters(self) -> dict[str, Parameter]:
        """Every physical parameter by name; see `EDSModel.parameters`."""
        found: dict[str, Parameter] = {}
        for i, part in enumerate(self.parts):
            for name, entry in part.parameters().items():
                found.setdefault(self.named(name, i), entry)
        known = self.adjustables()
        for i in range(len(self.sensitivity)):
            name = of_detector(_SENSITIVITY, i + 2)
            found[name] = Parameter(float(known[name].of(self)), "", "given")
        told = dict(self.sources)
        return {n: p._replace(source=told.get(n, p.source)) for n, p in found.items()}


#: A model of one detector or of several: what fits, refinements and figures take. Both have the
#: fields, properties and methods of a `JointModel` but for `detectors` and `sensitivity`.
AnyModel = EDSModel | JointModel


def _bare(part: EDSModel) -> EDSModel:
    """Without what the detectors share."""
    return dataclasses.replace(part, mass_thickness=None, line_corrections=None)


def _n_shared(part: EDSModel) -> int:
    """How many columns are of the sample's elements; they come first."""
    return sum(column.kind is ColumnKind.ELEMENT for column in part.columns)


def _of_solid_angles(images: Sequence[ImageLike]) -> list[float] | None:
    """Solid angles times live times, relative to the first; `None` where one is not known."""
    angles = [image.acquisition.solid_angle for image in images]
    times = [image.acquisition.live_time for image in images]
    if any(angle is None for angle in angles):
        return None
    if any(time is None for time in times):
        times = [1.0] * len(images)
    seen = [(angle or 0.0) * (time or 0.0) for angle, time in zip(angles, times, strict=True)]
    return [one / seen[0] for one in seen[1:]]


def _check_parts(parts: Sequence[EDSModel]) -> None:
    check(
        len(parts) >= 2,
        f"A joint model has a part for each of at least two detectors; {len(parts)} were given.",
    )

    def shared(model: EDSModel):
        return [
            (c.atomic_number, c.energy_range) for c in model.columns if c.kind is ColumnKind.ELEMENT
        ]

    first = parts[0]
    for number, part in enumerate(parts[1:], 2):
        check(
            part.elements == first.elements,
            f"Detector {number} has the elements {_symbols(part)} and the first one "
            f"{_symbols(first)}; give all the same, in the same order.",
        )
        check(
            part.beam_energy == first.beam_energy,
            f"The beam energy is {part.beam_energy:g} keV for detector {number} and "
            f"{first.beam_energy:g} keV for the first one; one beam makes all spectra.",
        )
        check(
            shared(part) == shared(first),
            f"Detector {number} has other elements split, or at another energy, than the first "
            "one; split the same ones, as their rows of W are shared.",
        )
        values = [
            None if one.mass_thickness is None else float(one.mass_thickness)
            for one in (first, part)
        ]
        same = values[0] == values[1] or (
            None not in values and math.isclose(values[0] or 0.0, values[1] or 0.0, rel_tol=1e-5)
        )
        check(
            same,
            f"The mass-thickness is {_or_none(values[1])} for detector {number} and "
            f"{_or_none(values[0])} for the first one; they see one sample, so give all the same "
            "thickness and density, or none.",
        )
        check(
            np.array_equal(part.mass_per_atom, first.mass_per_atom),
            f"Detector {number} has other bound oxygen than the first one; give all the same.",
        )
        mine, theirs = (one.tables.value.reference_composition for one in (part, first))
        check(
            np.array_equal(mine, theirs),
            f"Detector {number} has another reference composition than the first one; give all "
            "the same.",
        )
    check(
        all(part.line_corrections is None for part in parts),
        "A detector's model has corrections of lines, which all detectors share; add them to the "
        "joint model instead.",
    )


def _symbols(model: EDSModel) -> str:
    return ", ".join(element.symbol for element in model.elements)


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g} g/cm²"
