"""The same fit with the pixels spread over several devices and several processes.

The scan is cut into runs of equally many pixels, one for each device of a mesh with the single axis
"pixel". A device holds the counts and abundances of its own pixels, and all of G and W. Passes that
give something for each pixel need no communication; those that give something for each channel
add up arrays of the size of (channel, phase) over the devices. Solvers, constraints and
regularisers know nothing of it: `factorise(shard(counts), G, ...)` is all there is to do.

Where the pixels do not divide by the devices, the last run is filled up with empty pixels inside
each pass and cut off again behind it, so that W, H, exposure, constraints and regularisers (which
see the neighbours of a pixel) never meet one. JAX holds such an H on every device instead of in
parts, and gathers it, (phase, pixel) numbers, once in each step; the counts stay in parts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from ._checks import InputError, check
from .objective import AbstractCounts, DenseCounts, SparseCounts
from .objective._blocks import Blocks, block_lengths
from .objective._counts import smallest_type

#: Name of the mesh axis.
AXIS = "pixel"


class _Way(NamedTuple):
    """How an argument of a pass is spread, and what pixels beyond the scan hold of it."""

    spec: P
    beyond: float = 1.0


#: Arguments that all devices hold; that have the pixels last; and exposure, which has, too.
_WHOLE, _SPLIT, _EXPOSURE = _Way(P()), _Way(P(None, AXIS)), _Way(P(None, AXIS), 0.0)


class ShardedCounts(AbstractCounts):
    """Counts in equal runs of pixels, one on each device of `mesh`; see `shard`.

    - `shards`: the counts of all runs as one; each of its arrays has a first axis over the devices.
    """

    shards: AbstractCounts
    mesh: Mesh = eqx.field(static=True)
    scan_shape: tuple[int, ...] = eqx.field(static=True)
    exposure: Float[Array, " pixel"] | None = None

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return self.shards.n_channels

    @property
    def is_sparse(self) -> bool:
        """Whether only the nonzero counts are stored."""
        return self.shards.is_sparse

    def pixel_pass(self, endmembers, abundances):
        return _each(self, "pixel_pass", (_WHOLE, _SPLIT), endmembers, abundances)

    def channel_pass(self, endmembers, abundances):
        return _total(self, "channel_pass", (_WHOLE, _SPLIT), endmembers, abundances)

    def log_pass(self, endmembers, abundances):
        return _each(self, "log_pass", (_WHOLE, _SPLIT), endmembers, abundances)

    def excess_pass(self, endmembers, abundances):
        return _each(self, "excess_pass", (_WHOLE, _SPLIT), endmembers, abundances)

    def saturated_pass(self):
        return _each(self, "saturated_pass", ())

    def pixel_moments(self, endmembers, abundances, exposure):
        ways = (_WHOLE, _SPLIT, _EXPOSURE)
        return _each(self, "pixel_moments", ways, endmembers, abundances, exposure)

    def channel_moments(self, endmembers, abundances, exposure):
        ways = (_WHOLE, _SPLIT, _EXPOSURE)
        return _total(self, "channel_moments", ways, endmembers, abundances, exposure)

    def cross_pass(self, endmembers, abundances, spectra, exposure):
        ways = (_WHOLE, _SPLIT, _WHOLE, _EXPOSURE)
        return _each(self, "cross_pass", ways, endmembers, abundances, spectra, exposure)

    def steepest_drop(self, endmembers, abundances, change):
        ways = (_WHOLE, _SPLIT, _SPLIT)
        return _each(self, "steepest_drop", ways, endmembers, abundances, change)

    def sum_spectrum(self):
        return _total(self, "sum_spectrum", ())

    def pixel_totals(self):
        return _each(self, "pixel_totals", ())

    def to_coo(self):
        """As of any counts; with several processes, all counts come to each of them."""
        held = jax.tree.map(gather, self.shards)
        parts = [_slice(held, i).to_coo() for i in range(self.mesh.size)]
        first = np.arange(self.mesh.size) * self.shards.n_pixels
        pixel = np.concatenate([p[0] + f for p, f in zip(parts, first, strict=True)])
        return pixel, np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])


def _each(counts: ShardedCounts, name: str, ways: tuple[_Way, ...], *arguments: Array):
    """The pass `name` of every shard, whose results have the pixels on their last axis."""
    return _run(counts, name, ways, False, *arguments)


def _total(counts: ShardedCounts, name: str, ways: tuple[_Way, ...], *arguments: Array):
    """The pass `name` of every shard, whose results are added up over the shards."""
    return _run(counts, name, ways, True, *arguments)


@eqx.filter_jit
def _run(counts, name, ways, summed, *arguments):
    """One pass on all devices. Pixels beyond the scan have no counts and no result."""
    length = counts.shards.n_pixels
    beyond = length * counts.mesh.size - counts.n_pixels

    def local(shards, *args):
        return getattr(_slice(shards, 0), name)(*args)

    def device(*args):
        return jax.lax.psum(local(*args), AXIS) if summed else local(*args)

    def filled(argument, way):
        if way == _WHOLE:
            return argument
        return jnp.pad(argument, ((0, 0), (0, beyond)), constant_values=way.beyond)

    def shape(argument, way):
        size = argument.shape if way == _WHOLE else (*argument.shape[:-1], length)
        return jax.ShapeDtypeStruct(size, argument.dtype)

    results = jax.eval_shape(local, counts.shards, *map(shape, arguments, ways))
    run = jax.shard_map(
        device,
        mesh=counts.mesh,
        in_specs=(P(AXIS), *(way.spec for way in ways)),
        out_specs=P()
        if summed
        else jax.tree.map(lambda r: P(*[None] * (r.ndim - 1), AXIS), results),
        check_vma=False,  # the passes start their sums from zeros, which belong to no device
    )
    out = run(counts.shards, *map(filled, arguments, ways))
    return out if summed else jax.tree.map(lambda r: r[..., : counts.n_pixels], out)


def pixel_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of the given devices, by default all of all processes, each process's in a row."""
    devices = jax.devices() if devices is None else devices
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def shard(counts: AbstractCounts, mesh: Mesh | None = None) -> ShardedCounts:
    """Place counts on the devices of `mesh`, by default those of `pixel_mesh()`.

    With several processes each of them holds all the counts and places its own part; `shard_rows`
    needs only that part.
    """
    mesh = _checked(mesh)
    first, last = local_pixels(counts.n_pixels, mesh)
    pixel, channel, value = counts.to_coo()
    mine = slice(*np.searchsorted(pixel, [first, last]))
    exposure = None if counts.exposure is None else gather(counts.exposure)[first:last]
    triplets = pixel[mine], channel[mine], value[mine]
    return _placed(triplets, exposure, counts, counts.scan_shape, mesh)


