"""A scripted inference server: what it answers is written down in the test.

    triton = FakeTriton([text("Hel"), text("lo"), finish(prompt=5, completion=2)])

Steps of a script: an Event is sent, an exception raised, an asyncio.Event waited for. `forever` is
a stream that goes on until it is stopped. Each request takes the next script, the last one for all
that follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend import wire
from backend.errors import ErnieError
from backend.request import FinishReason, Usage
from backend.wire import Delta, Event, GenerateRequest, ToolCallDelta
from openai_frontend.upstream import Tokens

Step = Event | ErnieError | asyncio.Event


@dataclass
class Sent:
    request_id: str
    request: GenerateRequest
    media: list[bytes]


@dataclass
class FakeTriton:
    script: Sequence[Step] = ()
    scripts: Sequence[Sequence[Step]] = ()
    state: dict[str, Any] = field(default_factory=lambda: {"engine_up": 1, "max_model_len": 4096})
    failure: ErnieError | None = None
    answer: Tokens | ErnieError = field(default_factory=Tokens)

    def __post_init__(self) -> None:
        self.sent: list[Sent] = []
        self.asked: list[Sent] = []
        self.stopped: list[str] = []
        self.num_stats = 0
        self.num_open = 0
        self.num_read_to_end = 0
        self._stops: dict[str, asyncio.Event] = {}

    async def generate(
        self, request_id: str, request: bytes, media: Sequence[bytes]
    ) -> AsyncIterator[Event]:
        index = len(self.sent)
        self.sent.append(Sent(request_id, wire.decode(request, GenerateRequest), list(media)))
        scripts = self.scripts or [self.script]
        stop = self._stops.setdefault(request_id, asyncio.Event())
        self.num_open += 1
        try:
            for step in scripts[min(index, len(scripts) - 1)]:
                if isinstance(step, ErnieError):
                    raise step
                if isinstance(step, asyncio.Event):
                    await _first(step, stop)
                    if stop.is_set():
                        yield finish(reason=FinishReason.ABORT)
                        break
                    continue
                await asyncio.sleep(0)
                yield step
            self.num_read_to_end += 1
        finally:
            self.num_open -= 1

    async def tokens(self, request: bytes, media: Sequence[bytes]) -> Tokens:
        self.asked.append(Sent("", wire.decode(request, GenerateRequest), list(media)))
        if isinstance(self.answer, ErnieError):
            raise self.answer
        return self.answer

    async def stop(self, request_id: str) -> None:
        self.stopped.append(request_id)
        self._stops.setdefault(request_id, asyncio.Event()).set()

    async def stats(self) -> dict[str, Any]:
        self.num_stats += 1
        if self.failure is not None:
            raise self.failure
        return self.state

    async def probe(self) -> None:
        if self.failure is not None:
            raise self.failure


def text(content: str = "", reasoning: str = "", **fields: Any) -> Event:
    return Event(seq=0, delta=Delta(content=content, reasoning=reasoning), **fields)


def call(index: int, arguments: str, id: str | None = None, name: str | None = None) -> Event:
    return Event(seq=0, delta=Delta(tool_calls=[ToolCallDelta(index, id, name, arguments)]))


def finish(
    content: str = "",
    reason: FinishReason = FinishReason.STOP,
    usage: Usage | None = None,
    **fields: Any,
) -> Event:
    return Event(
        seq=0,
        delta=Delta(content=content),
        finish_reason=reason,
        usage=usage or Usage(prompt_tokens=7, completion_tokens=3),
        **fields,
    )


def forever() -> list[Step]:
    return [text("a"), asyncio.Event()]


async def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> float:
    """Seconds until `condition` was true; fails the test when it does not come true."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, "it did not happen in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
