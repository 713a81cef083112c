"""Simulated spectrum images whose truth is known: phantoms, phases, Poisson sampling."""

from ..objective import sample_counts as sample_counts
from ._library import demo_image as demo_image
from ._library import demo_model as demo_model
from ._library import mineral_phases as mineral_phases
from ._phantoms import gradient as gradient
from ._phantoms import grain_boundary as grain_boundary
from ._phantoms import random_texture as random_texture
from ._phantoms import spheres as spheres
from ._phantoms import thickness_map as thickness_map
from ._phases import Phase as Phase
from ._phases import phase_weights as phase_weights
from ._simulate import simulate as simulate
