"""Tables that ride along with a model without being parameters of it."""

import hashlib
from typing import Generic, TypeVar

import jax.core
import numpy as np

T = TypeVar("T")


class Frozen(Generic[T]):
    """A PyTree of constants, for a static field: JAX sees no leaves in it.

    Tabulated constants held this way are neither traced nor differentiated, so the array leaves of
    a model are its physical parameters and nothing else. Two are equal when their contents are, so
    that equal models share one compilation.

    Raises `ValueError` while traced: what is frozen must be known.
    """

    __slots__ = ("_fingerprint", "value")

    def __init__(self, value: T):
        leaves, structure = jax.tree.flatten(value)
        digest = hashlib.sha256(repr(structure).encode())
        for leaf in leaves:
            if isinstance(leaf, jax.core.Tracer):
                raise ValueError("A table cannot be frozen while it is traced.")
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        self.value = value
        self._fingerprint = digest.hexdigest()

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._fingerprint == other._fingerprint

    def __repr__(self) -> str:
        return f"Frozen({type(self.value).__name__})"
