"""Names of X-ray lines: IUPAC and Siegbahn."""

import re

from .._checks import InputError
from ._elements import parse_element

# Jenkins, Manne, Robin and Senemaud, Pure Appl. Chem. 63 (1991) 735, table VIII.1.
_SIEGBAHN = {
    "K-L3": "Kα1",
    "K-L2": "Kα2",
    "K-L1": "Kα3",
    "K-M3": "Kβ1",
    "K-M2": "Kβ3",
    "K-N3": "Kβ2",
    "K-N2": "Kβ2''",
    "K-M5": "Kβ5",
    "K-M4": "Kβ5''",
    "K-N5": "Kβ4",
    "K-N4": "Kβ4''",
    "L3-M5": "Lα1",
    "L3-M4": "Lα2",
    "L2-M4": "Lβ1",
    "L3-N5": "Lβ2",
    "L1-M3": "Lβ3",
    "L1-M2": "Lβ4",
    "L3-O4,5": "Lβ5",
    "L3-N1": "Lβ6",
    "L3-O1": "Lβ7",
    "L1-M5": "Lβ9",
    "L1-M4": "Lβ10",
    "L3-N4": "Lβ15",
    "L2-M3": "Lβ17",
    "L2-N4": "Lγ1",
    "L1-N2": "Lγ2",
    "L1-N3": "Lγ3",
    "L1-O3": "Lγ4",
    "L1-O2": "Lγ4'",
    "L2-N1": "Lγ5",
    "L2-O4": "Lγ6",
    "L2-O1": "Lγ8",
    "L2-N6": "Lv",
    "L2-M1": "Lη",
    "L3-M1": "Ll",
    "L3-M3": "Ls",
    "L3-M2": "Lt",
    "L3-N6": "Lu",
    "M5-N7": "Mα1",
    "M5-N6": "Mα2",
    "M4-N6": "Mβ",
    "M3-N5": "Mγ",
    "M5-N3": "Mζ1",
    "M4-N2": "Mζ2",
}
# A name without a number means the strongest line of its group; "Ln" is a common spelling of Lη.
_GROUPS = {
    "ka": "K-L3",
    "kb": "K-M3",
    "la": "L3-M5",
    "lb": "L2-M4",
    "lg": "L2-N4",
    "ma": "M5-N7",
    "mz": "M5-N3",
    "mb1": "M4-N6",
    "ln": "L2-M1",
}
_LATIN = {
    "α": "a", "β": "b", "γ": "g", "ζ": "z", "η": "eta",
    "alpha": "a", "beta": "b", "gamma": "g", "zeta": "z", "′": "'", "″": "''",
}  # fmt: skip
_SHELLS = {"K": 1, "L": 3, "M": 5, "N": 7, "O": 7, "P": 5, "Q": 3}  # subshells of each shell
_IUPAC = re.compile(r"(K|L[1-3]|M[1-5])-?([LMNOPQ])([1-7](?:,?[1-7])?)?")


def _key(name: str) -> str:
    """Siegbahn name in plain ASCII, lower case: "Kα1" -> "ka1", "Lη" -> "leta"."""
    key = name.lower()
    for greek, latin in _LATIN.items():
        key = key.replace(greek, latin)
    return re.sub(r"[\s_-]", "", key)


_FROM_SIEGBAHN = _GROUPS | {_key(name): iupac for iupac, name in _SIEGBAHN.items()}


def _from_iupac(name: str) -> str | None:
    """The transition in the form "L3-M5", or "L3-O4,5" and "K-O" for unresolved ones."""
    match = _IUPAC.fullmatch(re.sub(r"[\s_]", "", name.upper()))
    if match is None:
        return None
    inner, shell, numbers = match[1], match[2], (match[3] or "").replace(",", "")
    known = all(int(number) <= _SHELLS[shell] for number in numbers)
    outwards = inner[0] < shell or (inner[0] == shell and inner[1:] < numbers)
    unresolved = not numbers and shell < "O"
    if not known or not outwards or unresolved:
        return None
    return f"{inner}-{shell}{','.join(numbers)}"


def _parse(name: str) -> str | None:
    return _FROM_SIEGBAHN.get(_key(name)) or _from_iupac(name)


def parse_line(name: str) -> str:
    """IUPAC name, e.g. "K-L3", of a line given in IUPAC ("K-L3", "KL3") or Siegbahn notation.

    Siegbahn names are taken in Greek or Latin letters ("Kα1", "Ka1", "K alpha 1"); one without
    its number means the strongest line of the group ("Ka" is K-L3). A leading element is dropped
    ("Fe_Ka"). Raises `InputError` for anything else.
    """
    text = name.strip()
    line = _parse(text)
    if line is None and (match := re.fullmatch(r"([A-Za-z]{1,2})[\s_]+(.+)", text)):
        parse_element(match[1])
        line = _parse(match[2])
    if line is None:
        raise InputError(
            f"'{text}' is not an X-ray line; write it like Ka1, Lb1 or Ma1, or like K-L3."
        )
    return line


def siegbahn(line: str) -> str:
    """The Siegbahn name of a line given in any notation, e.g. "Kα1" for "K-L3".

    Lines that have none keep their IUPAC name. Raises `InputError` as `parse_line`.
    """
    iupac = parse_line(line)
    return _SIEGBAHN.get(iupac, iupac)
