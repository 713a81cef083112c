"""Spectra of the phases and how they change with W and with the physical parameters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._types import Endmembers, Weights
from ..model import AbstractPrior, AnyModel, adjustables, adjusted

#: Directions that are followed together.
_TOGETHER = 8


class Parametrised(eqx.Module):
    """A model as a function of standard coordinates u of all its parameters.

    - `model`: at the start. `names`: of the parameters; `priors`: one for each.

    What is refined is a matter of which coordinates are moved, so that every choice of parameters
    shares the compiled programs.
    """

    model: AnyModel
    priors: tuple[AbstractPrior, ...]
    names: tuple[str, ...] = eqx.field(static=True)

    def at(self, coordinates: Float[Array, " parameter"]) -> AnyModel:
        """The model at u."""
        values = {
            name: prior.value(coordinates[i])
            for i, (name, prior) in enumerate(zip(self.names, self.priors, strict=True))
        }
        return adjusted(self.model, values)


def parametrised(
    model: AnyModel, priors: Mapping[str, AbstractPrior] | None = None
) -> tuple[Parametrised, Float[np.ndarray, " parameter"]]:
    """Every parameter of a model with its prior, the usual one by default, and the model's u.

    Without those at a bound of what they can be, from where no prior leads away.
    """
    given, every, start = priors or {}, {}, []
    for name, parameter in adjustables(model).items():
        value = float(parameter.of(model))
        prior = given.get(name) or parameter.usual_prior(model)
        if prior is None:
            continue
        every[name] = prior
        start.append(float(prior.coordinate(value)))
    return Parametrised(model, tuple(every.values()), tuple(every)), np.array(start)


class Tangents(NamedTuple):
    """D = G W and its derivatives.

    - `endmembers`: D.
    - `weights`: of phase a's spectrum by its own column of W: G, and with self-absorption how the
        spectrum follows its own composition.
    - `parameters`: of phase a's spectrum by each moved coordinate.
    """

    endmembers: Endmembers
    weights: Float[Array, "phase channel column"]
    parameters: Float[Array, "phase channel moved"]


def tangents(
    parametrised: Parametrised,
    coordinates: Float[Array, " parameter"],
    weights: Weights,
    moved: Sequence[int],
) -> Tangents:
    """D and its derivatives at u and W, exact, by forward differentiation.

    - `moved`: the coordinates by which to differentiate.
    """
    endmembers, by_weights = spectra(parametrised, coordinates, weights)
    directions = jnp.eye(len(coordinates), dtype=coordinates.dtype)[np.array(moved, int)]
    none = jnp.zeros((*endmembers.shape[::-1], 0), endmembers.dtype)
    found = [none]
    # a few at a time, of a fixed number, in one program whatever is moved
    for first in range(0, len(moved), _TOGETHER):
        some = directions[first : first + _TOGETHER]
        padded = jnp.pad(some, ((0, _TOGETHER - len(some)), (0, 0)))
        found.append(_along(parametrised, coordinates, weights, padded).T[:, :, : len(some)])
    return Tangents(endmembers, by_weights, jnp.concatenate(found, axis=2))


@eqx.filter_jit
def spectra(
    parametrised: Parametrised, coordinates: Float[Array, " parameter"], weights: Weights
) -> tuple[Endmembers, Float[Array, "phase channel column"]]:
    """D at u and W, and its derivative by each entry of W.

    A phase's spectrum follows its own column of W alone, so that one direction serves all phases.
    """
    n_columns, n_phases = weights.shape
    endmembers, along = jax.linearize(parametrised.at(coordinates).endmembers, weights)
    each = jnp.eye(n_columns, dtype=weights.dtype)
    moved = jax.vmap(along)(jnp.broadcast_to(each[:, :, None], (*each.shape, n_phases)))
    return endmembers, moved.T


@eqx.filter_jit
def _along(parametrised, coordinates, weights, directions):
    """Changes of D along directions of u, (direction, channel, phase)."""

    def endmembers(u):
        return parametrised.at(u).endmembers(weights)

    return jax.vmap(jax.linearize(endmembers, coordinates)[1])(directions)
