"""Events of several pumps, one reader, and what wakes it besides events."""

from __future__ import annotations

import asyncio

import pytest

from openai_frontend.mailbox import MAX_EVENTS, Mailbox
from tests.unit.frontend.fake_triton import text

EVENT = text("x")


async def test_the_reader_gets_everything_that_has_arrived_at_once():
    mailbox = Mailbox()
    for index in range(5):
        await mailbox.put(index, EVENT)
    assert [index for index, _ in await mailbox.take()] == [0, 1, 2, 3, 4]


async def test_a_waiting_reader_is_woken_by_an_event():
    mailbox = Mailbox()
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    await mailbox.put(3, EVENT)
    assert await reader == [(3, EVENT)]


async def test_a_pump_waits_when_nobody_reads_and_goes_on_when_somebody_does():
    mailbox = Mailbox()

    async def pump() -> None:
        for index in range(MAX_EVENTS * 2):
            await mailbox.put(index, EVENT)

    task = asyncio.create_task(pump())
    await asyncio.sleep(0.01)
    assert not task.done()
    received = []
    while len(received) < MAX_EVENTS * 2:
        received += [index for index, _ in await mailbox.take()]
    assert received == list(range(MAX_EVENTS * 2))
    await task


async def test_an_interruption_comes_after_what_was_there_and_nothing_after_it():
    mailbox = Mailbox()
    await mailbox.put(0, EVENT)
    mailbox.interrupt(ValueError("first"))
    mailbox.interrupt(ValueError("second"))
    await mailbox.put(1, EVENT)
    assert await mailbox.take() == [(0, EVENT)]
    with pytest.raises(ValueError, match="first"):
        await mailbox.take()


async def test_an_interruption_wakes_the_reader_and_blocked_pumps():
    mailbox = Mailbox()
    for index in range(MAX_EVENTS):
        await mailbox.put(index, EVENT)
    blocked = asyncio.create_task(mailbox.put(99, EVENT))
    await asyncio.sleep(0)
    mailbox.interrupt(ValueError())
    await asyncio.wait_for(blocked, 1)
    assert len(await mailbox.take()) == MAX_EVENTS


async def test_a_tick_returns_an_empty_list_once():
    mailbox = Mailbox()
    mailbox.tick()
    assert await mailbox.take() == []
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.tick()
    assert await reader == []


async def test_a_closed_mailbox_swallows_events_and_frees_pumps():
    mailbox = Mailbox()
    pumps = [asyncio.create_task(mailbox.put(i, EVENT)) for i in range(MAX_EVENTS * 3)]
    await asyncio.sleep(0)
    mailbox.close()
    await asyncio.wait_for(asyncio.gather(*pumps), 1)
