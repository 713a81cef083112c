"""From physical parameters to the basis G, and from there to expected counts."""

from ._adjustable import Adjustable as Adjustable
from ._adjustable import adjustables as adjustables
from ._adjustable import adjusted as adjusted
from ._adjustable import efficiency_names as efficiency_names
from ._forward import forward as forward
from ._joint import AnyModel as AnyModel
from ._joint import JointModel as JointModel
from ._model import EDSModel as EDSModel
from ._model import ImageLike as ImageLike
from ._parameters import Parameter as Parameter
from ._priors import AbstractPrior as AbstractPrior
from ._priors import Exponential as Exponential
from ._priors import LogitNormal as LogitNormal
from ._priors import LogNormal as LogNormal
from ._priors import Normal as Normal
from ._switch import switched_on as switched_on
