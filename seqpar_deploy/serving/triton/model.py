"""The model that Triton's Python backend loads: one `Recognizer`, crops in, predictions out.

A repository's `model.py` imports `TritonPythonModel` from here. Triton calls `initialize` once per instance, each in a
process of its own, and then `execute` with the requests of one batch.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from seqpar_deploy.errors import BackendError, SeqparError, TritonError
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving.protocol import REFUSAL, served_labels
from seqpar_deploy.serving.triton.environment import check_environment
from seqpar_deploy.serving.triton.golden import golden_difference
from seqpar_deploy.serving.triton.tensors import Inputs, output_arrays, read_inputs
from seqpar_deploy.without import WithoutAttributes

BUNDLE = "bundle"  # folder of the bundle in a version's folder
_MOST_PENDING = 256 << 20  # bytes of decoded pixels that wait to be recognised: one picture may have 192 MB

_log = logging.getLogger(__name__)


def answer(recognizer: AnyRecognizer, requests: Sequence[Inputs]) -> list[list[Prediction] | SeqparError]:
    """Recognise the crops of several requests together.

    A request that cannot be used costs that request alone.

    Args:
        recognizer: The recogniser.
        requests: The inputs of each request.

    Returns:
        The predictions of each request, or its error, in the same order.
    """
    errors: dict[int, SeqparError] = {}
    done: list[list[Prediction]] = [[] for _ in requests]
    pending: list[tuple[int, Crop, Any]] = []

    def recognise() -> None:
        usable = [item for item in pending if item[0] not in errors]
        pending.clear()
        if not usable:
            return
        crops, drafts = [crop for _, crop, _ in usable], [draft for _, _, draft in usable]
        try:
            predictions = recognizer.predict(crops, drafts=drafts if any(drafts) else None)
        except SeqparError as error:  # of the backend: inputs have been checked
            errors.update((place, error) for place, _, _ in usable)
            return
        for (place, _, _), prediction in zip(usable, predictions, strict=True):
            done[place].append(prediction)

    size = 0
    for place, inputs in enumerate(requests):
        try:
            for crop, draft in read_inputs(inputs, recognizer.label_set):
                pending.append((place, crop, draft))
                size += crop.nbytes
                if size > _MOST_PENDING:
                    recognise()
                    size = 0
        except SeqparError as error:
            errors[place] = error
    recognise()
    return [errors.get(place, predictions) for place, predictions in enumerate(done)]


def open_recognizer(bundle: Path, config: Mapping[str, Any], *, kind: str, device: str) -> Recognizer:
    """Open a bundle for one instance of the model, and check it against its golden data.

    Args:
        bundle: The bundle's folder.
        config: The model's configuration, as Triton passes it.
        kind: Kind of the instance, `CPU` or `GPU`.
        device: Number of its GPU.

    Returns:
        The recogniser. Several CPU instances share the cores. A single one uses the settings of `seqpar tune`.

    Raises:
        SeqparError: The environment cannot run the model, the bundle cannot be opened, or it does not reproduce its
            golden sequences here.
    """
    check_environment()
    # An instance is a process of its own, so that its GPU is the only one it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = device if kind == "GPU" else ""
    instances = sum(group.get("count", 1) for group in config.get("instance_group", ())) or 1
    threads = max(1, usable_cores() // instances) if kind != "GPU" and instances > 1 else None
    recognizer = Recognizer.from_bundle(bundle, threads=threads)
    try:
        if difference := golden_difference(recognizer):
            raise TritonError(
                f"{bundle} must reproduce its golden sequences on {recognizer.backend.name}, got {difference}; run "
                "seqpar parity there"
            )
    except BaseException:
        recognizer.close()
        raise
    return recognizer


def _limited(recognizer: Recognizer, config: Mapping[str, Any]) -> AnyRecognizer:
    """Return the recogniser with the attributes that the configuration has. Others are kept out."""
    served = served_labels({name: one["string_value"] for name, one in config.get("parameters", {}).items()})
    if served is None:
        return recognizer
    left = {one.name for one in served.attributes}
    removed = [one.name for one in recognizer.label_set.attributes if one.name not in left]
    return WithoutAttributes(recognizer, removed) if removed else recognizer


class TritonPythonModel:
    """The model. Triton makes it without arguments and calls its methods by these names."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle of this version. A failure keeps the model from being ready.

        Args:
            args: Triton's arguments: paths, version, instance kind, and the configuration as JSON.
        """
        self._sdk = _sdk()
        package = logging.getLogger("seqpar_deploy")
        package.addHandler(_ToTriton(self._sdk))
        package.setLevel(logging.INFO)
        bundle = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        bundle = bundle.resolve()  # in messages, a temporary repository's link would be no help
        config = json.loads(args["model_config"])
        try:
            recognizer = open_recognizer(
                bundle, config, kind=args["model_instance_kind"], device=args["model_instance_device_id"]
            )
            self._recognizer = _limited(recognizer, config)
        except SeqparError as error:
            raise self._sdk.TritonModelException(REFUSAL + _one_line(error)) from None
        backend = recognizer.backend
        _log.info("%s reproduces its golden sequences on %s (%s)", bundle, backend.name, backend.device)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch.

        Args:
            requests: Triton's requests.

        Returns:
            One response per request, in the same order.
        """
        inputs = [self._inputs(request) for request in requests]
        answers = iter(answer(self._recognizer, [one for one in inputs if isinstance(one, Inputs)]))
        results = [next(answers) if isinstance(one, Inputs) else one for one in inputs]
        return [self._response(*pair) for pair in zip(requests, results, strict=True)]

    def finalize(self) -> None:
        """Release the backend."""
        if hasattr(self, "_recognizer"):
            self._recognizer.close()

    def _inputs(self, request: Any) -> Inputs | SeqparError:
        try:
            return Inputs(**dict(self._tensors(request)))
        except Exception as error:  # Triton's parser of BYTES raises several kinds for a wrong length
            return SeqparError(f"the inputs must be KServe tensors, got ones that cannot be read: {error}; send BYTES")

    def _tensors(self, request: Any) -> Iterator[tuple[str, Any]]:
        for tensor in request.inputs():
            yield tensor.name(), tensor.as_numpy()

    def _response(self, request: Any, result: list[Prediction] | SeqparError) -> Any:
        if isinstance(result, BackendError):  # not the request's fault, so clients may send it again
            kind = self._sdk.TritonError.INTERNAL
            return self._sdk.InferenceResponse(
                error=self._sdk.TritonError(f"the backend fails: {_one_line(result)}", kind)
            )
        if isinstance(result, SeqparError):
            kind = self._sdk.TritonError.INVALID_ARG
            return self._sdk.InferenceResponse(error=self._sdk.TritonError(REFUSAL + _one_line(result), kind))
        arrays = output_arrays(result, self._recognizer.label_set, request.requested_output_names())
        return self._sdk.InferenceResponse([self._sdk.Tensor(name, array) for name, array in arrays.items()])


class _ToTriton(logging.Handler):
    """Passes log records to Triton's log."""

    def __init__(self, sdk: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = sdk.Logger

    def emit(self, record: logging.LogRecord) -> None:
        log = {logging.INFO: self._logger.log_info, logging.WARNING: self._logger.log_warn}
        log.get(record.levelno, self._logger.log_error)(REFUSAL + _one_line(record.getMessage()))


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _sdk() -> Any:
    """Import the module that Triton's stub provides."""
    try:
        import triton_python_backend_utils as sdk
    except ImportError:
        raise TritonError(
            "this model must run in the Python backend of Triton, got another process; start it with seqpar serve"
        ) from None
    return cast(Any, sdk)
