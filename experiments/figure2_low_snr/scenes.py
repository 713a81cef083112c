"""The simulated images."""

import jax

import esmpy_jax as ej
from esmpy_jax.simulate import demo_image

#: Foil thickness over the spheres' radius, and what it means for the maps.
SCENES = {
    "demo": (2.0, "the demo: the foil is as thick as a particle, whose middle is pure"),
    "thick foil": (4.0, "a foil twice as thick as a particle: never more than half of a pixel"),
}
RADIUS = 25 / 128  # of the image's side


def make_image(
    model: ej.EDSModel, scene: str, dose: float, seed: int, size: int
) -> ej.SpectrumImage:
    """Two spheres of radius 25 in 128 at places that follow from the seed, like the counts."""
    thickness = SCENES[scene][0] * RADIUS * size
    return demo_image(
        jax.random.key(seed),
        counts_per_pixel=dose,
        shape=(size, size),
        foil_thickness=thickness,
        model=model,
    )
