"""Array annotations shared by every layer.

Axis words: `channel column phase pixel element line shell layer detector`.
"""

from jaxtyping import Array, Float, Int

Weights = Float[Array, "column phase"]
Abundances = Float[Array, "phase pixel"]
Endmembers = Float[Array, "channel phase"]
Scalar = Float[Array, ""]
Count = Int[Array, ""]
