"""What the texts of options mean ("Fe:3", "0.9,20"), and what of them is refused."""

import math
from collections.abc import Sequence
from typing import Literal

from .._checks import check


def words(text: str | None) -> list[str]:
    """ "O, Mg,Si" -> ["O", "Mg", "Si"]."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers(text: str | None, names: Sequence[str], flag: str, *, whole: bool = False):
    """ "0.9,20" -> (0.9, 20.0); `None` stays `None`. Raises `InputError` for anything else."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    try:
        values = tuple(int(part) if whole else float(part) for part in parts)
    except ValueError:
        values = ()
    check(
        len(values) == len(names) and all(math.isfinite(value) for value in values),
        f"{flag} is '{text}'; give {len(names)} {'whole ' if whole else ''}numbers with commas "
        f"between them: {','.join(names)}.",
    )
    return values


def split_energies(text: str) -> dict[str, float]:
    """ "Fe:3,Hf:5" -> {"Fe": 3.0, "Hf": 5.0}."""
    found: dict[str, float] = {}
    for word in words(text):
        name, _, energy = word.partition(":")
        name = name.strip()
        try:
            value = float(energy)
        except ValueError:
            value = math.nan
        check(
            bool(name) and math.isfinite(value),
            f"--split holds '{word}'; give an element and an energy in keV, such as Fe:3.",
        )
        check(name not in found, f"--split names {name} twice; give one energy for it.")
        found[name] = value
    return found


def of_phases(text: str | None, names: Sequence[str], flag: str) -> dict[str, list[str]]:
    """ "1:Mg,2:Si,Ca" -> {"phase 1": ["Mg"], "phase 2": ["Si", "Ca"]}.

    - `names`: of the phases, in the order of their numbers; either means a phase.
    """
    found: dict[str, list[str]] = {}
    last = ""
    for word in words(text):
        phase, colon, what = (part.strip() for part in word.rpartition(":"))
        if not colon and last:
            phase, colon = last, ":"
        numbered = phase.isdecimal() and phase not in names and 1 <= int(phase) <= len(names)
        name = names[int(phase) - 1] if numbered else phase
        check(
            bool(colon and what) and name in names,
            f"{flag} holds '{word}'; give the number of a phase, from 1 to {len(names)}, or its "
            "name in --phase-names, a colon and what is known of it, such as "
            f"{'1:MgSiO3' if 'comp' in flag else '2:Si'}.",
        )
        found.setdefault(name, []).append(what)
        last = name
    return found


def choice(value: str, options: Sequence[str], flag: str) -> str:
    """The value in lower case, one of `options`."""
    found = value.strip().lower()
    check(
        found in options,
        f"{flag} is '{value}'; choose {', '.join(options[:-1])} or {options[-1]}.",
    )
    return found


def at_least(value: float | int, least: float | int, flag: str, what: str) -> None:
    """Raise `InputError` for a number below `least`."""
    check(value >= least, f"{flag} is {value:g}; give {what}.")


def phase_number(text: str) -> int | Literal["auto"]:
    """A whole number of at least 1, or "auto"."""
    if text.strip().lower() == "auto":
        return "auto"
    number = int(text) if text.strip().isdecimal() else 0
    check(number >= 1, f"--phases is {text}; give a whole number of at least 1, or auto.")
    return number