def shard_rows(
    counts: AbstractCounts, scan_shape: tuple[int, int], mesh: Mesh | None = None
) -> ShardedCounts:
    """Counts of a whole scan, of which each process brings the rows that `local_rows` names.

    - `counts`: of this process's rows, with the scan shape (rows, x).
    - `scan_shape`: (y, x) of the whole scan.

    All processes have to call it together. Raises `InputError` for counts of other rows.
    """
    mesh = _checked(mesh)
    y0, y1 = local_rows(scan_shape, mesh)
    check(
        counts.scan_shape == (y1 - y0, scan_shape[1]),
        f"Process {jax.process_index()} brings counts of shape {counts.scan_shape}; it must bring "
        f"the rows {y0} to {y1} of the scan, of shape {(y1 - y0, scan_shape[1])}.",
    )
    first, last = local_pixels(scan_shape[0] * scan_shape[1], mesh)
    pixel, channel, value = counts.to_coo()
    pixel = pixel + y0 * scan_shape[1]
    mine = slice(*np.searchsorted(pixel, [first, last]))
    exposure = counts.exposure
    if exposure is not None:
        exposure = np.asarray(exposure)[first - y0 * scan_shape[1] :][: last - first]
    triplets = pixel[mine], channel[mine], value[mine]
    return _placed(triplets, exposure, counts, tuple(scan_shape), mesh)


