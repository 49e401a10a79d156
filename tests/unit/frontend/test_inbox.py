from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import EngineUnavailableError, ErrorInfo, InternalError
from backend.request import FinishReason
from backend.wire import Event
from openai_frontend import inbox as inbox_module
from openai_frontend.inbox import Inbox


def keyed(seq: int, last: bool = False) -> Event:
    return Event(seq, key="k", finish_reason=FinishReason.STOP if last else None)


async def collect(inbox: Inbox) -> list[int]:
    return [event.seq async for event in inbox.events()]


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_events_come_in_order_however_they_arrive(number: int, order: random.Random):
    async def run() -> None:
        events = [keyed(seq, last=seq == number - 1) for seq in range(number)]
        order.shuffle(events)
        inbox = Inbox()
        reader = asyncio.create_task(collect(inbox))
        for event in events:
            inbox.put(event)
            if order.random() < 0.5:
                await asyncio.sleep(0)
        inbox.end()
        assert await reader == list(range(number))

    asyncio.run(run())


async def test_events_without_a_key_are_taken_as_they_come():
    inbox = Inbox()
    for event in (Event(0), Event(0), Event(0, finish_reason=FinishReason.STOP)):
        inbox.put(event)
    assert await collect(inbox) == [0, 0, 0]


async def test_an_error_does_not_wait_for_what_is_missing():
    inbox = Inbox()
    inbox.put(keyed(0))
    inbox.put(keyed(2))
    info = ErrorInfo(500, "server_error", "internal_error", "broken")
    inbox.put(Event(0, key="k", error=info))
    events = [event async for event in inbox.events()]
    assert [event.error for event in events] == [None, info]


async def test_the_end_of_the_calls_responses_waits_for_events_that_others_bring():
    inbox = Inbox()
    inbox.put(keyed(1, last=True))
    inbox.end()
    reader = asyncio.create_task(collect(inbox))
    await asyncio.sleep(0)
    inbox.put(keyed(0))
    assert await reader == [0, 1]


async def test_an_end_without_a_last_event_is_the_end():
    inbox = Inbox()
    inbox.put(keyed(0))
    inbox.end()
    assert await collect(inbox) == [0]


async def test_a_failure_comes_after_the_events_before_it():
    inbox = Inbox()
    inbox.put(keyed(0))
    inbox.fail(InternalError("first"))
    inbox.fail(InternalError("second"))
    seen = []
    with pytest.raises(InternalError, match="first"):
        async for event in inbox.events():
            seen.append(event.seq)
    assert seen == [0]


async def test_an_event_that_never_comes_ends_the_stream_with_an_error(monkeypatch):
    monkeypatch.setattr(inbox_module, "GAP_TIMEOUT_S", 0.02)
    inbox = Inbox()
    inbox.put(keyed(1))
    with pytest.raises(EngineUnavailableError, match="lost"):
        await collect(inbox)


async def test_a_gap_that_was_filled_is_forgotten(monkeypatch):
    monkeypatch.setattr(inbox_module, "GAP_TIMEOUT_S", 0.02)
    inbox = Inbox()
    inbox.put(keyed(1))
    inbox.put(keyed(0))
    reader = asyncio.create_task(collect(inbox))
    await asyncio.sleep(0.05)
    inbox.put(keyed(2, last=True))
    assert await reader == [0, 1, 2]
