"""The section "limits": what the machine can do, and how near the passes over the counts come.

A pass cannot be faster than any of three bounds, and is compared with the largest:

- **memory**: the bytes of the nonzero counts (their partner's index and their value, as stored,
  without padding), of the factors and of the sums, over the bandwidth of a stream;
- **gathers**: the entries of D (by pixel) or H (by channel) that the nonzero counts ask for, over
  the rate of random gathers from a table of that many entries;
- **arithmetic**: the operations on the nonzero counts, of which a quotient or a logarithm counts
  as one, over the rate of a matrix product.

A pass above 100 % would say that its operations are cheaper than those that were timed.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from optimum import both_factors, problem_of
from plan import Plan
from scene import Scene, Scenes
from timing import shortest

from esmpy_jax.objective import exposure_or_one

PASSES = (
    "pixel_pass",
    "channel_pass",
    "pixel_moments",
    "channel_moments",
    "cross_pass",
    "log_pass",
)
SECOND_ORDER = ("pixel_moments", "channel_moments", "cross_pass")  # they take the exposure, too


def machine_limits(plan: Plan, tables: dict[str, int]) -> dict[str, float]:
    """Bytes, gathers and operations per second; gathers from tables of several lengths."""
    held, b = [jnp.ones(plan.stream)], jnp.full(plan.stream, 2.0)
    in_place = jax.jit(lambda a, b: a + 3.0 * b, donate_argnums=0)  # new pages would cost more
    total = jax.jit(jnp.sum)
    size = b.dtype.itemsize * plan.stream

    def triad():
        held.append(in_place(held.pop(), b))
        return held[0]

    out = {
        "triad, bytes/s": 3 * size / shortest(triad, plan.repeats),
        "sum, bytes/s": size / shortest(lambda: total(b), plan.repeats),
    }
    for name, length in tables.items():
        rate = max(gather_rate(length, plan, form) for form in ("taken", "summed"))
        out[f"gathers/s, {name}"] = rate
    left = jnp.full((plan.matrix, plan.matrix), 0.5)
    product = jax.jit(jnp.matmul)
    out["flop/s"] = 2 * plan.matrix**3 / shortest(lambda: product(left, left), plan.repeats)
    return out


def gather_rate(length: int, plan: Plan, form: str) -> float:
    """Random `jnp.take` of float32, written out or summed over rows as the passes do."""
    rows = 2**14
    keys = np.random.default_rng(0).integers(0, length, (plan.gathers // rows, rows))
    index = jnp.asarray(keys.astype(np.uint16 if length < 2**16 else np.int32))
    table = jnp.linspace(0.0, 1.0, length)

    @jax.jit
    def taken(table, index):
        return jnp.take(table, index, mode="clip")

    @jax.jit
    def summed(table, index):
        def add(total, i):
            return total + jnp.take(table, i, mode="clip"), None

        return jax.lax.scan(add, jnp.zeros(rows, table.dtype), index)[0]

    call = taken if form == "taken" else summed
    return index.size / shortest(lambda: call(table, index), plan.repeats)


def needs(scene: Scene, name: str) -> dict[str, float]:
    """Bytes, gathers and operations of one pass over the nonzero counts.

    "touched" are the bytes of the counts and of all that they gather, again and again.
    """
    nnz, (n_pixels, n_channels) = scene.counts.nnz, scene.counts.shape
    phases, columns = scene.weights.shape[1], scene.basis.n_columns
    n_pairs = phases * (phases + 1) // 2
    by_channel = name.startswith("channel")
    partners, owners = (n_pixels, n_channels) if by_channel else (n_channels, n_pixels)
    model = 2 * phases - 1  # multiplications and additions of D H
    terms, operations = {
        "log_pass": (1, model + 3),
        "pass": (phases, model + 1 + 2 * phases),
        "moments": (phases + n_pairs, model + 2 + 4 * phases + 2 * n_pairs),
        "cross_pass": (columns * (1 + phases), model + 2 + 2 * phases + 2 * columns * (1 + phases)),
    }[name if name in ("log_pass", "cross_pass") else name.split("_")[1]]
    gathers = phases + (columns if name == "cross_pass" else 0)
    stored = (2 if partners < 2**16 else 4) + (1 if scene.counts.max() < 2**8 else 2)
    tables = phases * (n_pixels + n_channels) + (columns * n_channels) * (name == "cross_pass")
    return {
        "bytes": nnz * stored + 4.0 * (tables + terms * owners),
        "touched": float(nnz * (stored + 4 * gathers)),
        "gathers": float(nnz * gathers),
        "operations": float(nnz * operations),
    }


def passes(scene: Scene, limits: dict[str, float], repeats: int) -> dict[str, dict]:
    """Each pass: seconds, its three bounds, and the share of the largest in the time."""
    problem = problem_of(scene)
    weights, abundances = both_factors(scene)
    endmembers = problem.basis.endmembers(weights)
    out = {}
    for name in PASSES:
        extra = (problem.basis.matrix,) if name == "cross_pass" else ()
        extra += (exposure_or_one(problem.counts),) if name in SECOND_ORDER else ()

        @eqx.filter_jit
        def call(counts, *rest, name=name):
            return getattr(counts, name)(*rest)

        run = functools.partial(call, problem.counts, endmembers, abundances, *extra)
        time, need = shortest(run, repeats), needs(scene, name)
        table = "H" if name.startswith("channel") else "D"
        bounds = {
            "memory": need["bytes"] / max(limits["triad, bytes/s"], limits["sum, bytes/s"]),
            "gathers": need["gathers"] / limits[f"gathers/s, {table}"],
            "arithmetic": need["operations"] / limits["flop/s"],
        }
        bound = max(bounds, key=lambda b: bounds[b])
        out[name] = {
            "seconds": time,
            "bounds": bounds,
            "bound by": bound,
            "share": bounds[bound] / time,
            "touched": need["touched"],
        }
    return out


def limits(scenes: Scenes, plan: Plan) -> dict:
    """The section at every dose."""
    found = [scenes.get(dose, plan.size)[0] for dose in plan.doses]
    tables = {"D": 2000, "H": plan.size**2}
    rates = machine_limits(plan, tables)
    made = [s.facts() | {"passes": passes(s, rates, plan.repeats)} for s in found]
    return {"size": plan.size, "tables": tables, "machine limits": rates, "doses": made}
