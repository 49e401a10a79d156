"""Runs a generation and sends its answer: as server-sent events, or collected into one body.

Until the first event has arrived nothing is sent, so that a refusal still has its HTTP status; only
a ping after long silence commits to a stream before that. After it, an error travels as
`data: {"error": ...}` followed by `data: [DONE]`, or the format's own words for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from backend.errors import ErnieError, ErrorInfo, InternalError
from backend.wire import Event
from openai_frontend.body import ClientDisconnected
from openai_frontend.deadline import exceeded, shortest
from openai_frontend.error_response import error_response
from openai_frontend.generation import Generation
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import Format
from openai_frontend.pulse import Pulse
from openai_frontend.service import Service

logger = logging.getLogger(__name__)

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True)
class Plan:
    """One HTTP request, ready to run: `requests` are encoded GenerateRequests, one per choice.

    `requests` and `media` are emptied once the first token has come. `timeout_s`: what the client
    grants, from `started_at`; None for as long as the server does.
    """

    id: str
    requests: list[bytes]
    media: list[bytes]
    format: Format
    stream: bool
    include_usage: bool
    started_at: float
    timeout_s: float | None = None


class _FailedEvent(Exception):
    """An event told an error instead of an answer."""

    def __init__(self, info: ErrorInfo) -> None:
        self.info = info


class Reply:
    """One use: `await Reply(service, plan, scope, receive, send).run()`."""

    def __init__(
        self, service: Service, plan: Plan, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._service = service
        self._plan = plan
        self._answers = [Answer() for _ in plan.requests]
        self._first_token_s: float | None = None
        self._has_started = False
        self._scope, self._receive = scope, receive
        self._generation = service.open(plan.id, plan.requests, plan.media)
        self._pulse = Pulse(
            scope,
            send,
            self._generation.tick,
            service.settings.ping_interval_s if plan.stream else 0.0,
        )

    async def run(self) -> None:
        """Answers in every case; raises nothing but cancellation."""
        generation = self._generation
        timeout_s = shortest(self._service.settings.request_timeout_s, self._plan.timeout_s)
        watcher = asyncio.create_task(_watch(self._receive, generation))
        timer = asyncio.get_running_loop().call_later(
            max(0.0, self._plan.started_at + timeout_s - time.monotonic()), self._expire, timeout_s
        )
        metrics = self._service.metrics
        try:
            await (self._stream() if self._plan.stream else self._collect())
            self._count_success()
        except ClientDisconnected:
            metrics.aborted("waiting" if self._first_token_s is None else "generating")
        except _FailedEvent as failure:
            metrics.failed(failure.info.code)
            await self._send_error(failure.info)
        except ErnieError as error:
            metrics.failed(error.code)
            await self._send_error(error.info())
        except Exception:
            logger.exception("request %s failed", self._plan.id)
            metrics.failed("internal_error")
            await self._send_error(
                InternalError("internal error; the server's log has the cause").info()
            )
        finally:
            timer.cancel()
            watcher.cancel()
            self._pulse.stop()
            self._service.close(generation)

    def _expire(self, timeout_s: float) -> None:
        self._generation.interrupt(exceeded(timeout_s))
        # Not left to the end of the answer: a client that has stopped reading delays that.
        self._generation.stop()

    async def _stream(self) -> None:
        while not self._is_complete():
            events = await self._generation.take()
            frames = [] if events else [self._plan.format.ping]
            try:
                for index, event in events:
                    frames.append(self._chunk(index, event))
            finally:
                if not self._is_complete() and any(frames):
                    await self._start_stream()
                    await self._send_body(b"".join(frames), more=True)
                    frames = []
        await self._start_stream()
        if self._plan.include_usage:
            frames.append(self._plan.format.usage_chunk(self._answers))
        await self._send_body(b"".join((*frames, self._plan.format.done)), more=False)

    async def _collect(self) -> None:
        while not self._is_complete():
            for index, event in await self._generation.take():
                self._note(event)
                self._answers[index].add(event)
        body = self._plan.format.body(self._answers)
        await self._start(200, [(b"content-type", b"application/json")], len(body))
        await self._send_body(body, more=False)

    def _chunk(self, index: int, event: Event) -> bytes:
        self._note(event)
        self._answers[index].track(event)
        elapsed_s = time.monotonic() - self._plan.started_at
        return self._plan.format.chunk(index, event, self._answers, elapsed_s)

    def _note(self, event: Event) -> None:
        if event.error is not None:
            raise _FailedEvent(event.error)
        if event.report is not None:
            self._service.metrics.media.prepared(event.report)
        if self._first_token_s is None:
            self._plan.requests.clear()  # Triton has them; pictures need not be kept twice
            self._plan.media.clear()
            self._first_token_s = time.monotonic() - self._plan.started_at
            if self._plan.stream:  # a collected answer arrives whole
                self._service.metrics.first_token(self._first_token_s)

    def _is_complete(self) -> bool:
        return all(answer.finish_reason is not None for answer in self._answers)

    async def _start_stream(self) -> None:
        if not self._has_started:
            await self._start(200, _STREAM_HEADERS)

    async def _start(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], length: int | None = None
    ) -> None:
        self._has_started = True
        if length is not None:
            headers = [*headers, (b"content-length", str(length).encode())]
        await self._pulse.send(
            {"type": "http.response.start", "status": status, "headers": list(headers)}
        )

    async def _send_body(self, body: bytes, more: bool) -> None:
        await self._pulse.send({"type": "http.response.body", "body": body, "more_body": more})

    async def _send_error(self, info: ErrorInfo) -> None:
        self._generation.stop()
        if self._has_started:
            form = self._plan.format
            await self._send_body(form.failure(info) + form.done, more=False)
        else:
            response = error_response(info, self._scope["path"])
            await response(self._scope, self._receive, self._pulse.send)

    def _count_success(self) -> None:
        self._service.metrics.succeeded(
            [answer.usage for answer in self._answers],
            [answer.finish_reason.value for answer in self._answers if answer.finish_reason],
            self._first_token_s if self._plan.stream else None,
            time.monotonic() - self._plan.started_at,
        )


async def _watch(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.interrupt(ClientDisconnected())
