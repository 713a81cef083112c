"""Simulated spectrum images whose truth is known: phantoms, phases, Poisson sampling."""

from ._phantoms import gradient as gradient
from ._phantoms import grain_boundary as grain_boundary
from ._phantoms import random_texture as random_texture
from ._phantoms import spheres as spheres
from ._phantoms import thickness_map as thickness_map
from ._sampling import sample_counts as sample_counts
