"""From physical parameters to the basis G, and from there to expected counts."""

from ._forward import forward as forward
from ._model import EDSModel as EDSModel
from ._model import ImageLike as ImageLike
from ._parameters import Parameter as Parameter
