"""Ready-made samples: the phases of a high-pressure mineral assemblage, and the demo image."""

import jax
from jaxtyping import Array, Key

from ..inference import SpectrumImage
from ..model import EDSModel
from ..physics import EnergyAxis, Number
from ._phantoms import spheres
from ._phases import Phase
from ._simulate import simulate

_STRAY = {"Cu": 0.05}  # the grid
_MINERAL_ELEMENTS = ("O", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Nd", "Sm", "Lu", "Hf")


def mineral_phases() -> tuple[Phase, Phase, Phase]:
    """Bridgmanite, ferropericlase and Ca-perovskite (davemaoite) of the lower mantle, with stray
    Cu from the grid.

    At% as EDX finds them in a lamella of such minerals synthesised at high pressure, with the
    trace elements of its starting material; they are not stoichiometric.

    Densities at ambient pressure, in g/cm³, from the cell of the end member and the substitution:
    4.3 for bridgmanite (MgSiO3 4.11 with V = 162.4 Å³, Horiuchi et al., Am. Mineral. 72 (1987)
    357; heavier with Fe, Ca and Hf), 4.0 for ferropericlase of Fe/(Mg + Fe) = 0.17 (a between
    4.21 Å of MgO and 4.31 Å of FeO), 4.3 for Ca-perovskite (CaSiO3 4.23 with V = 45.6 Å³, Shim
    et al., Phys. Earth Planet. Inter. 120 (2000) 327; heavier with rare earths).

    The continuum is 0.30, 0.27 and 0.33 of the counts in the lines: realistic in size, and
    chosen, not measured.
    """
    return (
        Phase(
            "bridgmanite",
            {
                "O": 43.6,
                "Mg": 24.5,
                "Si": 21.9,
                "Fe": 3.5,
                "Ca": 3.1,
                "Al": 2.4,
                "Hf": 1.0,
            },
            density=4.3,
            bremsstrahlung=0.30,
            stray=_STRAY,
        ),
        Phase(
            "ferropericlase",
            {"Mg": 52.2, "O": 37.4, "Fe": 10.4},
            density=4.0,
            bremsstrahlung=0.27,
            stray=_STRAY,
        ),
        Phase(
            "Ca-perovskite",
            {
                "O": 57.2,
                "Ca": 18.8,
                "Si": 17.3,
                "Mg": 2.0,
                "Fe": 1.8,
                "Al": 1.0,
                "Sm": 0.7,
                "Lu": 0.6,
                "Nd": 0.6,
                "Ti": 0.4,
            },
            density=4.3,
            bremsstrahlung=0.33,
            stray=_STRAY,
        ),
    )


def demo_model(*, thickness: Number | None = 100.0) -> EDSModel:
    """The model of the demo image: 200 keV, 1980 channels of 10 eV from 0.2 keV, take-off 22°.

    `thickness` in nm at 4.2 g/cm³ gives self-absorption; `None` leaves it out.
    """
    absorbing = {} if thickness is None else {"thickness": thickness, "density": 4.2}
    return EDSModel.from_axis(
        EnergyAxis(0.2, 0.01, 1980),
        _MINERAL_ELEMENTS,
        beam_energy=200.0,
        stray=tuple(_STRAY),
        take_off_angle=22.0,
        **absorbing,
    )


def demo_image(
    key: Key[Array, ""],
    *,
    counts_per_pixel: Number = 18.0,
    shape: tuple[int, int] = (128, 128),
    foil_thickness: Number | None = None,
    model: EDSModel | None = None,
) -> SpectrumImage:
    """A particle of ferropericlase and one of Ca-perovskite in bridgmanite, `mineral_phases()`.

    The scene and the counts follow from the key: spheres of a radius of 25 pixels in 128 (in
    proportion for other shapes), in a foil as thick as their diameter, so that a particle is pure
    in its middle; `foil_thickness` in pixels changes that (100 for the harder scene of
    [`spheres`][esmpy_jax.simulate.spheres]). Pixels are 4 nm.

    **Arguments:**

    - `counts_per_pixel`: the mean; 18 is a scan of seconds, 293 one of minutes.
    - `model`: instead of `demo_model()`.
    """
    radius = 25.0 * min(shape) / 128
    foil = 2 * radius if foil_thickness is None else foil_thickness
    scene, photons = jax.random.split(key)
    maps = spheres(shape, key=scene, radius=radius, count=(1, 1), foil_thickness=foil)
    return simulate(
        demo_model() if model is None else model,
        mineral_phases(),
        maps,
        counts_per_pixel,
        key=photons,
        pixel_size=(4.0, 4.0),
        pixel_unit="nm",
        title="simulated minerals",
    )
