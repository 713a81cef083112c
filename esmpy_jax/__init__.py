"""Phases, abundances and compositions from STEM-EDXS spectrum images, in JAX."""
