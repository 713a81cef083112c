"""Differentiable formulas: what a spectrum looks like on the detector."""

from ._absorption import absorption_depth as absorption_depth
from ._absorption import absorption_factor as absorption_factor
from ._acquisition import Acquisition as Acquisition
from ._acquisition import EnergyAxis as EnergyAxis
from ._acquisition import take_off_angle as take_off_angle
from ._bremsstrahlung import AbstractBremsstrahlung as AbstractBremsstrahlung
from ._bremsstrahlung import LifshinBremsstrahlung as LifshinBremsstrahlung
from ._correction import CorrectedBremsstrahlung as CorrectedBremsstrahlung
from ._correction import CorrectedEfficiency as CorrectedEfficiency
from ._correction import SmoothCorrection as SmoothCorrection
from ._detector import Detector as Detector
from ._efficiency import AbstractEfficiency as AbstractEfficiency
from ._efficiency import LayeredEfficiency as LayeredEfficiency
from ._efficiency import MeasuredEfficiency as MeasuredEfficiency
from ._efficiency import detector_window as detector_window
from ._frozen import Frozen as Frozen
from ._layers import Layer as Layer
from ._profiles import line_profiles as line_profiles
from ._profiles import line_spectra as line_spectra
from ._resolution import Resolution as Resolution
from ._response import IncompleteCharge as IncompleteCharge
from ._response import PileUp as PileUp
from ._response import Response as Response
from ._response import SiliconEscape as SiliconEscape
from ._scalars import Curve as Curve
from ._scalars import Number as Number
