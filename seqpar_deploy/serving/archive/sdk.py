"""The SDKs of archives: the only place that imports pyarrow, fsspec and Ray. None is imported before it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError

_INSTALL = "pip install 'seqpar-deploy[archive]'"


def import_pyarrow() -> Any:
    """Return the module `pyarrow`, with `pyarrow.parquet`. Raises BackendUnavailableError."""
    _import("pyarrow.parquet", "archives need pyarrow")
    return _import("pyarrow", "archives need pyarrow")


def import_parquet() -> Any:
    """Return the module `pyarrow.parquet`. Raises BackendUnavailableError."""
    return import_pyarrow().parquet


def import_compute() -> Any:
    """Return the module `pyarrow.compute`. Raises BackendUnavailableError."""
    return _import("pyarrow.compute", "archives need pyarrow")


def import_fsspec() -> Any:
    """Return the module `fsspec`. Raises BackendUnavailableError."""
    return _import("fsspec", "addresses such as s3:// need fsspec")


def import_ray() -> Any:
    """Return the module `ray`. Raises BackendUnavailableError."""
    return _import("ray", "archives need Ray")


def check_installed() -> None:
    """Raise BackendUnavailableError if pyarrow or Ray is not installed. Ray is not imported: that takes seconds."""
    import_parquet()
    if importlib.util.find_spec("ray") is None:
        import_ray()


def _import(name: str, need: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BackendUnavailableError(f"{need}, which is not installed; {_INSTALL}") from None
