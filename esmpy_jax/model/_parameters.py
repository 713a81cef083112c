"""The physical numbers behind a model, with where each came from."""

from typing import Literal, NamedTuple

from ..physics import Number

Source = Literal["given", "read from the file", "default"]


class Parameter(NamedTuple):
    """A physical parameter of a model.

    - `value`: a number, words, or `None` where it is not known.
    - `unit`: of the number; empty for pure numbers and words.
    - `source`: "given", "read from the file" or "default".
    """

    value: float | str | None
    unit: str
    source: str


def resolve(given: Number | None, found: float | None) -> tuple[float | None, Source]:
    """What the user gave, or else what the file holds, or else nothing; and which it was."""
    if given is not None:
        return float(given), "given"
    if found is not None:
        return float(found), "read from the file"
    return None, "default"
