"""Ground truth kept in a file's metadata or, for formats without room for it, beside the file."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..inference import GroundTruth
from ._signals import lookup, text

#: Node of the metadata that holds the truth of a simulated image.
NODE = "Simulation"


def beside(path: pathlib.Path) -> pathlib.Path:
    """Where the truth of a file without room for it is kept."""
    return path.with_suffix(".truth.npz")


def truth_arrays(truth: GroundTruth) -> dict[str, Any]:
    return {
        "abundance": np.asarray(truth.abundance),
        "spectra": np.asarray(truth.spectra),
        "composition": np.asarray(truth.composition),
        "element_symbols": list(truth.element_symbols),
        "phase_names": list(truth.phase_names),
    }


def read_truth(
    metadata: Mapping[str, Any], path: pathlib.Path, scan_shape: tuple[int, int], n_channels: int
) -> tuple[GroundTruth | None, list[str]]:
    """The truth that belongs to a file, and a note where there is one that does not fit."""
    node = lookup(metadata, f"{NODE}.truth")
    notes = []
    if node is None and path.suffix.lower() == ".rpl" and beside(path).is_file():
        try:
            with np.load(beside(path), allow_pickle=False) as kept:
                node = dict(kept)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None, [f"{beside(path).name} cannot be read; the image has no ground truth"]
        notes.append(f"the ground truth was read from {beside(path).name}")
    if not isinstance(node, Mapping):
        return None, []
    try:
        truth = GroundTruth(
            abundance=np.asarray(node["abundance"], float),
            spectra=np.asarray(node["spectra"], float),
            composition=np.asarray(node["composition"], float),
            element_symbols=tuple(text(s) for s in node["element_symbols"]),
            phase_names=tuple(text(s) for s in node["phase_names"]),
        )
    except (KeyError, ValueError, TypeError):
        return None, ["the ground truth in the file is incomplete and was left out"]
    if truth.abundance.shape[1:] != scan_shape or truth.spectra.shape[0] != n_channels:
        return None, ["the ground truth in the file has another shape and was left out"]
    return truth, notes
