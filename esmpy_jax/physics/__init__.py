"""Differentiable formulas: what a spectrum looks like on the detector."""

from ._acquisition import Acquisition as Acquisition
from ._acquisition import EnergyAxis as EnergyAxis
from ._acquisition import take_off_angle as take_off_angle
