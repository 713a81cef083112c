"""Figures of a solution's dataset, as matplotlib `Figure` objects; pyplot is never touched."""

from ._bars import plot_composition as plot_composition
from ._bars import plot_convergence as plot_convergence
from ._bars import plot_phase_number as plot_phase_number
from ._columns import plot_basis as plot_basis
from ._labels import strongest_lines as strongest_lines
from ._maps import plot_abundances as plot_abundances
from ._maps import plot_composition_maps as plot_composition_maps
from ._maps import plot_mass_thickness as plot_mass_thickness
from ._maps import scale_bar_length as scale_bar_length
from ._planning import plot_planning as plot_planning
from ._refinement import plot_refinement as plot_refinement
from ._spectra import plot_phase_spectra as plot_phase_spectra
from ._spectra import plot_spectra as plot_spectra
from ._style import PHASE_COLOURS as PHASE_COLOURS
from ._style import phase_colour as phase_colour
