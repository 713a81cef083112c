"""Phases, abundances and compositions from STEM-EDXS spectrum images, in JAX.

Each name is imported when it is first asked for (PEP 562), so that the program's `--help` needs no
JAX, and a fit neither the figures nor the readers of files. What is public stands twice: in the
imports that type checkers see, and in the table that the interpreter uses; a test compares them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import atomic as atomic
    from . import plot as plot
    from . import sharding as sharding
    from . import simulate as simulate
    from ._basis import Basis as Basis
    from ._basis import Column as Column
    from ._basis import ColumnKind as ColumnKind
    from ._checks import InputError as InputError
    from .atomic import Composition as Composition
    from .atomic import Element as Element
    from .inference import Ambiguity as Ambiguity
    from .inference import Choices as Choices
    from .inference import CoarseToFine as CoarseToFine
    from .inference import GroundTruth as GroundTruth
    from .inference import PhaseNumber as PhaseNumber
    from .inference import Provenance as Provenance
    from .inference import Refinement as Refinement
    from .inference import Solution as Solution
    from .inference import SpectrumImage as SpectrumImage
    from .inference import ambiguities as ambiguities
    from .inference import bootstrap as bootstrap
    from .inference import count_phases as count_phases
    from .inference import fit as fit
    from .inference import held_out_losses as held_out_losses
    from .inference import join_detectors as join_detectors
    from .inference import profile as profile
    from .inference import refine as refine
    from .io import FileBatches as FileBatches
    from .io import load as load
    from .io import load_batches as load_batches
    from .io import save_image as save_image
    from .model import EDSModel as EDSModel
    from .model import JointModel as JointModel
    from .model import forward as forward
    from .objective import AbstractConstraint as AbstractConstraint
    from .objective import AbstractCounts as AbstractCounts
    from .objective import AbstractRegulariser as AbstractRegulariser
    from .objective import DenseCounts as DenseCounts
    from .objective import LaplacianSmoothness as LaplacianSmoothness
    from .objective import LogSparsity as LogSparsity
    from .objective import NoRegulariser as NoRegulariser
    from .objective import RegionalSparsity as RegionalSparsity
    from .objective import SparseCounts as SparseCounts
    from .objective import SumOf as SumOf
    from .objective import SumToOneAbundances as SumToOneAbundances
    from .objective import SumToOneShares as SumToOneShares
    from .objective import SumToOneWeights as SumToOneWeights
    from .objective import TotalVariation as TotalVariation
    from .objective import Unconstrained as Unconstrained
    from .objective import as_counts as as_counts
    from .objective import counts_from_coo as counts_from_coo
    from .objective import find_places as find_places
    from .objective import poisson_deviance as poisson_deviance
    from .objective import poisson_nll as poisson_nll
    from .objective import resample as resample
    from .objective import thin as thin
    from .physics import AbstractBremsstrahlung as AbstractBremsstrahlung
    from .physics import AbstractEfficiency as AbstractEfficiency
    from .physics import Acquisition as Acquisition
    from .physics import Detector as Detector
    from .physics import Dose as Dose
    from .physics import EnergyAxis as EnergyAxis
    from .physics import LayeredEfficiency as LayeredEfficiency
    from .physics import LifshinBremsstrahlung as LifshinBremsstrahlung
    from .physics import MeasuredEfficiency as MeasuredEfficiency
    from .physics import Resolution as Resolution
    from .physics import take_off_angle as take_off_angle
    from .solve import RESULTS as RESULTS
    from .solve import AbstractSolver as AbstractSolver
    from .solve import AbstractStart as AbstractStart
    from .solve import AbundanceNewton as AbundanceNewton
    from .solve import AbundanceUpdate as AbundanceUpdate
    from .solve import BatchFactorisation as BatchFactorisation
    from .solve import BinnedStart as BinnedStart
    from .solve import BlockMirrorDescent as BlockMirrorDescent
    from .solve import ExtrapolatedUpdate as ExtrapolatedUpdate
    from .solve import Factorisation as Factorisation
    from .solve import Fixed as Fixed
    from .solve import GivenStart as GivenStart
    from .solve import JointMultiplicativeUpdate as JointMultiplicativeUpdate
    from .solve import MultiplicativeUpdate as MultiplicativeUpdate
    from .solve import NNDSVDStart as NNDSVDStart
    from .solve import ProjectedGradient as ProjectedGradient
    from .solve import QuadraticSurrogate as QuadraticSurrogate
    from .solve import RandomStart as RandomStart
    from .solve import SquaremUpdate as SquaremUpdate
    from .solve import VariableProjectionNewton as VariableProjectionNewton
    from .solve import VertexStart as VertexStart
    from .solve import factorise as factorise
    from .solve import factorise_batches as factorise_batches
    from .solve import solve_batch as solve_batch
    from .solve import update_abundances as update_abundances
    from .solve import update_weights as update_weights

_PACKAGES = ("atomic", "plot", "sharding", "simulate")

_NAMES = {
    "_basis": (
        "Basis",
        "Column",
        "ColumnKind",
    ),
    "_checks": ("InputError",),
    "atomic": (
        "Composition",
        "Element",
    ),
    "inference": (
        "Ambiguity",
        "Choices",
        "CoarseToFine",
        "GroundTruth",
        "PhaseNumber",
        "Provenance",
        "Refinement",
        "Solution",
        "SpectrumImage",
        "ambiguities",
        "bootstrap",
        "count_phases",
        "fit",
        "held_out_losses",
        "join_detectors",
        "profile",
        "refine",
    ),
    "io": (
        "FileBatches",
        "load",
        "load_batches",
        "save_image",
    ),
    "model": (
        "EDSModel",
        "JointModel",
        "forward",
    ),
    "objective": (
        "AbstractConstraint",
        "AbstractCounts",
        "AbstractRegulariser",
        "DenseCounts",
        "LaplacianSmoothness",
        "LogSparsity",
        "NoRegulariser",
        "RegionalSparsity",
        "SparseCounts",
        "SumOf",
        "SumToOneAbundances",
        "SumToOneShares",
        "SumToOneWeights",
        "TotalVariation",
        "Unconstrained",
        "as_counts",
        "counts_from_coo",
        "find_places",
        "poisson_deviance",
        "poisson_nll",
        "resample",
        "thin",
    ),
    "physics": (
        "AbstractBremsstrahlung",
        "AbstractEfficiency",
        "Acquisition",
        "Detector",
        "Dose",
        "EnergyAxis",
        "LayeredEfficiency",
        "LifshinBremsstrahlung",
        "MeasuredEfficiency",
        "Resolution",
        "take_off_angle",
    ),
    "solve": (
        "RESULTS",
        "AbstractSolver",
        "AbstractStart",
        "AbundanceNewton",
        "AbundanceUpdate",
        "BatchFactorisation",
        "BinnedStart",
        "BlockMirrorDescent",
        "ExtrapolatedUpdate",
        "Factorisation",
        "Fixed",
        "GivenStart",
        "JointMultiplicativeUpdate",
        "MultiplicativeUpdate",
        "NNDSVDStart",
        "ProjectedGradient",
        "QuadraticSurrogate",
        "RandomStart",
        "SquaremUpdate",
        "VariableProjectionNewton",
        "VertexStart",
        "factorise",
        "factorise_batches",
        "solve_batch",
        "update_abundances",
        "update_weights",
    ),
}

_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_PACKAGES, *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
