"""A KServe V2 server over HTTP and gRPC, as Triton is one, with answers made by hand and faults on demand."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from fakes.predictions import predicted

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

Arrays = dict[str, np.ndarray]
Fault = Callable[["Exchange", bytes, dict[str, str]], None]  # writes another answer than the right one

LABELS = load_label_set("pa100k")
DTYPES = {"i4": "INT32", "f4": "FP32", "u1": "UINT8"}


def crop_of(value: int, shape: tuple[int, int] = (20, 10)) -> Crop:
    """A crop whose answer is that of `value`."""
    return np.full((*shape, 3), value, np.uint8)


def expected(value: int, label_set: LabelSet = LABELS) -> Prediction:
    """The answer for `crop_of(value)`: two attributes, and probabilities, that depend on it."""
    names = [attribute.name for attribute in label_set.attributes]
    first, second = sorted((value % len(names), (value + 3) % len(names)))
    scores = {names[first]: 0.5 + value / 1024, names[second]: 0.75}
    return predicted(scores, label_set, {names[value % len(names)]: value / 256})


def arrays_of(prediction: Prediction, label_set: LabelSet) -> Arrays:
    """The outputs of the model for one crop."""
    count = len(label_set)
    tokens = np.full((1, count + 1), -1, "<i4")
    tokens[0, : len(prediction.tokens)] = prediction.tokens
    scores = np.full((1, count), np.nan, "<f4")
    for name, score in zip(prediction.attributes, prediction.scores, strict=True):
        scores[0, label_set.token(name) - FIRST_ATTRIBUTE] = score
    return {
        "tokens": tokens,
        "scores": scores,
        "probabilities": prediction.probabilities[None].astype("<f4"),
        "states": np.array([[("no", "yes", "unknown").index(state) for state in prediction.states]], "u1"),
        "steps": np.array([[prediction.steps]], "<i4"),
    }


@dataclasses.dataclass(kw_only=True)
class Model:
    """A served model. `change` alters the outputs of the next answers. `seen` are the requests, decoded."""

    label_set: LabelSet = LABELS
    thresholds: Thresholds | None = None
    digest: str = "a" * 64
    version: str = "1"
    answer: Callable[[Crop, list[int] | None], Prediction] | None = None
    change: Callable[[Arrays], object] | None = None
    seen: list[tuple[Crop, list[int] | None]] = dataclasses.field(default_factory=list)

    @property
    def parameters(self) -> dict[str, str]:
        limits = None
        if self.thresholds is not None:
            named = self.thresholds.limits(self.label_set)
            limits = {name: dataclasses.asdict(one) for name, one in named.items()}
        return {
            "bundle": self.digest,
            "version": "0.2.0",
            "label_set": json.dumps(self.label_set.to_dict()),
            "thresholds": json.dumps(limits),
        }

    def infer(self, inputs: Mapping[str, tuple[str, list[int], bytes]]) -> Arrays:
        """Compute the outputs. `inputs` are (datatype, shape, raw bytes) by name."""
        if "image" in inputs:
            crop = _decoded(inputs["image"][2])
        else:
            datatype, shape, data = inputs["crop"]
            assert (datatype, shape[0]) == ("UINT8", 1)
            crop = np.frombuffer(data, np.uint8).reshape(shape[1:])
        draft = None
        if "draft" in inputs:
            datatype, shape, data = inputs["draft"]
            assert datatype == "INT32"
            draft = np.frombuffer(data, "<i4").reshape(shape)[0].tolist()
        self.seen.append((crop, draft))
        value = int(crop.flat[0])
        prediction = self.answer(crop, draft) if self.answer else expected(value, self.label_set)
        outputs = arrays_of(prediction, self.label_set)
        if self.change:
            self.change(outputs)
        return outputs


def _decoded(data: bytes) -> Crop:
    import io

    from PIL import Image

    (length,) = struct.unpack("<I", data[:4])
    assert length == len(data) - 4
    return np.asarray(Image.open(io.BytesIO(data[4:])).convert("RGB"))


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        fake = self.server.fake
        fake.requests.append((self.path, dict(self.headers)))
        if not self._admitted():
            return
        if fake.check_faults:
            fake.check_faults.popleft()(self, b"", {})
        elif self.path == f"{fake.path}/v2/models/seqpar/config" and fake.ready:
            values = {name: {"string_value": value} for name, value in fake.model.parameters.items()}
            self.answer(200, json.dumps({"name": "seqpar", "max_batch_size": 8, "parameters": values}).encode())
        else:
            self.answer(400, b'{"error":"Request for unknown model: \'seqpar\' is not found"}')

    def do_POST(self) -> None:
        fake = self.server.fake
        fake.requests.append((self.path, dict(self.headers)))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._admitted():
            return
        assert self.path == f"{fake.path}/v2/models/seqpar/infer"
        with fake.counted():
            content, headers = _inferred(fake.model, body, int(self.headers["Inference-Header-Content-Length"]))
            fault = fake.next_fault()
            if fault:
                fault(self, content, headers)
            else:
                self.answer(200, content, headers)

    def _admitted(self) -> bool:
        wanted = self.server.fake.authorization
        if wanted is None or self.headers["Authorization"] == wanted:
            return True
        self.answer(401, b"<html>who are you?</html>")
        return False

    def answer(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Write a whole answer."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _inferred(model: Model, body: bytes, end: int) -> tuple[bytes, dict[str, str]]:
    request = json.loads(body[:end])
    inputs = {}
    for tensor in request["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        inputs[tensor["name"]] = tensor["datatype"], tensor["shape"], body[end : end + size]
        end += size
    assert end == len(body)
    made = model.infer(inputs)
    outputs, data = [], b""
    for output in request["outputs"]:
        array = made.get(output["name"])
        assert output["parameters"] == {"binary_data": True}
        if array is None:
            continue
        outputs.append(
            {
                "name": output["name"],
                "datatype": DTYPES[array.dtype.str[1:]],
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
        )
        data += array.tobytes()
    head = json.dumps({"model_name": "seqpar", "model_version": model.version, "outputs": outputs}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    fake: FakeServer

    def process_request(self, request: Any, client_address: Any) -> None:
        self.fake.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that leave are part of the tests."""


