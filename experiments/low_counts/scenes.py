"""The simulated samples: phases, maps and thickness, and what is wrong with the model that fits."""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import numpy as np

import esmpy_jax as ej
from esmpy_jax.inference import profile
from esmpy_jax.physics import Layer, detector_window
from esmpy_jax.simulate import (
    Phase,
    demo_model,
    grain_boundary,
    mineral_phases,
    random_texture,
    simulate,
    spheres,
    thickness_map,
)

BRIDGMANITE, FERROPERICLASE, PEROVSKITE = mineral_phases()
STRAY = BRIDGMANITE.stray
CORUNDUM = Phase("corundum", {"Al": 38, "O": 60, "Fe": 2}, 4.0, 0.3, STRAY)
IRON = Phase("iron", {"Fe": 92, "Si": 5, "O": 3}, 7.5, 0.3, STRAY)
#: Every element of bridgmanite and no other, so that no line tells them apart.
ALIKE = Phase(
    "Fe-rich alike",
    {"O": 45, "Mg": 14, "Si": 18, "Fe": 12, "Ca": 6, "Al": 4, "Hf": 1},
    4.6,
    0.3,
    STRAY,
)

BOUNDARY_WIDTH = 4.0  # pixels
_ANGLE = 70.0  # of the boundary with the x axis, in degrees
_DEAD_LAYER, _FWHM = 100.0, 130.0  # nm of silicon and eV at Mn Kα, as the fit believes

Key = jax.Array
Maps = Callable[[tuple[int, int], Key], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Scene:
    """Phases, the first being the matrix, and their volume fractions from shape and key."""

    about: str
    phases: Sequence[Phase]
    maps: Maps
    dose: float = 18.0  # counts per pixel, where it is not varied
    thickness: bool = False  # varies
    wrong_detector: bool = False  # the simulation's is another than the fit's


def _spheres(radius: float, count: Sequence[int], foil: float) -> Maps:
    """Lengths are those in 128 pixels."""

    def make(shape, key):
        scale = min(shape) / 128
        return np.asarray(
            spheres(shape, key=key, radius=radius * scale, count=count, foil_thickness=foil * scale)
        )

    return make


def _boundary(shape, key):
    return np.asarray(grain_boundary(shape, width=BOUNDARY_WIDTH, peak=0.6, angle=_ANGLE))


def _texture(shape, key):
    return np.asarray(random_texture(shape, key=key, length=8.0 * min(shape) / 128))


def _no_pure_matrix(shape, key):
    maps = _spheres(25.0, (1, 1), 50.0)(shape, key)
    return np.stack([0.8 * maps[0], *(m + 0.1 * maps[0] for m in maps[1:])])


_MINERALS = (BRIDGMANITE, FERROPERICLASE, PEROVSKITE)
_DEMO = _spheres(25.0, (1, 1), 50.0)

SCENES = {
    "spheres": Scene("radius 25, pure in their middle", _MINERALS, _DEMO),
    "thick foil": Scene(
        "radius 25, never more than half of a pixel", _MINERALS, _spheres(25.0, (1, 1), 100.0)
    ),
    "radius 8": Scene("five spheres of each phase", _MINERALS, _spheres(8.0, (5, 5), 16.0)),
    "grain boundary": Scene(
        "a layer of Ca-perovskite, 4 pixels wide and at most 0.6, between two grains",
        _MINERALS,
        _boundary,
        dose=15.0,
    ),
    "textures": Scene("random fields, softmax", _MINERALS, _texture),
    "varying thickness": Scene(
        "the spheres, thickness 0.5 to 1.5", _MINERALS, _DEMO, thickness=True
    ),
    "no pure matrix": Scene(
        "the spheres; the matrix holds 10 % of each particle phase", _MINERALS, _no_pure_matrix
    ),
    "same elements": Scene(
        "the spheres, one of a phase with exactly the elements of the matrix",
        (BRIDGMANITE, ALIKE, PEROVSKITE),
        _DEMO,
    ),
    "2 phases": Scene(
        "two spheres of radius 14", (BRIDGMANITE, FERROPERICLASE), _spheres(14.0, (2,), 28.0)
    ),
    "3 phases": Scene("four spheres of radius 14", _MINERALS, _spheres(14.0, (2, 2), 28.0)),
    "4 phases": Scene(
        "six spheres of radius 14", (*_MINERALS, CORUNDUM), _spheres(14.0, (2, 2, 2), 28.0)
    ),
    "5 phases": Scene(
        "eight spheres of radius 14",
        (*_MINERALS, CORUNDUM, IRON),
        _spheres(14.0, (2, 2, 2, 2), 28.0),
    ),
    "wrong detector": Scene(
        "the spheres; lines 8 % wider and a dead layer 30 % thicker than the fit believes",
        _MINERALS,
        _DEMO,
        wrong_detector=True,
    ),
}


def _with_detector(model: ej.EDSModel, dead_layer: float, fwhm: float) -> ej.EDSModel:
    """Crystal of the windowless detector behind `dead_layer` nm of silicon."""
    efficiency = ej.LayeredEfficiency(
        (Layer.of("Si", 2.33, dead_layer),), detector_window("windowless").active
    )
    detector = ej.Detector(efficiency, ej.Resolution.from_mn_ka(fwhm))
    return eqx.tree_at(lambda m: m.detector, model, detector)


def make_models(scene: Scene) -> tuple[ej.EDSModel, ej.EDSModel]:
    """The model of the simulation and that of the fit; one and the same but for the detector."""
    model = demo_model()
    if not scene.wrong_detector:
        return model, model
    true = _with_detector(model, 1.3 * _DEAD_LAYER, 1.08 * _FWHM)
    return true, _with_detector(model, _DEAD_LAYER, _FWHM)


def make_image(
    scene: Scene, model: ej.EDSModel, dose: float, seed: int, size: int
) -> ej.SpectrumImage:
    """Places and noise follow from the seed; the same seed gives the same places at any dose."""
    place, noise, thick = jax.random.split(jax.random.key(seed), 3)
    shape = (size, size)
    thickness = thickness_map(shape, key=thick, length=24.0 * size / 128)
    return simulate(
        model,
        scene.phases,
        scene.maps(shape, place),
        dose,
        key=noise,
        thickness=thickness if scene.thickness else None,
        pixel_size=(4.0, 4.0),
    )


def boundary_distance(size: int) -> np.ndarray:
    """Distance of each pixel from the grain boundary, in pixels."""
    turn = np.radians(_ANGLE)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    distance = np.cos(turn) * y + np.sin(turn) * x
    return np.where(np.abs(distance) < min(12, size // 4), distance, np.nan)


def peak_ratio(image: ej.SpectrumImage, solution: ej.Solution) -> float:
    """Highest at% of Ca along the profile across the boundary, found over true.

    The true profile is the mean at% of the pixels of each bin.
    """
    truth = image.truth
    row = truth.element_symbols.index("Ca")
    distance = boundary_distance(image.shape[0]) + 0.5
    found = profile(image, solution, distance)
    local = np.tensordot(np.asarray(truth.composition)[row], np.asarray(truth.abundance), axes=1)
    inside = np.isfinite(distance)
    bins = np.floor(distance[inside]).astype(int)
    bins = bins - bins.min()
    true = np.bincount(bins, weights=local[inside]) / np.bincount(bins)
    return float(found["composition"].values[row].max() / (100 * true.max()))
