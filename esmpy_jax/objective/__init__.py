"""Counts, likelihood, regularisers and constraints: arrays in, arrays out, no X-rays."""

from ._build import as_counts as as_counts
from ._build import bin_counts as bin_counts
from ._build import counts_from_coo as counts_from_coo
from ._build import relative_to_counts as relative_to_counts
from ._constraints import AbstractConstraint as AbstractConstraint
from ._constraints import SumToOneAbundances as SumToOneAbundances
from ._constraints import SumToOneShares as SumToOneShares
from ._constraints import SumToOneWeights as SumToOneWeights
from ._constraints import Unconstrained as Unconstrained
from ._constraints import positive_root as positive_root
from ._constraints import sum_constrained_root as sum_constrained_root
from ._counts import AbstractCounts as AbstractCounts
from ._counts import pairs as pairs
from ._dense import DenseCounts as DenseCounts
from ._likelihood import exposure_or_one as exposure_or_one
from ._likelihood import pixel_losses as pixel_losses
from ._likelihood import poisson_deviance as poisson_deviance
from ._likelihood import poisson_nll as poisson_nll
from ._regularisers import AbstractRegulariser as AbstractRegulariser
from ._regularisers import LaplacianSmoothness as LaplacianSmoothness
from ._regularisers import LogSparsity as LogSparsity
from ._regularisers import NoRegulariser as NoRegulariser
from ._regularisers import SumOf as SumOf
from ._sparse import SparseCounts as SparseCounts
from ._total_variation import TotalVariation as TotalVariation
