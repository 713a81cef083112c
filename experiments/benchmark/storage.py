"""The section "storage": at which share of filled channels dense counts become the faster ones.

Poisson counts of one mean in every channel, in both storages; each pass is timed in turns.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from limits import PASSES, SECOND_ORDER
from plan import Plan
from timing import shortest

import esmpy_jax as ej

N_CHANNELS, N_PHASES, N_COLUMNS = 2000, 3, 14


def storage(plan: Plan) -> dict:
    """Times of each pass, sparse over dense, at every share."""
    rng = np.random.default_rng(0)
    n_pixels = plan.small**2
    endmembers, maps, spectra = (
        jnp.asarray(rng.random(shape), float)
        for shape in ((N_CHANNELS, N_PHASES), (N_PHASES, n_pixels), (N_CHANNELS, N_COLUMNS))
    )
    points = []
    for share in plan.shares:
        counts = rng.poisson(-np.log1p(-share), (n_pixels, N_CHANNELS)).astype(np.uint8)
        both = [ej.as_counts(counts, storage=kind) for kind in ("sparse", "dense")]
        ratios = {}
        for name in PASSES:
            extra = (spectra,) if name == "cross_pass" else ()
            extra += (jnp.ones((1, n_pixels)),) if name in SECOND_ORDER else ()

            @eqx.filter_jit
            def call(counts, *rest, name=name):
                return getattr(counts, name)(*rest)

            times = [
                shortest(functools.partial(call, c, endmembers, maps, *extra), plan.repeats)
                for c in both
            ]
            ratios[name] = times[0] / times[1]
        points.append({"share": share, "ratios": ratios})
        jax.clear_caches()
    return {"pixels": n_pixels, "channels": N_CHANNELS, "phases": N_PHASES, "points": points}
