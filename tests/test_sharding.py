"""Pixels on several devices and in several processes: the same W and H, and nothing else sent.

Virtual devices and processes have to be there before JAX starts, so that `sharded_runs.py` makes
the fits in processes of its own; what they should be is computed here, on one device.
"""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_runs as runs
from factor_problems import N_CHANNELS, N_PHASES, STORAGES

from esmpy_jax import sharding
from esmpy_jax._checks import InputError
from esmpy_jax.inference import SpectrumImage
from esmpy_jax.io import save_image
from esmpy_jax.physics import Acquisition, EnergyAxis
from esmpy_jax.solve import AbundanceUpdate, MultiplicativeUpdate

TESTS = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-5 if jnp.zeros(()).dtype == jnp.float32 else 1e-11


def start(*arguments, devices, **variables):
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    named = {"PYTHONPATH": path, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(TESTS / "sharded_runs.py"), *map(str, arguments)],
        env=os.environ | named | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, said


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """What four devices found."""
    folder = tmp_path_factory.mktemp("devices")
    finish(start("devices", folder, devices=4))
    return dict(np.load(folder / "devices.npz"))


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """What each of two processes found; the second one finds itself in a Slurm job."""
    folder, port = tmp_path_factory.mktemp("processes"), free_port()
    counts = runs.problem("even").counts("dense")
    axis = EnergyAxis(0.25, 0.01, counts.n_channels)
    save_image(SpectrumImage(counts, axis, Acquisition(beam_energy=200.0)), folder / "scan.hspy")
    slurm = {"JOB_ID": 7, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": 1, "LOCALID": 1}
    words = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    words["JAX_COORDINATOR_PORT"] = str(port)
    pair = [
        start("process", folder, port, i, devices=2, **more) for i, more in enumerate([{}, words])
    ]
    try:
        for process in pair:
            finish(process)
    finally:
        for process in pair:
            process.kill()
    return [dict(np.load(folder / f"process{i}.npz")) for i in range(2)]


@functools.cache
def expected(scan, storage, kind):
    """W and H on one device."""
    example = runs.problem(scan)
    counts = example.counts(storage)
    if kind == "fit":
        return runs.whole_fit(counts, example)
    return runs.fitted(counts, example, kind)


def assert_close(found, wanted):
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def assert_same_factors(found, case, scan, storage, kind):
    for name, wanted in zip("WH", expected(scan, storage, kind), strict=True):
        assert_close(found[f"{case}/{kind}/{name}"], wanted)


@pytest.mark.parametrize(("scan", "storage", "size"), runs.CASES)
def test_devices_find_the_factors_of_one(on_devices, scan, storage, size):
    case = f"{scan}/{storage}/{size}"
    for kind in ("plain", "smooth") if (scan, storage, size) in runs.SMOOTH else ("plain",):
        assert_same_factors(on_devices, case, scan, storage, kind)
    moved = np.abs(on_devices[f"{case}/plain/H"] - runs.problem(scan).abundances).max()
    assert moved > 100 * TOLERANCE
    np.testing.assert_array_equal(on_devices[f"{case}/part"], on_devices[f"{case}/plain/H"])
    assert on_devices[f"{case}/whole"] == (size == 1 or scan == "uneven")


@pytest.mark.parametrize("storage", STORAGES)
def test_every_pass_is_that_of_one_device(on_devices, storage):
    example = runs.problem("uneven")
    for name, wanted in runs.all_passes(example.counts(storage), example).items():
        assert_close(on_devices[f"uneven/{storage}/4/{name}"], wanted)


@pytest.mark.parametrize(("scan", "storage", "size"), runs.CASES)
def test_only_sums_over_pixels_are_sent(on_devices, scan, storage, size):
    """The update of W and its denominator; nothing that grows with an evenly divided scan."""
    case = f"{scan}/{storage}/{size}"
    sent, sizes = on_devices[f"{case}/sent"], on_devices[f"{case}/sizes"]
    if scan == "even":
        assert set(sent) == {"all-reduce"}
        assert sizes.max() == N_CHANNELS * N_PHASES
    else:  # H with what fills up the last run is gathered, as the module says
        assert set(sent) == {"all-reduce", "all-gather"}
        assert sizes[sent == "all-gather"].tolist() == [N_PHASES * -(-25 // size) * size]


@pytest.mark.parametrize(("scan", "storage", "kinds"), runs.PROCESS_CASES)
def test_processes_find_the_factors_of_one(in_processes, scan, storage, kinds):
    example = runs.problem(scan)
    kinds = [*kinds, "fit"] if scan == runs.PROCESS_CASES[-1][0] else kinds
    for found in in_processes:
        assert (found["processes"], found["devices"]) == (2, 4)
        np.testing.assert_array_equal(found[f"{scan}/counts"], example.y)
        np.testing.assert_array_equal(found[f"{scan}/pixel_totals"], example.y.sum(1))
        for kind in kinds:
            assert_same_factors(found, scan, scan, storage, kind)
    rows = {"even": [(0, 2), (2, 4)], "uneven": [(0, 3), (2, 5)]}  # 14 of 25 pixels, then 11
    assert [tuple(found[f"{scan}/rows"]) for found in in_processes] == rows[scan]
    parts = [found[f"{scan}/part"] for found in in_processes]
    assert [p.shape[1] for p in parts] == {"even": [12, 12], "uneven": [14, 11]}[scan]
    whole = in_processes[0][f"{scan}/{runs.PROCESS_CASES[scan == 'uneven'][2][-1]}/H"]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


@pytest.mark.parametrize("kind", ["plain", "smooth"])
@pytest.mark.parametrize("solver", [MultiplicativeUpdate(), AbundanceUpdate()])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_is_a_program_for_any_accelerator(storage, solver, kind):
    """In float32 no double anywhere, no shape known only when it runs, no call to the host."""
    with jax.enable_x64(False):
        example = runs.problem("uneven")
        problem = runs.as_problem(example.counts(storage), example.basis(), kind)
        factors = jnp.asarray(example.weights, float), jnp.asarray(example.abundances, float)

        def step(problem, weights, abundances):
            return solver.step(problem, weights, abundances, None)[:2]

        text = eqx.filter_jit(step).lower(problem, *factors).lowered.as_text()
    assert "tensor<3x25xf32>" in text
    assert not re.findall(r"f64|tensor<[^>]*\?[^>]*>|custom_call|callback|infeed|outfeed", text)


def test_runs_of_pixels_and_rows():
    mesh = sharding.pixel_mesh()
    assert mesh.axis_names == ("pixel",)
    assert sharding.local_pixels(25, mesh) == (0, 25)
    assert sharding.local_rows((5, 5)) == (0, 5)


def test_bad_input():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    counts = runs.problem("even").counts("dense")
    with pytest.raises(InputError, match=r"has the axes \('x',\)"):
        sharding.shard(counts, mesh)
    with pytest.raises(InputError, match=r"must bring the rows 0 to 5 of the scan, of shape"):
        sharding.shard_rows(counts, (5, 6))
    with pytest.raises(InputError, match="Give all of coordinator, n_processes and process_id"):
        sharding.initialise("127.0.0.1:1234")
