"""KServe V2 over gRPC, with the messages of tritonclient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError, ServerError, ServerUnavailableError
from seqpar_deploy.serving.address import ServerAddress
from seqpar_deploy.serving.protocol import Tensor
from seqpar_deploy.serving.transport import MOST_ANSWER, Answer, no_answer, reason, refusal

_RECONNECT = 1000  # ms between two attempts of the channel at most; by default it waits up to 2 minutes
_UNREADABLE = "it gives an answer that is no KServe V2 inference; check the address"


class GrpcTransport:
    """Send requests over one connection, which all threads share."""

    def __init__(self, address: ServerAddress, model: str, *, authorization: str | None, ca: Path | None) -> None:
        self._grpc, self._messages, stub = _load()
        self._model = model
        self._metadata = (("authorization", authorization),) if authorization else ()
        host = f"[{address.host}]" if ":" in address.host else address.host
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MOST_ANSWER),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT // 10),
            ("grpc.min_reconnect_backoff_ms", _RECONNECT // 10),
            ("grpc.max_reconnect_backoff_ms", _RECONNECT),
            ("grpc.enable_retries", 0),  # they would not be counted
            ("grpc.enable_http_proxy", 0),  # as over HTTP
            ("grpc.use_local_subchannel_pool", 1),  # a back-off of its own
        ]
        target = f"{host}:{address.port}"
        if address.secure:
            credentials = self._grpc.ssl_channel_credentials(root_certificates=_certificates(ca))
            self._channel = self._grpc.secure_channel(target, credentials, options)
        else:
            self._channel = self._grpc.insecure_channel(target, options)
        self._stub = stub(self._channel)
        self.lost = 0
        self._connected = False
        self._channel.subscribe(self._note)

    def parameters(self, within: float) -> Mapping[str, str]:
        request = self._messages.ModelConfigRequest(name=self._model)
        found = self._call(self._stub.ModelConfig, request, within).config.parameters
        return {name: str(one.string_value) for name, one in found.items()}

    def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str], within: float) -> Answer:
        messages = self._messages.ModelInferRequest
        request = messages(
            model_name=self._model,
            inputs=[
                messages.InferInputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
                for tensor in inputs
            ],
            outputs=[messages.InferRequestedOutputTensor(name=name) for name in outputs],
            raw_input_contents=[tensor.data for tensor in inputs],
        )
        answer = self._call(self._stub.ModelInfer, request, within)
        if len(answer.outputs) != len(answer.raw_output_contents):
            raise ServerUnavailableError(_UNREADABLE)
        found = {
            one.name: Tensor(name=one.name, datatype=one.datatype, shape=tuple(one.shape), data=data)
            for one, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        return Answer(outputs=found, model_version=str(answer.model_version))

    def close(self) -> None:
        self._channel.unsubscribe(self._note)
        self._channel.close()

    def _note(self, state: Any) -> None:
        """Count a connection that ended. gRPC calls it in a thread of its own."""
        ready = state is self._grpc.ChannelConnectivity.READY
        self.lost += self._connected and not ready
        self._connected = ready

    def _call(self, method: Callable[..., Any], request: Any, within: float) -> Any:
        try:
            return method(request, timeout=within, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise self._why(error.code(), str(error.details()), within) from None
        except ValueError:  # the channel is closed
            raise ServerUnavailableError("it is not asked any more: this recognizer is closed") from None

    def _why(self, code: Any, details: str, within: float) -> ServerError:
        codes = self._grpc.StatusCode
        if code == codes.DEADLINE_EXCEEDED:
            return no_answer(within)
        if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
            return ServerError(f"it refuses the credentials ({code.name}); check the token, or user and password")
        if code == codes.UNAVAILABLE:
            return ServerUnavailableError(f"it cannot be reached: {reason(details)}; check its address")
        refuses = code in (codes.INVALID_ARGUMENT, codes.NOT_FOUND, codes.UNIMPLEMENTED, codes.OUT_OF_RANGE)
        return refusal(details or code.name, of_request=refuses)


def _certificates(ca: Path | None) -> bytes | None:
    """Return the CA certificates of a file, or None for those of the system. Raises ServerError."""
    try:
        return None if ca is None else ca.read_bytes()
    except OSError as error:
        raise ServerError(f"the CA file {ca} cannot be read: {error.strerror}; check the path") from None


def _load() -> tuple[Any, Any, Any]:
    """Import gRPC, the messages, and the stub. Raises BackendUnavailableError."""
    try:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except ImportError:
        raise BackendUnavailableError(
            "tritonclient, which grpc:// needs, is not installed; pip install 'seqpar-deploy[triton]', or use http://"
        ) from None
    return grpc, service_pb2, service_pb2_grpc.GRPCInferenceServiceStub
