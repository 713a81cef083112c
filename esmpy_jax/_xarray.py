"""xarray, imported when it is first used: with what it brings along it takes longer than JAX."""

import importlib
from typing import Any


class _Deferred:
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("xarray"), name)


xr = _Deferred()
