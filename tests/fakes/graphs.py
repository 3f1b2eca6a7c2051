"""The bundle's graphs, as stand-ins for SDKs execute them: ONNX Runtime's CPU, between addresses.

`RowByRow` runs them a row at a time and remembers what came out: tens of thousands of steps of the stress test are of a
few hundred kinds, and a row's tokens do not depend on the batch that it is in.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fakes.memory import POISON, Range, array_at, overlap

TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
Arrays = dict[str, np.ndarray]
RunGraph = Callable[[Any, list[str], Arrays], Arrays]


_sessions: dict[bytes, Any] = {}  # by the graph's content: opening one takes longer than all that a schedule does


@functools.lru_cache(maxsize=64)
def session_of(onnx: Path) -> Any:
    """The session of a graph. Copies of a graph have one."""
    files = sorted(onnx.parent.glob(f"{onnx.name}*"))  # the graph, and its weights beside it
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
    if content not in _sessions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # the same sums every time
        made = onnxruntime.InferenceSession(str(onnx), options, disabled_optimizers=["NchwcTransformer"])
        _sessions[content] = made
    return _sessions[content]


def run_whole(session: Any, outputs: list[str], inputs: Arrays) -> Arrays:
    return dict(zip(outputs, session.run(outputs, inputs), strict=True))


class RowByRow:
    """Runs a graph for each row of the batch, or takes what it said of such a row before."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Arrays] = {}
        self.missed = 0

    def __call__(self, session: Any, outputs: list[str], inputs: Arrays) -> Arrays:
        one = self._encoder_row if "crops" in inputs else self._step_row
        rows = [one(session, outputs, inputs, row) for row in range(len(inputs.get("crops", inputs.get("tokens"))))]
        axes = {"cross_kv": 1, "self_kv_out": 1}
        return {name: np.concatenate([row[name] for row in rows], axis=axes.get(name, 0)) for name in outputs}

    def _remembered(self, key: tuple[Any, ...], run: Callable[[], Arrays]) -> Arrays:
        if key not in self._known:
            if len(self._known) >= 20_000:
                self._known.clear()
            self.missed += 1
            self._known[key] = run()
        return self._known[key]

    def _encoder_row(self, session: Any, outputs: list[str], inputs: Arrays, row: int) -> Arrays:
        crop = inputs["crops"][row : row + 1]
        return self._remembered((session, crop.tobytes()), lambda: run_whole(session, outputs, {"crops": crop}))

    def _step_row(self, session: Any, outputs: list[str], inputs: Arrays, row: int) -> Arrays:
        tokens, start = inputs["tokens"][row], int(inputs["position"][row])
        self_kv, cross_kv = inputs["self_kv"][:, row : row + 1], inputs["cross_kv"][:, row : row + 1]
        # Slots that are masked count as well where they are not finite: nothing times infinity is not nothing.
        if not 0 <= start <= self_kv.shape[3] - len(tokens) or not np.isfinite(self_kv).all():
            feed = {name: array[row : row + 1] for name, array in inputs.items() if name in ("tokens", "position")}
            feed |= {"self_kv": self_kv, "cross_kv": cross_kv}
            key = (session, tokens.tobytes(), start, self_kv.tobytes(), cross_kv.tobytes())
            return self._remembered(key, lambda: run_whole(session, outputs, feed))
        cache, image, said = self_kv.copy(), cross_kv.tobytes(), []
        for place, token in enumerate(tokens.tolist(), start):  # one by one, or there were more kinds of steps
            feed = {
                "tokens": np.array([[token]]),
                "position": np.array([place]),
                "self_kv": cache,
                "cross_kv": cross_kv,
            }
            key = (session, token, place, cache[:, :, :, :place].tobytes(), image)
            said.append(self._remembered(key, functools.partial(run_whole, session, outputs, feed)))
            cache[:, :, :, place] = said[-1]["self_kv_out"][:, :, :, place]
        joined = {name: np.concatenate([one[name] for one in said], axis=1) for name in ("log_probs", "next_token")}
        return joined | {"self_kv_out": cache}


class Execution:
    """One inference between addresses, as one piece of work."""

    def __init__(
        self,
        session: Any,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        run: RunGraph = run_whole,
    ) -> None:
        self._session, self._run = session, run
        self._inputs = {
            value.name: (addresses[value.name], tuple(shapes[value.name]), TYPES[value.type])
            for value in session.get_inputs()
        }
        sizes = {
            name: size
            for value in session.get_inputs()
            for name, size in zip(value.shape, shapes[value.name], strict=True)
        }
        if "W" in sizes:  # crops, whose image tokens are no dimension of an input
            sizes["N"] = _image_tokens(session, shapes["crops"][1:])
        self._outputs = {
            value.name: (addresses[value.name], tuple(sizes.get(n, n) for n in value.shape), TYPES[value.type])
            for value in session.get_outputs()
            if value.name in addresses
        }
        self.reads = tuple(map(_range, self._inputs.values()))
        self.writes = tuple(map(_range, self._outputs.values()))

    @property
    def aliased(self) -> bool:
        """Whether it writes where it reads, which no SDK allows."""
        return any(overlap(one, other) for one in self.reads for other in self.writes)

    def __call__(self) -> None:
        inputs = {name: array_at(*place).copy() for name, place in self._inputs.items()}
        try:
            results = self._run(self._session, list(self._outputs), inputs)
        except BaseException:
            self.poison()
            raise
        for name, place in self._outputs.items():
            array_at(*place)[...] = results[name]

    def poison(self) -> None:
        for address, size in self.writes:
            array_at(address, (size,), np.uint8)[...] = POISON


@functools.lru_cache(maxsize=64)
def _image_tokens(session: Any, shape: tuple[int, ...]) -> int:
    """What the graph itself makes of a crop of this shape."""
    (cross_kv,) = session.run(["cross_kv"], {"crops": np.zeros((1, *shape), np.uint8)})
    return int(cross_kv.shape[3])


def _range(place: tuple[int, tuple[int, ...], Any]) -> Range:
    address, shape, dtype = place
    return address, int(np.prod(shape)) * np.dtype(dtype).itemsize
