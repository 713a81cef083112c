"""How many electrons met a pixel, and so how many atoms per area its counts stand for."""

import math

import equinox as eqx

from .._checks import check
from ._acquisition import Acquisition
from ._scalars import Number

#: Charge of an electron in C (exact in the SI).
ELEMENTARY_CHARGE = 1.602176634e-19
_NM2_PER_BARN = 1e-10
_NEEDED = {
    "beam_current": ("the beam current", "beam_current in nA"),
    "dwell_time": ("the dwell time", "dwell_time in s per pixel"),
    "solid_angle": ("the solid angle", "solid_angle in sr"),
}


class Dose(eqx.Module):
    """What it takes to count atoms: electrons per pixel, and the share of the photons seen.

    - `beam_current` I: in nA.
    - `dwell_time` t: live time of one pixel of exposure one, all frames together, in s.
    - `solid_angle` Ω: of all detectors whose counts were added up, in sr.

    Characteristic X-rays leave in all directions alike. Of N atoms per area, counts to be expected
    are `Nₑ (Ω / 4π) N σ ε A` in each line, with `Nₑ = I t / e`.

    Raises `InputError` for a number that is not positive and finite, or more than 4π sr.
    """

    beam_current: float = eqx.field(static=True, converter=float)
    dwell_time: float = eqx.field(static=True, converter=float)
    solid_angle: float = eqx.field(static=True, converter=float)

    def __check_init__(self):
        Acquisition(
            beam_current=self.beam_current,
            dwell_time=self.dwell_time,
            solid_angle=self.solid_angle,
        )

    @classmethod
    def from_acquisition(
        cls,
        acquisition: Acquisition,
        *,
        beam_current: Number | None = None,
        dwell_time: Number | None = None,
        solid_angle: Number | None = None,
    ) -> "Dose":
        """That of an acquisition; what is given here goes before what it says.

        Raises `InputError`, one sentence, where something is not known. A `live_time` does not
        stand in for the dwell time, since files do not say whether it is that of the whole scan.
        """
        given = {
            "beam_current": beam_current,
            "dwell_time": dwell_time,
            "solid_angle": solid_angle,
        }
        known = {k: getattr(acquisition, k) if v is None else v for k, v in given.items()}
        lacking = [_NEEDED[k] for k, v in known.items() if v is None]
        unused = known["dwell_time"] is None and acquisition.live_time is not None
        check(
            not lacking,
            f"Amounts per area need {_listed([what for what, _ in lacking])}, which "
            f"{'is' if len(lacking) == 1 else 'are'} not known; give "
            f"{_listed([how for _, how in lacking])}"
            + (
                f" (the live time of {acquisition.live_time:g} s may be that of a pixel or of the "
                "whole scan)"
                if unused
                else ""
            )
            + ".",
        )
        return cls(**known)

    @property
    def electrons(self) -> float:
        """Nₑ = I t / e, the electrons that met a pixel while the detector was live."""
        return self.beam_current * 1e-9 * self.dwell_time / ELEMENTARY_CHARGE

    @property
    def abundance_per_area(self) -> float:
        """What H is for one atom per nm²: `Nₑ (Ω / 4π)` times a barn in nm², 10⁻¹⁰.

        G is in barn per atom, so that `N = H W / abundance_per_area` in atoms per nm².
        """
        return self.electrons * self.solid_angle / (4 * math.pi) * _NM2_PER_BARN


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
