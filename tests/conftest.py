"""Shared fixtures. Every test runs with rank promotion forbidden and warnings as errors."""

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


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
