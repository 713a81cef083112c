"""Images, fits and what they mean: where physics and statistics meet."""

from ._coarse import CoarseToFine as CoarseToFine
from ._fisher import Information as Information
from ._fisher import information as information
from ._fisher import weights_covariance as weights_covariance
from ._fit import fit as fit
from ._image import GroundTruth as GroundTruth
from ._image import Provenance as Provenance
from ._image import SpectrumImage as SpectrumImage
from ._quantify import phase_composition as phase_composition
from ._quantify import pixel_composition as pixel_composition
from ._solution import Solution as Solution
