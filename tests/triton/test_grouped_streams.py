"""Requests of one client that share Triton's responses, through the ensemble of a real server."""

import asyncio
import contextlib
import json

from backend.request import FinishReason
from openai_frontend.triton_client import TritonClient

NUM_STREAMS = 24
NUM_TOKENS = 60


def body(index, **fields):
    request = {"prompt": f"stream {index}", "max_tokens": NUM_TOKENS, "return_token_ids": True}
    return json.dumps({**request, "stream": True, **fields}).encode()


async def answer(client, index, request_id="", began=None, **fields):
    """All events; the semaphore `began` is released with the first."""
    events = []
    request_id = request_id or f"grouped-{index}"
    async for event in client.generate(request_id, body(index, **fields), []):
        if began is not None and not events:
            began.release()
        events.append(event)
    return events


async def all_begun(began, number):
    for _ in range(number):
        await asyncio.wait_for(began.acquire(), 30)


def text(events):
    return "".join(event.delta.content for event in events)


def tokens(events):
    return [token_id for event in events for token_id in event.token_ids or ()]


@contextlib.asynccontextmanager
async def connected(chat):
    client = TritonClient()
    client.connect(chat.grpc_url)
    try:
        yield client
    finally:
        await client.close()


async def test_answers_are_the_same_alone_and_in_shared_responses(paced_chat):
    async with connected(paced_chat) as client, connected(paced_chat) as other:
        alone = [await answer(client, index) for index in range(3)]
        before = await client.stats()
        clients = [client if index % 3 else other for index in range(NUM_STREAMS)]
        together = await asyncio.gather(
            *(answer(item, index % 3, f"g-{index}") for index, item in enumerate(clients))
        )
        after = await client.stats()
    for index, events in enumerate(together):
        assert text(events) == text(alone[index % 3])
        assert tokens(events) == tokens(alone[index % 3])
        assert len(tokens(events)) == NUM_TOKENS
        assert [event.seq for event in events] == list(range(len(events)))
        assert events[-1].finish_reason is FinishReason.LENGTH
    num_outputs = after["outputs_sent"] - before["outputs_sent"]
    num_responses = after["responses_sent"] - before["responses_sent"]
    assert num_responses < 0.6 * num_outputs


async def test_a_stop_ends_one_stream_of_a_group_and_no_other(paced_chat):
    async with connected(paced_chat) as client:
        began = asyncio.Semaphore(0)
        streams = [asyncio.create_task(answer(client, index)) for index in range(8)]
        endless = asyncio.create_task(answer(client, 8, "endless", began, max_tokens=2000))
        await all_begun(began, 1)
        await client.stop("endless")
        events = await asyncio.wait_for(endless, 10)
        assert events[-1].finish_reason is FinishReason.ABORT
        assert all(len(tokens(item)) == NUM_TOKENS for item in await asyncio.gather(*streams))


async def test_a_stop_string_ends_a_stream_in_a_shared_response(paced_chat):
    async with connected(paced_chat) as client:
        whole = text(await answer(client, 0))
        stop = whole[len(whole) // 2 :][:6]
        streams = [answer(client, index, f"s-{index}", stop=stop) for index in [0] * 8]
        for events in await asyncio.gather(*streams):
            assert text(events) == whole[: whole.index(stop)]
            assert events[-1].stop_reason == stop


async def test_a_reader_that_leaves_does_not_take_the_others_events_with_it(paced_chat):
    async with connected(paced_chat) as client:
        began = asyncio.Semaphore(0)
        fields = {"began": began, "max_tokens": 400}
        leaving = [asyncio.create_task(answer(client, i, **fields)) for i in range(4)]
        staying = [asyncio.create_task(answer(client, i, f"stay-{i}", began)) for i in range(8)]
        await all_begun(began, 12)
        for task in leaving:
            task.cancel()
        answers = await asyncio.gather(*staying)
        assert all(len(tokens(events)) == NUM_TOKENS for events in answers)
        for index in range(4):
            await client.stop(f"grouped-{index}")