class FakeServer:
    """The server. `faults` are used up, one per inference; `always` holds for all that follow. A context manager."""

    def __init__(self, model: Model | None = None, *, path: str = "", authorization: str | None = None) -> None:
        self.model = model or Model()
        self.path, self.authorization = path, authorization
        self.ready = True
        self.faults: deque[Fault] = deque()
        self.check_faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections: list[socket.socket] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self.path}"

    @property
    def inferences(self) -> int:
        return sum(path.endswith("/infer") for path, _ in self.requests)

    def up(self) -> None:
        """Listen, on the same port each time."""
        self._listener = _Listener(("127.0.0.1", self._port), Exchange)
        self._listener.fake = self
        self._port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Stop listening, and break all connections."""
        self._listener.shutdown()
        self._listener.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def next_fault(self) -> Fault | None:
        with self._lock:
            return self.faults.popleft() if self.faults else self.always

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


@contextlib.contextmanager
def grpc_server(model: Model, fail: deque[tuple[str, str]] | None = None, *, port: int = 0) -> Iterator[str]:
    """Serve a model over gRPC, and yield its address. `fail` are codes and details of the next inferences."""
    import grpc
    from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelConfig(self, request: Any, _context: Any) -> Any:
            assert request.name == "seqpar"
            config = model_config_pb2.ModelConfig(name="seqpar")
            for name, value in model.parameters.items():
                config.parameters[name].string_value = value
            return service_pb2.ModelConfigResponse(config=config)

        def ModelInfer(self, request: Any, context: Any) -> Any:
            if fail:
                code, details = fail.popleft()
                context.abort(getattr(grpc.StatusCode, code), details)
            raw = request.raw_input_contents
            inputs = {
                tensor.name: (tensor.datatype, list(tensor.shape), data)
                for tensor, data in zip(request.inputs, raw, strict=True)
            }
            made = model.infer(inputs)
            answer = service_pb2.ModelInferResponse(model_name="seqpar", model_version=model.version)
            for output in request.outputs:
                array = made[output.name]
                answer.outputs.add(name=output.name, datatype=DTYPES[array.dtype.str[1:]], shape=array.shape)
                answer.raw_output_contents.append(array.tobytes())
            return answer

    pool = concurrent.futures.ThreadPoolExecutor(8)
    server = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
        pool.shutdown()
