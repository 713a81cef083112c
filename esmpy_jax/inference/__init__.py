"""Images, fits and what they mean: where physics and statistics meet."""

from ._choices import Choices as Choices
from ._coarse import CoarseToFine as CoarseToFine
from ._fisher import Information as Information
from ._fisher import information as information
from ._fisher import weights_covariance as weights_covariance
from ._fit import fit as fit
from ._held_out import held_out_losses as held_out_losses
from ._identifiability import Ambiguity as Ambiguity
from ._identifiability import ambiguities as ambiguities
from ._image import GroundTruth as GroundTruth
from ._image import Provenance as Provenance
from ._image import SpectrumImage as SpectrumImage
from ._phase_number import PhaseNumber as PhaseNumber
from ._phase_number import count_phases as count_phases
from ._planning import expected_errors as expected_errors
from ._planning import needed_counts as needed_counts
from ._profile import profile as profile
from ._propagate import propagate as propagate
from ._quantify import phase_composition as phase_composition
from ._quantify import pixel_composition as pixel_composition
from ._refine import FIRST_LOOK as FIRST_LOOK
from ._refine import refine as refine
from ._refinement import RefinedParameter as RefinedParameter
from ._refinement import Refinement as Refinement
from ._solution import Solution as Solution
