"""Corrections of tabulated line energies and intensities, as parameters of a model."""

from collections.abc import Iterable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._checks import check
from ..atomic import Element, EmissionLines, parse_element


class LineGroup(eqx.Module):
    """Lines of one element whose names begin alike: "Mg K-M", "Hf M", "W L3-N".

    - `element`: that emits them. `start`: what their IUPAC names begin with.
    """

    element: Element = eqx.field(static=True)
    start: str = eqx.field(static=True)

    @classmethod
    def parse(cls, text: str) -> "LineGroup":
        """From "Mg K-M". Raises `InputError` for other text."""
        symbol, _, start = text.strip().partition(" ")
        check(
            bool(start.strip()),
            f"'{text}' names no group of lines; give an element and how its lines begin, such as "
            "'Mg K-M' or 'Hf M'.",
        )
        return cls(parse_element(symbol), start.strip())

    @property
    def label(self) -> str:
        return f"{self.element.symbol} {self.start}"

    def members(self, lines: EmissionLines) -> Bool[np.ndarray, " line"]:
        """Which lines belong to the group."""
        own = lines.atomic_number == self.element.atomic_number
        return own & np.array([name.startswith(self.start) for name in lines.name], bool)


class LineCorrections(eqx.Module):
    """What groups of lines are multiplied by and shifted by.

    Tables are those of free atoms and differ from each other, and from solids, by up to a third in
    the strength of K-M of light elements and a factor of two in that of M lines.

    - `groups`: see `LineGroup`; a line may be in several.
    - `ratio`: by which the intensities are multiplied, (group,).
    - `shift`: of the energies, in keV, (group,). Attenuation and efficiency are taken at the
        tabulated energies.
    """

    groups: tuple[LineGroup, ...]
    ratio: Float[Array, " group"]
    shift: Float[Array, " group"]

    @classmethod
    def of(cls, groups: Sequence[LineGroup] = ()) -> "LineCorrections":
        """Groups that are not corrected yet."""
        return cls(tuple(groups), jnp.ones(len(groups)), jnp.zeros(len(groups)))

    def extended(self, groups: Iterable[LineGroup]) -> "LineCorrections":
        """With further groups, those that are not among them yet, uncorrected."""
        known = {group.label for group in self.groups}
        new = [group for group in groups if group.label not in known]
        return LineCorrections(
            (*self.groups, *new),
            jnp.concatenate([self.ratio, jnp.ones(len(new))]),
            jnp.concatenate([self.shift, jnp.zeros(len(new))]),
        )

    def __call__(self, lines: EmissionLines) -> tuple[Float[Array, " line"], Float[Array, " line"]]:
        """(factor, shift in keV) of each line; 1 and 0 of those in no group."""
        member = np.stack([group.members(lines) for group in self.groups])
        factor = jnp.where(jnp.asarray(member), self.ratio[:, None], 1.0).prod(0)
        return factor, jnp.where(jnp.asarray(member), self.shift[:, None], 0.0).sum(0)


def check_lines(groups: Iterable[LineGroup], *lines: EmissionLines) -> None:
    """Raise `InputError` for a group without a member in any of these."""
    for group in groups:
        own = [some.select(some.atomic_number == group.element.atomic_number) for some in lines]
        known = ", ".join(list(dict.fromkeys(n for some in own for n in some.name))[:6]) or "none"
        check(
            any(bool(group.members(some).any()) for some in lines),
            f"The model has no line {group.label}; of {group.element.symbol} it has {known}.",
        )
