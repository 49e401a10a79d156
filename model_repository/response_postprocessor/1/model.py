"""`response_postprocessor`: EngineOutput → EVENT; tells the engine what it sees of a stream's end.

The package `backend` is looked for beside this repository; where the repository was copied away
from it, set ERNIE_HOME to the folder that holds `backend/` (the stub ignores PYTHONPATH).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.environ.get("ERNIE_HOME") or str(Path(__file__).resolve().parents[3]))

from backend import wire
from backend.config.serving import PostprocessorSettings, load_settings
from backend.errors import ErnieError, InternalError
from backend.postprocess import Postprocessor
from backend.stub import arguments
from backend.stub.finished_calls import FinishedCalls
from backend.stub.relay import StreamRelay

log = logging.getLogger("response_postprocessor")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        arguments.configure_logging()
        try:
            arguments.check_numpy(os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
            settings = load_settings(PostprocessorSettings, arguments.parameters_of(args))
            self._postprocessor = Postprocessor(settings)
        except ErnieError as error:
            raise pb_utils.TritonModelException(error.message) from None
        self._relay = StreamRelay()
        self._calls = FinishedCalls()

    def execute(self, requests) -> list:
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        self._relay.close()

    def _respond(self, request):
        try:
            data = pb_utils.get_input_tensor_by_name(request, "ENGINE_OUTPUT").as_numpy()
            output = wire.decode(data.tobytes(), wire.EngineOutput)
        except ErnieError as error:
            event = wire.Event(seq=0, error=error.info())
        else:
            if output.bundle:
                event = self._bundle(output, request)
            else:
                event = self._event(output, request.is_cancelled)
        if event is None:
            return pb_utils.InferenceResponse([])
        data = np.array([wire.encode(event)], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("EVENT", data)])

    def _bundle(self, output: wire.EngineOutput, request) -> wire.Event | None:
        # The request is the first one's: of the others' cancels it knows nothing.
        cancels = [request.is_cancelled] + [_never] * (len(output.bundle) - 1)
        events = map(self._event, output.bundle, cancels)
        bundle = [event for event in events if event is not None]
        return wire.Event(seq=-1, bundle=bundle) if bundle else None

    def _event(self, output: wire.EngineOutput, is_cancelled) -> wire.Event | None:
        try:
            event = self._process(output, is_cancelled)
        except ErnieError as error:
            event = wire.Event(seq=0, error=error.info())
        except Exception as error:
            # A Triton error in mid-ensemble leaks the request, so even this one is data.
            log.exception("request %s", output.request_id or output.stream_key)
            info = InternalError(f"{type(error).__name__} in response_postprocessor").info()
            event = wire.Event(seq=0, error=info)
        if event is not None:
            event.key = output.event_key
        return event

    def _process(self, output: wire.EngineOutput, is_cancelled) -> wire.Event | None:
        try:
            event = self._postprocessor.process(output)
            wants_stop = self._postprocessor.wants_stop(output.stream_key)
            if self._relay.should_stop(output, is_cancelled, wants_stop):
                self._stop_engine(output.stream_key)
            return event
        finally:
            self._relay.acknowledge(output)

    def _stop_engine(self, stream_key: str) -> None:
        message = wire.encode(wire.EngineRequest(op="stop", stream_key=stream_key))
        call = pb_utils.InferenceRequest(
            model_name="ernie_engine",
            requested_output_names=["ENGINE_OUTPUT"],
            inputs=[pb_utils.Tensor("ENGINE_REQUEST", np.frombuffer(message, np.uint8))],
        )
        responses = call.exec(decoupled=True)
        try:
            for response in responses:
                if response.has_error():
                    error = response.error()
                    log.warning("stream %s: cannot stop the engine: %s", stream_key, error)
        finally:
            self._calls.keep(responses)


def _never() -> bool:
    return False
