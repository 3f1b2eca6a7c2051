"""The environment that the model needs: the Python of Triton's stub, and a NumPy that Triton's tensors work with."""

from __future__ import annotations

import sys

import numpy as np

from seqpar_deploy.errors import TritonError

HOW_TO = "see docs/how-to/serve-with-triton.md"
_LAST_PYTHON = (3, 12)  # Triton ships no stub for later ones, and NumPy 1 no wheel


def check_environment(numpy_version: str = np.__version__, python: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raise TritonError if this environment cannot run the model: NumPy 2, or a Python after 3.12.

    With NumPy 2, tensors arrive empty in the Python backend of Triton, without an error.

    Args:
        numpy_version: Version of NumPy. Default: the imported one.
        python: Major and minor version of Python. Default: the running one.
    """
    if int(numpy_version.partition(".")[0]) >= 2:
        raise TritonError(
            f"NumPy must be below 2 where Triton runs the model, got {numpy_version}; make an environment of its own "
            f"with pip install 'numpy<2', {HOW_TO}"
        )
    if python > _LAST_PYTHON:
        raise TritonError(
            f"Python must be 3.12 or older where Triton runs the model, got {'.'.join(map(str, python))}; make an "
            f"environment of its own, {HOW_TO}"
        )
