"""Images, fits and what they mean: where physics and statistics meet."""

from ._image import GroundTruth as GroundTruth
from ._image import Provenance as Provenance
from ._image import SpectrumImage as SpectrumImage
