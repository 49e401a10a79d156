"""One open stream of the engine's stub: who waits for it and what was not sent yet."""

from __future__ import annotations

import threading
from typing import Protocol

from backend.engine.credits import CreditLease
from backend.errors import ErrorInfo
from backend.request import FinishReason, Usage
from backend.wire import Delivery, EngineOutput, EngineRequest


class Responder(Protocol):
    """The way back to a Triton client. Only the sender's thread calls `send`."""

    def send(self, output: EngineOutput) -> None:
        """Send; the last output of a stream goes with Triton's FINAL flag. May raise anything."""

    def is_cancelled(self) -> bool:
        """A round trip to the server: tens of microseconds at least. Not after the last output:
        the server has forgotten the request then, and looks it up by its address."""


class Stream:
    """`pending` is everything the engine brought since the last send, merged into one output."""

    def __init__(self, request: EngineRequest, responder: Responder) -> None:
        self.key = request.stream_key
        self.request = request
        self.responder = responder
        self.pending: EngineOutput | None = None
        self.is_queued = False
        self.is_complete = False
        self.is_lost = False
        self.is_stopping = False
        self.num_sent = 0
        self.last_sent_at = 0.0
        self.lease: CreditLease | None = None
        delivery = request.delivery or Delivery()
        # Only a postprocessor takes a bundle apart.
        self.group = delivery.event_group if request.acknowledged else ""
        self.event_key = delivery.event_key
        self._responder_lock = threading.Lock()

    def add(self, output: EngineOutput) -> None:
        if self.pending is None:
            self.pending = output
        else:
            merge(self.pending, output)

    def add_tokens(self, token_ids: list[int]) -> None:
        if self.pending is None:
            self.pending = EngineOutput(self.key, 0, token_ids=token_ids)
        else:
            self.pending.token_ids += token_ids

    @property
    def is_sendable(self) -> bool:
        """A collected stream has something to send only when it is complete."""
        pending = self.pending
        return pending is not None and (pending.is_last or not self.request.collect)

    @property
    def is_bundleable(self) -> bool:
        """First and last outputs go alone: the one is in a hurry, the other ends the request."""
        pending = self.pending
        return bool(
            self.group
            and self.num_sent
            and not self.is_lost
            and pending is not None
            and not pending.is_last
        )

    def send(self, output: EngineOutput) -> None:
        """Raises what the responder raises."""
        with self._responder_lock:
            self.is_complete = output.is_last
            self.responder.send(output)

    def is_cancelled(self) -> bool:
        with self._responder_lock:
            return not self.is_complete and self.responder.is_cancelled()

    def take(self) -> EngineOutput:
        """The pending output, numbered; the first carries what the postprocessor needs to know."""
        output = self.pending or EngineOutput(stream_key=self.key, seq=0)
        self.pending = None
        output.stream_key = self.key
        output.seq = self.num_sent
        output.event_key = self.event_key
        if self.num_sent == 0:
            output.request_id = self.request.request_id
            output.post = self.request.post
        self.num_sent += 1
        return output

    def put_back(self, output: EngineOutput) -> None:
        """Undo the last `take`: its output, no first or last one, could not be sent."""
        self.num_sent -= 1
        if self.pending is not None:
            merge(output, self.pending)
        self.pending = output


def merge(first: EngineOutput, second: EngineOutput) -> None:
    """Append `second` to `first`, which came before it on the same stream."""
    first.token_ids.extend(second.token_ids)
    if first.logprobs is None:
        first.logprobs = second.logprobs
    elif second.logprobs is not None:
        first.logprobs.extend(second.logprobs)
    first.finish_reason = second.finish_reason
    first.stop_token_id = second.stop_token_id
    first.usage = second.usage or first.usage
    first.error = second.error
    first.stats = second.stats or first.stats


def error_output(key: str, error: ErrorInfo) -> EngineOutput:
    return EngineOutput(stream_key=key, seq=0, error=error)


def aborted_output(key: str, num_prompt_tokens: int) -> EngineOutput:
    """End of a stream that was stopped before it began."""
    return EngineOutput(
        stream_key=key,
        seq=0,
        finish_reason=FinishReason.ABORT,
        usage=Usage(prompt_tokens=num_prompt_tokens),
    )
