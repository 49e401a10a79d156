"""`ernie_engine`: hands requests to the engine process and its outputs back, decoupled.

The package `backend` is looked for beside this repository; where the repository was copied away
from it, set ERNIE_HOME to the folder that holds `backend/` (the stub ignores PYTHONPATH).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.environ.get("ERNIE_HOME") or str(Path(__file__).resolve().parents[3]))

from backend import wire
from backend.config.serving import EngineSettings, load_settings
from backend.engine.client import EngineClient
from backend.engine.metrics import EngineMetrics
from backend.engine.stream import error_output
from backend.errors import ErnieError, InternalError, InvalidRequestError
from backend.stub import arguments

METRICS_S = 1.0

log = logging.getLogger("ernie_engine")


class TritonResponder:
    """The way back to one Triton request."""

    def __init__(self, request) -> None:
        self._sender = request.get_response_sender()

    def send(self, output: wire.EngineOutput) -> None:
        data = np.frombuffer(wire.encode(output), np.uint8)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("ENGINE_OUTPUT", data)])
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if output.is_last else 0
        self._sender.send(response, flags=flags)

    def is_cancelled(self) -> bool:
        return self._sender.is_cancelled()


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        arguments.configure_logging()
        try:
            arguments.check_numpy(os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
            settings = load_settings(EngineSettings, arguments.parameters_of(args))
            self._client = EngineClient(settings)
            self._client.start()
        except ErnieError as error:
            raise pb_utils.TritonModelException(error.message) from None
        self._families: list = []
        self._finalizing = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="metrics", daemon=True)
        self._publisher.start()

    def execute(self, requests) -> None:
        for request in requests:
            responder = TritonResponder(request)
            try:
                self._submit(request, responder)
            except ErnieError as error:
                responder.send(error_output("", error.info()))
            except Exception as error:
                # A Triton error in mid-ensemble leaks the request, so even this one is data.
                log.exception("request %s", request.request_id())
                info = InternalError(f"{type(error).__name__} in ernie_engine").info()
                responder.send(error_output("", info))

    def is_ready(self) -> bool:
        """Asked by Triton 26.03 and later, on /v2/health/ready."""
        return self._client.is_ready

    def finalize(self) -> None:
        self._finalizing.set()
        self._publisher.join()
        self._families.clear()  # while Triton can be told: at the interpreter's end that is a crash
        self._client.close()

    def _submit(self, request, responder: TritonResponder) -> None:
        data = _array(request, "ENGINE_REQUEST")
        if data is None:  # Triton counts inputs, it does not look for the one that is required
            raise InvalidRequestError("ENGINE_REQUEST is missing", param="ENGINE_REQUEST")
        message = wire.decode(data.tobytes(), wire.EngineRequest)
        message.request_id = message.request_id or request.request_id()
        if parameters := request.parameters():
            message.delivery = wire.decode(parameters.encode(), wire.Delivery)
        self._client.submit(
            message, _array(request, "PROMPT_IDS"), _array(request, "POSITIONS"), responder
        )

    def _publish(self) -> None:
        try:
            metrics = EngineMetrics(self._make_family)
            while not self._finalizing.wait(METRICS_S):
                metrics.publish(self._client.stats())
        except pb_utils.TritonModelException as error:
            log.info("no metrics of the engine: %s", error)  # --allow-metrics=false

    def _make_family(self, kind: str, name: str, description: str, labels: list) -> list:
        kinds = {"gauge": pb_utils.MetricFamily.GAUGE, "counter": pb_utils.MetricFamily.COUNTER}
        family = pb_utils.MetricFamily(name=name, description=description, kind=kinds[kind])
        self._families.append(family)  # its metrics vanish with it
        return [family.Metric(labels=item) for item in labels]


def _array(request, name: str) -> np.ndarray | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
