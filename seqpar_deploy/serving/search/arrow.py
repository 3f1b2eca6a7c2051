"""pyarrow with the parts that a search needs."""

from __future__ import annotations

import importlib
from typing import Any

from seqpar_deploy.serving.archive.sdk import import_pyarrow


def import_arrow() -> Any:
    """Return the module `pyarrow`, with `pyarrow.compute` and `pyarrow.parquet`. Raises BackendUnavailableError."""
    pyarrow = import_pyarrow()
    for part in ("compute", "parquet"):
        importlib.import_module(f"pyarrow.{part}")
    return pyarrow
