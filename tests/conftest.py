"""Shared fixtures. Every test runs with rank promotion forbidden and warnings as errors."""

import gc
import os
import pathlib
import subprocess
import sys

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

#: Compiling takes most of the time of the tests, and tiny problems gain nothing from good programs.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
)

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def _compile_quickly():
    """Before JAX starts, unless `XLA_FLAGS` says otherwise; an empty one gives what users get.

    Unknown flags end a process, so that another one tries them. Workers find them set.
    """
    if "XLA_FLAGS" in os.environ:
        return
    flags = {"XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    trial = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(trial, env=os.environ | flags, capture_output=True).returncode == 0
    os.environ["XLA_FLAGS"] = QUICK if known else ""


_compile_quickly()
gc.set_threshold(20_000, 20, 20)  # tracing makes many objects, and few of them are garbage


#: Files that take longest, by the seconds of processor time they took with an empty cache.
SLOWEST = (
    "test_refine",
    "test_joint_detectors",
    "test_bootstrap",
    "test_experiments",
    "test_inference_fit",
    "test_solve_newton",
    "test_physics_response",
    "test_phase_number",
    "test_known_compositions",
    "test_cli_refine",
    "test_cli_fit",
    "test_solve_updates",
    "test_barren_phases",
    "test_identifiability",
    "test_solve_batch",
    "test_sharding",
    "test_amounts",
    "test_refine_batches",
    "test_planning",
    "test_profile",
    "test_model_basis",
)


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no worker is left alone with one at the end."""
    place = {name: i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish():
    """What was imported stays, and need not be looked through again."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    """Keep compiled programs from process to process and from run to run, in .pytest_cache."""
    cache = getattr(config, "cache", None)  # none with -p no:cacheprovider
    if cache is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drop the compiled programs of a file behind it.

    Each takes memory maps, of which a process may have 65,530 on Linux by default; a worker that
    kept those of all files crashed near the end.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Runs the test once in each precision; yields the dtype's name."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    """Runs the test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_image():
    """Path of the real spectrum image kept beside the checkout; skips where there is none."""
    path = SHARED / "data" / "88_ES-LP_G8_selection2_cropped2.hspy"
    if not path.exists():
        pytest.skip("the shared real spectrum image is not on this machine")
    return path
