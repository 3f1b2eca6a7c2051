"""Stand-ins for the module that Triton's stub provides, and for requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        if isinstance(self._array, Exception):
            raise self._array
        return self._array


class TritonError:
    INVALID_ARG = "invalid argument"
    INTERNAL = "internal"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class TritonModelException(Exception):
    pass


class Logger:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log_info(self, text: str) -> None:
        self.lines.append(("info", text))

    def log_warn(self, text: str) -> None:
        self.lines.append(("warn", text))

    def log_error(self, text: str) -> None:
        self.lines.append(("error", text))


@dataclasses.dataclass
class InferenceResponse:
    output_tensors: Sequence[Tensor] = ()
    error: TritonError | None = None

    @property
    def arrays(self) -> dict[str, Any]:
        assert self.error is None, self.error.message
        return {tensor.name(): tensor.as_numpy() for tensor in self.output_tensors}


@dataclasses.dataclass
class Request:
    """A request with these inputs that asks for these outputs."""

    tensors: Mapping[str, Any]
    outputs: Sequence[str] = ("tokens", "scores", "probabilities", "states", "steps", "json")

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.tensors.items()]

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


class Sdk:
    """The module `triton_python_backend_utils`."""

    def __init__(self) -> None:
        self.Logger = Logger()

    Tensor = Tensor
    TritonError = TritonError
    TritonModelException = TritonModelException
    InferenceResponse = InferenceResponse


def files(*contents: bytes) -> Any:
    """The input `image` of these files."""
    return np.array(contents, dtype=np.object_).reshape(-1, 1)
