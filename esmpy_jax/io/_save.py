"""`save_image`: a SpectrumImage as a file that HyperSpy and others open."""

import importlib
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from .._checks import InputError, check
from ..inference import SpectrumImage
from ._metadata import FIELDS
from ._readers import sentence
from ._truth import NODE, beside, truth_arrays

_WRITERS = {".hspy": "rsciio.hspy", ".zspy": "rsciio.zspy", ".rpl": "rsciio.ripple"}
#: Counts per block while writing.
_BLOCK = 2**24


def save_image(
    image: SpectrumImage, path: str | os.PathLike, *, overwrite: bool = False
) -> pathlib.Path:
    """Write an image as `.hspy`, `.zspy` or `.rpl` (with its `.raw`); returns the path.

    Counts are written as integers, block by block for `.hspy` and `.zspy`, with the energy axis,
    size and place of the pixels, what is known of the acquisition and the ground truth, so that
    `load` gives the same image again. `.rpl` has room for the beam energy, the angles (but not the
    second tilt), the live time and the resolution only; the ground truth goes to
    `<name>.truth.npz` beside it. The notes, and where each quantity came from, are not kept:
    `load` reads them from the file.

    Raises `InputError` for another extension, for a folder that does not exist and, unless
    `overwrite` is set, for a file that does.
    """
    path = pathlib.Path(path)
    extension = path.suffix.lower()
    check(
        extension in _WRITERS,
        f"Images cannot be saved as '{path.suffix}'; choose .hspy, .zspy or .rpl for {path.name}.",
    )
    check(
        path.parent.is_dir(),
        f"There is no folder {path.parent} to save {path.name} in; make it first.",
    )
    axis, *others = image.energy_axis.parts
    check(
        not others,
        f"The image holds the spectra of {1 + len(others)} detectors, for which {path.name} has no "
        "room; save image.of_detector(1) and so on as files of their own.",
    )
    check(
        float(axis.quadratic) == 0,
        f"{path.name} has no room for the quadratic term of the energy axis; save the image with "
        "the axis of the instrument and give the term to the model.",
    )
    check(
        overwrite or not path.exists(),
        f"{path} is there already; choose another name or allow it to be overwritten.",
    )
    check(
        image.counts.exposure is None,
        f"The image has a separate exposure for each pixel, which {path.suffix} files cannot hold; "
        "save it without.",
    )
    signal = _signal(image, extension)
    writer = importlib.import_module(_WRITERS[extension])
    options: dict[str, Any] = {} if extension == ".rpl" else {"show_progressbar": False}
    if extension == ".zspy":  # the writer's own chunks of 100 MB would be read whole
        options["chunks"] = _chunks(image)
    try:
        with warnings.catch_warnings():  # about the writer's own dependencies
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            writer.file_writer(str(path), signal, **options)
        if extension == ".rpl":
            beside(path).unlink(missing_ok=True)
            if image.truth is not None:
                np.savez(beside(path), **truth_arrays(image.truth))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {sentence(error)}.") from error
    return path


def _signal(image: SpectrumImage, extension: str) -> dict[str, Any]:
    """The image in the words of RosettaSciIO."""
    ripple = extension == ".rpl"
    return {
        "data": _dense(image, np.int32) if ripple else _lazy_cube(image),
        "axes": _axes(image, ripple),
        "metadata": _metadata(image, ripple),
        "original_metadata": {},
        "attributes": {"_lazy": not ripple},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
        "package_info": {"package": "", "package_version": ""},
    }


def _dense(image: SpectrumImage, largest: type) -> np.ndarray:
    cube = image.counts.to_dense().reshape(image.shape)
    return cube if cube.dtype in (np.uint8, np.uint16) else cube.astype(largest)


def _chunks(image: SpectrumImage) -> tuple[int, int, int]:
    """Square chunks of whole spectra, about a million channels each."""
    ny, nx, channels = image.shape
    side = max(1, int((1e6 / channels) ** 0.5))
    return min(side, ny), min(side, nx), channels


def _lazy_cube(image: SpectrumImage) -> Any:
    """A dask array that makes its rows from the nonzero counts only when they are written."""
    import dask.array as da
    from dask.delayed import delayed

    ny, nx, channels = image.shape
    pixel, channel, value = image.counts.to_coo()
    rows = max(1, int(_BLOCK / (nx * channels)))

    def block(first: int, last: int) -> np.ndarray:
        start, stop = np.searchsorted(pixel, (first * nx, last * nx))
        out = np.zeros((last - first, nx, channels), value.dtype)
        p = pixel[start:stop] - first * nx
        out[p // nx, p % nx, channel[start:stop]] = value[start:stop]
        return out

    parts = []
    for first in range(0, ny, rows):
        last = min(first + rows, ny)
        part = delayed(block, pure=False)(first, last)
        parts.append(da.from_delayed(part, (last - first, nx, channels), value.dtype))
    return da.concatenate(parts, axis=0)


def _axes(image: SpectrumImage, ripple: bool) -> list[dict[str, Any]]:
    """Ripple files carry the energy in eV, which their `ev-per-chan` demands."""
    ny, nx, channels = image.shape
    (axis,) = image.energy_axis.parts
    factor, unit = (1e3, "eV") if ripple else (1.0, "keV")
    names = ("height", "width") if ripple else ("y", "x")
    scan = [
        {
            "_type": "UniformDataAxis",
            "name": name,
            "size": size,
            "offset": float(first),
            "scale": float(step),
            "units": image.pixel_unit,
            "navigate": True,
        }
        for name, size, step, first in zip(
            names, (ny, nx), image.pixel_size, image.origin, strict=True
        )
    ]
    energy = {
        "_type": "UniformDataAxis",
        "name": "Energy",
        "size": channels,
        "offset": float(axis.offset) * factor,
        "scale": float(axis.gain) * factor,
        "units": unit,
        "navigate": False,
    }
    return [*scan, energy]


def _metadata(image: SpectrumImage, ripple: bool) -> dict[str, Any]:
    instrument: dict[str, Any] = {"Detector": {"EDS": {}}, "Stage": {}}
    for field, (_, _, paths) in FIELDS.items():
        value = getattr(image.acquisition, field)
        if value is not None:
            *above, key = paths[0].split(".")
            node = instrument
            for name in above:
                node = node[name]
            node[key] = value
    metadata: dict[str, Any] = {
        "General": {"title": image.title},
        "Signal": {"signal_type": "EDS_TEM", "quantity": "X-rays (Counts)"},
        "Acquisition_instrument": {"TEM": instrument},
    }
    if image.acquisition.elements:
        metadata["Sample"] = {"elements": list(image.acquisition.elements)}
    if image.truth is not None and not ripple:
        metadata[NODE] = {"truth": truth_arrays(image.truth)}
    return metadata
