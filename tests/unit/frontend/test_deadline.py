"""A client may grant a request less time than the server does, never more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import openai
import pytest

from openai_frontend.deadline import FOREVER_S, shortest
from openai_frontend.endpoints.chat import make_chat_plan
from openai_frontend.reply import Reply
from tests.unit.frontend.fake_triton import FakeTriton, finish, forever, text, wait_until

CHAT = "/v1/chat/completions"
PATHS = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
}


async def assert_ended(triton: FakeTriton) -> None:
    await wait_until(lambda: not triton.num_open)
    assert triton.stopped, "the engine was told to stop"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_bodys_timeout_ends_a_request_with_504(make_client, path, stream):
    triton = FakeTriton([asyncio.Event()])
    client = make_client(triton)
    body = {**PATHS[path], "timeout": 0.05, "stream": stream}
    reply = await client.post(path, json=body)
    assert reply.status_code == 504
    error = reply.json()["error"]
    assert error["code"] == "deadline_exceeded"
    assert "0.05 s" in error["message"]
    assert reply.headers["x-should-retry"] == "false"
    await assert_ended(triton)


@pytest.mark.parametrize("path", PATHS)
async def test_every_generating_endpoint_takes_the_header(make_client, path):
    triton = FakeTriton([asyncio.Event()])
    reply = await make_client(triton).post(
        path, json=PATHS[path], headers={"X-Request-Timeout": "0.05"}
    )
    assert reply.status_code == 504
    assert "0.05 s" in reply.json()["error"]["message"]
    await assert_ended(triton)


async def test_a_question_takes_the_header(make_client, monkeypatch):
    triton = FakeTriton()

    async def never(*arguments):
        await asyncio.Event().wait()

    monkeypatch.setattr(triton, "tokens", never)
    reply = await make_client(triton).post(
        "/tokenize", json={"prompt": "Hi"}, headers={"X-Request-Timeout": "0.05"}
    )
    assert reply.status_code == 504


async def test_a_stream_that_has_begun_ends_with_an_error_and_done(
    make_client, chat_body, parse_stream
):
    triton = FakeTriton(forever())
    body = {**chat_body, "stream": True, "timeout": 0.1}
    reply = await make_client(triton).post(CHAT, json=body)
    assert reply.status_code == 200
    *_, error, done = parse_stream(reply.text)
    assert error["error"]["code"] == "deadline_exceeded"
    assert done == "[DONE]"
    await assert_ended(triton)


@pytest.mark.parametrize(
    ("server_s", "body_s", "header", "told"),
    [(0.05, 60, "60", "0.05"), (60, 0.06, "60", "0.06"), (0, 60, "0.07", "0.07")],
)
async def test_the_shortest_time_counts(make_client, chat_body, server_s, body_s, header, told):
    client = make_client(FakeTriton([asyncio.Event()]), request_timeout_s=server_s)
    reply = await client.post(
        CHAT, json={**chat_body, "timeout": body_s}, headers={"X-Request-Timeout": header}
    )
    assert reply.status_code == 504
    assert f"{told} s" in reply.json()["error"]["message"]


def test_no_limit_at_all_is_for_ever():
    assert shortest(None, 0.0) == FOREVER_S
    assert shortest(0.0, 5.0, None) == 5.0


@pytest.mark.parametrize("value", [0, -1])
async def test_an_impossible_timeout_is_400(make_client, chat_body, value):
    reply = await make_client(FakeTriton()).post(CHAT, json={**chat_body, "timeout": value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "timeout"


@pytest.mark.parametrize("value", ["0", "-3", "soon", "nan", "inf", ""])
async def test_an_impossible_header_is_400(make_client, chat_body, value):
    triton = FakeTriton()
    reply = await make_client(triton).post(
        CHAT, json=chat_body, headers={"X-Request-Timeout": value}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "X-Request-Timeout"
    assert triton.sent == []


async def test_the_time_counts_from_the_requests_arrival(make_client, chat_body):
    triton = FakeTriton([asyncio.Event()])
    service = make_client(triton).service
    body = json.dumps({**chat_body, "timeout": 100}).encode()
    plan = make_chat_plan(service, body, started_at=time.monotonic() - 99.95)
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    reply = Reply(
        service, plan, {"type": "http", "path": CHAT, "headers": []}, asyncio.Event().wait, send
    )
    await asyncio.wait_for(reply.run(), 5)
    assert sent[0]["status"] == 504


async def test_a_client_that_does_not_read_cannot_keep_the_engine_busy(serve, chat_body):
    triton = FakeTriton([text("x" * 100_000) for _ in range(300)] + [asyncio.Event()])
    async with serve(triton) as (_, url):
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        data = json.dumps({**chat_body, "stream": True, "timeout": 0.3}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        took_s = await wait_until(lambda: triton.stopped)
        assert took_s < 3, "not only when the connection is cut"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await assert_ended(triton)


async def test_the_official_client_does_not_repeat_what_ran_out_of_time(make_client):
    triton = FakeTriton([asyncio.Event()])
    http = make_client(triton)
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http)
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(
            model="default", messages=PATHS[CHAT]["messages"], extra_body={"timeout": 0.05}
        )
    assert caught.value.status_code == 504
    assert len(triton.sent) == 1


async def test_a_request_done_in_time_is_answered(make_client, chat_body):
    reply = await make_client(FakeTriton([finish("ok")])).post(
        CHAT, json={**chat_body, "timeout": 30}
    )
    assert reply.status_code == 200
