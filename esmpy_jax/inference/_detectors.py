"""`join_detectors`: the images of several detectors of one scan as one."""

import math
from collections.abc import Sequence

import numpy as np

from .._checks import check
from ..objective import AbstractCounts, counts_from_coo, exposure_or_one
from ..physics import StackedAxis
from ..physics._stacked_axis import of_detector
from ._image import Provenance, SpectrumImage


def join_detectors(images: Sequence[SpectrumImage]) -> SpectrumImage:
    """The images that several detectors recorded of the same scan at once, as one image.

    Each pixel holds the channels of the first detector, then those of the second, and so on, on
    axes of their own, for a `JointModel`. What differs between the detectors comes in
    `provenance` with the number of each, such as "elevation of detector 2". The truth of simulated
    images is left out, as the images do not tell how their counts compare.

    - `images`: one for each detector.

    Raises `InputError` for less than two images, and for images that differ in the pixels of the
    scan, the beam energy or the exposure.
    """
    check(
        len(images) >= 2,
        f"{len(images)} image{'s' * (len(images) != 1)} cannot be joined; give one for each of at "
        "least two detectors.",
    )
    first = images[0]
    for number, image in enumerate(images, 1):
        check(
            len(image.acquisitions) == 1,
            f"Image {number} holds the spectra of several detectors already; give the image of "
            "each detector.",
        )
        shape, own = first.counts.scan_shape, image.counts.scan_shape
        check(
            own == shape,
            f"The image of detector {number} has {own[0]} × {own[1]} pixels and that of the first "
            f"one {shape[0]} × {shape[1]}; give images of the same scan.",
        )
        check(
            image.pixel_unit == first.pixel_unit
            and np.allclose(image.pixel_size, first.pixel_size, rtol=1e-4)
            and np.allclose(image.origin, first.origin, rtol=1e-4),
            f"The pixels of detector {number} are of another size or place in the scan than those "
            "of the first one; give images of the same scan.",
        )
        energies = [one.acquisition.beam_energy for one in (image, first)]
        check(
            None in energies or math.isclose(energies[0] or 0, energies[1] or 0, rel_tol=1e-6),
            f"The beam energy is {energies[0]} keV for detector {number} and {energies[1]} keV for "
            "the first one; give images of the same scan.",
        )
        exposures = [np.asarray(exposure_or_one(one.counts)) for one in (image, first)]
        check(
            np.allclose(*exposures, rtol=1e-5),
            f"The exposure of detector {number} is another than that of the first one; give the "
            "dose of each pixel, the same for all, and what differs between detectors as the "
            "sensitivity of a JointModel.",
        )
    return SpectrumImage(
        counts=_stacked([image.counts for image in images]),
        energy_axis=StackedAxis(
            tuple(axis for image in images for axis in image.energy_axis.parts)
        ),
        acquisition=first.acquisition,
        pixel_size=first.pixel_size,
        pixel_unit=first.pixel_unit,
        title=first.title,
        provenance=joined_provenance([image.provenance for image in images]),
        notes=_joined_notes(images),
        origin=first.origin,
        further_acquisitions=tuple(image.acquisition for image in images[1:]),
    )


def joined_provenance(records) -> dict[str, Provenance]:
    """One record; what is not the same in all has the number of the detector in its name."""
    found: dict[str, Provenance] = {}
    for name in dict.fromkeys(name for record in records for name in record):
        own = [record.get(name) for record in records]
        if all(entry == own[0] for entry in own):
            found[name] = records[0][name]
            continue
        for number, entry in enumerate(own, 1):
            if entry is not None:
                found[of_detector(name, number)] = entry
    return found


def _joined_notes(images: Sequence[SpectrumImage]) -> list[str]:
    shared = set.intersection(*(set(image.notes) for image in images))
    found = [
        note if note in shared else f"detector {number}: {note}"
        for number, image in enumerate(images, 1)
        for note in image.notes
    ]
    return list(dict.fromkeys(found))


def _stacked(counts: Sequence[AbstractCounts]) -> AbstractCounts:
    """The channels of all, one after another."""
    triplets = [one.to_coo() for one in counts]
    starts = np.cumsum([0] + [one.n_channels for one in counts])
    exposure = counts[0].exposure
    return counts_from_coo(
        np.concatenate([pixel for pixel, _, _ in triplets]),
        np.concatenate(
            [
                channel.astype(np.int64) + s
                for (_, channel, _), s in zip(triplets, starts, strict=False)
            ]
        ),
        np.concatenate([value for _, _, value in triplets]),
        scan_shape=counts[0].scan_shape,
        n_channels=int(starts[-1]),
        storage="sparse" if any(one.is_sparse for one in counts) else "dense",
        exposure=None if exposure is None else np.asarray(exposure),
    )
