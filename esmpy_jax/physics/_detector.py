"""The detector as a whole."""

import equinox as eqx

from ._efficiency import AbstractEfficiency, detector_window
from ._resolution import Resolution
from ._response import Response


def _windowless() -> AbstractEfficiency:
    return detector_window("windowless")


class Detector(eqx.Module):
    """How photons become counts.

    - `efficiency`: the share of photons counted; by default a windowless crystal of 0.45 mm.
    - `resolution`: the width of a line; by default 130 eV at Mn Kα with a Fano factor of 0.12.
    - `response`: tail, shelf, escape and sum peaks; by default none, which leaves Gaussian lines on
        a continuum that is not broadened.
    """

    efficiency: AbstractEfficiency = eqx.field(default_factory=_windowless)
    resolution: Resolution = eqx.field(default_factory=Resolution.from_mn_ka)
    response: Response | None = None
