"""The door to the engine, in the stub of `ernie_engine`: open streams, stops, cancels, health.

`submit` never raises and never blocks on the engine's work: whatever happens, the responder gets
its outputs, and exactly one of them is the last.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from backend import shared_memory
from backend.config.serving import EngineSettings
from backend.engine.protocol import StopStream, Submit, pack_arrays
from backend.engine.sender import Sender
from backend.engine.stream import Responder, Stream, aborted_output, error_output
from backend.engine.submission import check_prompt, check_request
from backend.engine.supervisor import Supervisor, engine_command
from backend.errors import EngineUnavailableError, ErnieError, InvalidRequestError
from backend.request import FinishReason
from backend.wire import EngineOutput, EngineRequest

CANCEL_POLL_S = 0.1
SWEEP_S = 30.0
MAX_STOP_AGE_S = 300.0
MAX_STOPS = 4096

log = logging.getLogger("ernie_engine")


class EngineClient:
    def __init__(
        self,
        settings: EngineSettings,
        command: Callable[[int], list[str]] = engine_command,
        min_backoff_s: float = 1.0,
    ) -> None:
        self._lock = threading.RLock()
        self._streams: dict[str, Stream] = {}
        self._stops: dict[str, float] = {}
        self._counters = {"requests": 0, "requests_failed": 0, "requests_aborted": 0}
        self._closing = threading.Event()
        self._supervisor = Supervisor(settings, self, command, min_backoff_s)
        self._sender = Sender(on_lost=self._stop_stream)
        # Not one thread for both: telling a hung engine of a cancel may block until it is killed.
        self._housekeepers = [
            threading.Thread(target=self._keep_house, name="engine-housekeeper", daemon=True),
            threading.Thread(target=self._watch, name="engine-watchdog", daemon=True),
        ]

    def start(self) -> None:
        """Load the engine; raises EngineUnavailableError with its reason when it cannot."""
        removed = shared_memory.sweep()
        if removed:
            log.info("removed %d stale files from shared memory", len(removed))
        self._supervisor.start()
        for thread in self._housekeepers:
            thread.start()

    def close(self) -> None:
        """End every stream and the engine process."""
        self._closing.set()
        self._supervisor.stop()
        self.on_down(self._supervisor.unavailable())
        for thread in self._housekeepers:
            if thread.is_alive():
                thread.join()
        self._sender.close()

    @property
    def is_ready(self) -> bool:
        return self._supervisor.is_ready

    def submit(
        self,
        request: EngineRequest,
        prompt_ids: npt.NDArray[np.int32] | None,
        positions: npt.NDArray[np.int32] | None,
        responder: Responder,
    ) -> None:
        """Serve one call of `ernie_engine`. The arrays may be reused by the caller afterwards."""
        stream = Stream(request, responder)
        try:
            check_request(request)
            if request.op == "generate":
                self._generate(stream, prompt_ids, positions)
            else:
                self._push(stream, self._answer(request))
        except ErnieError as error:
            shared_memory.discard_pixels(request.pixels)
            self._count("requests_failed")
            self._push(stream, error_output(stream.key, error.info()))

    def stats(self) -> dict[str, Any]:
        """Flat: the engine's numbers, the supervisor's state, the stub's own counters."""
        with self._lock:
            num_streams = len(self._streams)
        return {
            **self._supervisor.stats(),
            **self._counters,
            "open_streams": num_streams,
            "outputs_sent": self._sender.num_outputs,
            "responses_sent": self._sender.num_responses,
        }

    # ---- the supervisor's calls -----------------------------------------------------------------

    def on_outputs(self, outputs: list[EngineOutput]) -> None:
        items = []
        with self._lock:
            for output in outputs:
                stream = (
                    self._streams.pop(output.stream_key, None)
                    if output.is_last
                    else self._streams.get(output.stream_key)
                )
                if stream is None:
                    continue
                if output.is_last:
                    self._count_end(output)
                items.append((stream, output))
        if items:
            self._sender.push(items)

    def on_tokens(self, tokens: dict[str, list[int]]) -> None:
        """New tokens, by stream key, of streams that go on."""
        with self._lock:
            streams = [self._streams.get(key) for key in tokens]
        self._sender.push_tokens(zip(streams, tokens.values(), strict=True))

    def on_down(self, error: EngineUnavailableError) -> None:
        """The engine died, and with it every request it had."""
        with self._lock:
            streams = list(self._streams.values())
            self._streams.clear()
            self._count("requests_failed", len(streams))
        for stream in streams:
            shared_memory.discard_pixels(stream.request.pixels)
        self._sender.push((stream, error_output(stream.key, error.info())) for stream in streams)

    # ---- operations -----------------------------------------------------------------------------

    def _generate(
        self,
        stream: Stream,
        prompt_ids: npt.NDArray[np.int32] | None,
        positions: npt.NDArray[np.int32] | None,
    ) -> None:
        request = stream.request
        check_prompt(request, prompt_ids, positions)
        if prompt_ids is None:
            return
        self._count("requests")
        if self._was_stopped(request) or stream.is_cancelled():
            shared_memory.discard_pixels(request.pixels)
            self._count("requests_aborted")
            self._push(stream, aborted_output(stream.key, prompt_ids.size))
            return
        request.stream_key = stream.key = request.stream_key or uuid.uuid4().hex
        with self._lock:
            if stream.key in self._streams:
                raise InvalidRequestError(
                    f"stream_key {stream.key!r} is in use", param="stream_key"
                )
            self._streams[stream.key] = stream
        try:
            self._supervisor.send(Submit(request), pack_arrays(prompt_ids, positions))
        except ErnieError:
            with self._lock:
                if self._streams.pop(stream.key, None) is None:
                    return  # the engine died meanwhile: on_down has answered
            raise

    def _answer(self, request: EngineRequest) -> EngineOutput:
        """The one output of an op that does not generate."""
        key = request.stream_key
        if request.op == "error" and request.error is not None:
            self._count("requests_failed")
            return error_output(key, request.error)
        stats = {"stopped": self._stop(request)} if request.op == "stop" else self.stats()
        return EngineOutput(stream_key=key, seq=0, stats=stats, finish_reason=FinishReason.STOP)

    def _stop(self, request: EngineRequest) -> int:
        with self._lock:
            if request.stream_key:
                found = [self._streams.get(request.stream_key)]
            else:
                found = [
                    stream
                    for stream in self._streams.values()
                    if stream.request.request_id == request.request_id
                ]
                self._remember_stop(request.request_id)
        streams = [stream for stream in found if stream is not None]
        for stream in streams:
            self._stop_stream(stream)
        return len(streams)

    def _stop_stream(self, stream: Stream) -> None:
        """Ask the engine to end a stream; its last output comes back like any other."""
        if stream.is_stopping:
            return
        stream.is_stopping = True
        try:
            self._supervisor.send(StopStream(stream.key))
        except EngineUnavailableError:
            return  # it dies with the engine

    def _remember_stop(self, request_id: str) -> None:
        now = time.monotonic()
        self._stops.pop(request_id, None)
        self._stops[request_id] = now
        while self._stops:
            oldest = next(iter(self._stops))
            if len(self._stops) <= MAX_STOPS and now - self._stops[oldest] < MAX_STOP_AGE_S:
                return
            del self._stops[oldest]

    def _was_stopped(self, request: EngineRequest) -> bool:
        """Whether a stop for this request came while it was still being preprocessed."""
        with self._lock:
            return 0.0 < request.received_at < self._stops.get(request.request_id, 0.0)

    def _push(self, stream: Stream, output: EngineOutput) -> None:
        self._sender.push([(stream, output)])

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counters[name] += number

    def _count_end(self, output: EngineOutput) -> None:
        if output.error is not None:
            self._count("requests_failed")
        elif output.finish_reason is FinishReason.ABORT:
            self._count("requests_aborted")

    # ---- the housekeepers' threads --------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closing.wait(CANCEL_POLL_S):
            self._supervisor.check()

    def _keep_house(self) -> None:
        next_sweep = time.monotonic() + SWEEP_S
        while not self._closing.wait(CANCEL_POLL_S):
            self._stop_cancelled()
            if time.monotonic() > next_sweep:
                next_sweep = time.monotonic() + SWEEP_S
                shared_memory.sweep()

    def _stop_cancelled(self) -> None:
        """Direct clients cancel through Triton; in an ensemble the postprocessor relays it."""
        with self._lock:
            streams = [
                stream
                for stream in self._streams.values()
                if not stream.request.acknowledged and not stream.is_stopping
            ]
        for stream in streams:
            if stream.is_cancelled():
                self._stop_stream(stream)
