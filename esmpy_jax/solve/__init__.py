"""Algorithms that learn W and H from counts and a basis; arrays only."""

from ._abundance_newton import AbundanceNewton as AbundanceNewton
from ._binned import BinnedStart as BinnedStart
from ._binned import choose_factor as choose_factor
from ._binned import upsample as upsample
from ._factorise import factorise as factorise
from ._initialise import AbstractStart as AbstractStart
from ._initialise import GivenStart as GivenStart
from ._initialise import NNDSVDStart as NNDSVDStart
from ._initialise import RandomStart as RandomStart
from ._initialise import mean_weights as mean_weights
from ._mirror_descent import BlockMirrorDescent as BlockMirrorDescent
from ._multiplicative import AbundanceUpdate as AbundanceUpdate
from ._multiplicative import MultiplicativeUpdate as MultiplicativeUpdate
from ._projected_gradient import ProjectedGradient as ProjectedGradient
from ._quadratic_surrogate import QuadraticSurrogate as QuadraticSurrogate
from ._solver import RESULTS as RESULTS
from ._solver import AbstractSolver as AbstractSolver
from ._solver import Factorisation as Factorisation
from ._solver import Problem as Problem
from ._solver import solve as solve
from ._updates import Fixed as Fixed
from ._updates import update_abundances as update_abundances
from ._updates import update_weights as update_weights
from ._variable_projection import VariableProjectionNewton as VariableProjectionNewton
from ._vertices import VertexStart as VertexStart