def _placed(triplets, exposure, like, scan_shape, mesh) -> ShardedCounts:
    """This process's pixels and those of the others, as one."""
    pixel, channel, value = triplets
    n_pixels, n_channels, index = int(np.prod(scan_shape)), like.n_channels, _mine(mesh)
    length = -(-n_pixels // mesh.size)
    first = length * index[0]
    most = _largest([value.max(initial=0), like.is_sparse, exposure is not None])
    value = value.astype(smallest_type(most[0]))
    lengths = _lengths(pixel - first, channel, (length * len(index), n_channels), len(index))
    edges = np.searchsorted(pixel, [length * i for i in (*index, index[-1] + 1)])
    parts = []
    for i, low, high in zip(index, edges[:-1], edges[1:], strict=True):
        with jax.default_device(mesh.devices[i]):
            own = pixel[low:high] - i * length, channel[low:high], value[low:high]
            build = _sparse if most[1] else _dense
            parts.append(build(*own, length, n_channels, lengths))
    if most[1]:
        parts = _alike(parts, [mesh.devices[i] for i in index])
    where = NamedSharding(mesh, P(AXIS))

    def joined(*arrays):
        placed = [
            jax.device_put(a[None], mesh.devices[i]) for a, i in zip(arrays, index, strict=True)
        ]
        return jax.make_array_from_single_device_arrays(
            (mesh.size, *arrays[0].shape), where, placed
        )

    shards = jax.tree.map(joined, *parts)
    if most[2]:
        own = np.ones(length * len(index)) if exposure is None else np.asarray(exposure, float)
        own = np.pad(own, (0, length * len(index) - len(own)), constant_values=1.0)
        own = own.astype(jnp.zeros(()).dtype)
        exposure = jax.make_array_from_process_local_data(where, own, (length * mesh.size,))
        exposure = exposure[:n_pixels]
    return ShardedCounts(  # pyright: ignore[reportCallIssue]  # n_channels is a property here
        shards=shards, mesh=mesh, scan_shape=scan_shape, exposure=exposure
    )


def _sparse(pixel, channel, value, length, n_channels, lengths):
    return SparseCounts(
        by_pixel=Blocks.pack(pixel, channel, value, length, n_channels, lengths[:2]),
        by_channel=Blocks.pack(channel, pixel, value, n_channels, length, lengths[2:]),
        scan_shape=(length,),
        n_channels=n_channels,
    )


def _alike(parts, devices):
    """Sparse counts with as many blocks as those of any process; empty blocks are added."""
    blocks = [(p.by_pixel, p.by_channel) for p in parts]
    most = _largest(np.max([[len(b.owner) for b in pair] for pair in blocks], axis=0))
    out = []
    for part, pair, device in zip(parts, blocks, devices, strict=True):
        with jax.default_device(device):
            new = tuple(b.padded(n, b.first.value.dtype) for b, n in zip(pair, most, strict=True))
        out.append(eqx.tree_at(lambda c: (c.by_pixel, c.by_channel), part, new))
    return out


def _dense(pixel, channel, value, length, n_channels, _):
    values = np.zeros((length, n_channels), value.dtype)
    values[pixel, channel] = value
    return DenseCounts.from_array(values, (length,))


def _slice(shards, i):
    return jax.tree.map(lambda x: x[i], shards)


def initialise(
    coordinator: str | None = None, n_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of a run; has to come before anything is computed.

    Nothing has to be given where JAX recognises the cluster: Slurm, Open MPI, TPU pods.

    - `coordinator`: address and port of process 0, as "10.0.0.1:1234".
    - `n_processes`: how many there are, of which this one is `process_id`, counted from 0.

    Raises `InputError` when only some of the three are given or none is and there is no cluster.
    """
    given = [x is not None for x in (coordinator, n_processes, process_id)]
    check(
        all(given) or not any(given),
        "Give all of coordinator, n_processes and process_id, or none of them where the cluster "
        "is Slurm, Open MPI or a TPU pod.",
    )
    try:
        jax.distributed.initialize(coordinator, n_processes, process_id)
    except ValueError as error:
        raise InputError(
            f"The processes cannot be joined ({error}); give coordinator, n_processes and "
            "process_id."
        ) from error


def local_pixels(n_pixels: int, mesh: Mesh | None = None) -> tuple[int, int]:
    """First pixel of this process and the one after its last; the two are equal if it has none."""
    mesh = _checked(mesh)
    length, index = -(-n_pixels // mesh.size), _mine(mesh)
    return min(index[0] * length, n_pixels), min((index[-1] + 1) * length, n_pixels)


def local_rows(scan_shape: tuple[int, int], mesh: Mesh | None = None) -> tuple[int, int]:
    """Rows `y0 <= y < y1` of the scan that hold this process's pixels, at least one row.

    Where the pixels of a row belong to two processes, both have it.
    """
    ny, nx = scan_shape
    first, last = local_pixels(ny * nx, mesh)
    y0 = min(first // nx, ny - 1)
    return y0, max(-(-last // nx), y0 + 1)


def gather(array: Array) -> np.ndarray:
    """All of an array in the memory of every process; all have to call it together."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def local_part(array: Float[Array, "*axes pixel"], mesh: Mesh | None = None) -> np.ndarray:
    """The pixels of `local_pixels` of H, or of another array with the pixels on its last axis.

    All processes have to call it together.
    """
    mesh = _checked(mesh)
    in_parts = NamedSharding(mesh, P(*[None] * (array.ndim - 1), AXIS))
    if array.sharding.is_equivalent_to(in_parts, array.ndim):
        parts = sorted(array.addressable_shards, key=lambda s: s.index[-1].start or 0)
        return np.concatenate([np.asarray(s.data) for s in parts], axis=-1)
    first, last = local_pixels(array.shape[-1], mesh)
    return gather(array)[..., first:last]


def _checked(mesh: Mesh | None) -> Mesh:
    if mesh is None:
        return pixel_mesh()
    check(
        mesh.axis_names == (AXIS,) and mesh.axis_types == (AxisType.Auto,),
        f"The mesh has the axes {mesh.axis_names}; make one of your devices with pixel_mesh().",
    )
    index = _mine(mesh)
    check(
        len(index) > 0 and index == list(range(index[0], index[-1] + 1)),
        f"Process {jax.process_index()} has no devices in the mesh, or not side by side; make one "
        "with pixel_mesh().",
    )
    return mesh


def _mine(mesh: Mesh) -> list[int]:
    """Positions in the mesh of this process's devices."""
    return [i for i, d in enumerate(mesh.devices) if d.process_index == jax.process_index()]


def _largest(numbers) -> list[int]:
    """The largest of each number over the processes."""
    return [int(n) for n in _from_all(np.asarray(numbers, np.int64).astype(np.int32)).max(0)]


def _lengths(pixel, channel, sizes, n_parts) -> tuple[int, ...]:
    """Row and block lengths by pixel and by channel that suit the shards of all processes."""
    per_pixel = np.bincount(pixel, minlength=sizes[0])
    per_channel = -(-np.bincount(channel, minlength=sizes[1]) // n_parts)
    return tuple(_largest([*block_lengths(per_pixel), *block_lengths(per_channel)]))


def _from_all(values: np.ndarray) -> np.ndarray:
    """(process, number)"""
    if jax.process_count() == 1:
        return values[None]
    return multihost_utils.process_allgather(values)
