"""What happens to a generation when its connection breaks, stalls, or the server is stopped.

A real uvicorn on the loopback interface: only a socket can be closed by its other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest

from backend.wire import Event
from openai_frontend import pulse
from openai_frontend.body import read_body
from openai_frontend.launch.http_server import BoundedH11Protocol
from tests.unit.frontend.fake_triton import FakeTriton, finish, forever, text, wait_until

CHAT = "/v1/chat/completions"


async def connect(url: str, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(content)
    return reader, writer


def post(body: dict, headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    return (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode()
        + data
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_stops_generation_within_a_second(serve, chat_body, stream):
    triton = FakeTriton(forever())
    async with serve(triton) as (service, url):
        _, writer = await connect(url, post({**chat_body, "stream": stream}))
        await wait_until(lambda: triton.num_open == 1)
        writer.close()
        assert await wait_until(lambda: triton.num_open == 0) < 1.0
        assert triton.stopped == [triton.sent[0].request_id]
        await wait_until(lambda: service.admission.running == 0)
        stage = "aborts_total{stage="
        assert stage in service.metrics.text().decode()


async def test_a_disconnect_before_the_first_token_stops_too(serve, chat_body):
    triton = FakeTriton([asyncio.Event()])
    async with serve(triton) as (service, url):
        _, writer = await connect(url, post({**chat_body, "stream": True, "n": 3}))
        await wait_until(lambda: triton.num_open == 3)
        writer.close()
        assert await wait_until(lambda: triton.num_open == 0) < 1.0
        await wait_until(lambda: b'{stage="waiting"} 1.0' in service.metrics.text())


async def test_stop_is_repeated_until_the_stream_has_ended(serve, chat_body):
    """A request still in the preprocessor is unknown to the engine: the first STOP is lost."""
    triton = FakeTriton(forever())
    stop, lost = triton.stop, []

    async def stop_at_third(request_id: str) -> None:
        lost.append(request_id)
        if len(lost) == 3:
            await stop(request_id)

    triton.stop = stop_at_third
    async with serve(triton) as (_, url):
        _, writer = await connect(url, post(chat_body))
        await wait_until(lambda: triton.num_open == 1)
        writer.close()
        assert await wait_until(lambda: triton.num_open == 0) < 1.5
        assert len(lost) == 3


async def test_a_stream_that_ignores_stop_is_cancelled(serve, chat_body, monkeypatch):
    monkeypatch.setattr("openai_frontend.generation.STOP_TIMEOUT_S", 0.3)
    triton = FakeTriton(forever())

    async def deaf(request_id: str) -> None:
        return

    triton.stop = deaf
    async with serve(triton) as (_, url):
        _, writer = await connect(url, post(chat_body))
        await wait_until(lambda: triton.num_open == 1)
        writer.close()
        await wait_until(lambda: triton.num_open == 0)


async def test_a_finished_request_is_not_stopped(serve, chat_body):
    triton = FakeTriton([text("a"), finish()])
    async with serve(triton) as (_, url), httpx.AsyncClient() as client:
        for stream in (True, False):
            await client.post(url + CHAT, json={**chat_body, "stream": stream})
    assert triton.stopped == []
    assert triton.num_read_to_end == 2


async def test_a_finished_request_whose_stream_lingers_is_not_stopped(serve, chat_body):
    """Triton may close a stream a moment after its last event."""
    lingering = asyncio.Event()
    triton = FakeTriton([text("a"), finish(), lingering])
    async with serve(triton) as (_, url), httpx.AsyncClient() as client:
        assert (await client.post(url + CHAT, json=chat_body)).status_code == 200
        assert triton.num_open == 1
        lingering.set()
        await wait_until(lambda: triton.num_open == 0)
    assert triton.stopped == []


async def test_silence_is_filled_with_comment_lines(serve, chat_body, parse_stream):
    gate = asyncio.Event()
    triton = FakeTriton([gate, text("a"), finish()])
    async with serve(triton, ping_interval_s=0.05) as (_, url), httpx.AsyncClient() as client:
        async with client.stream("POST", url + CHAT, json={**chat_body, "stream": True}) as reply:
            lines = reply.aiter_lines()
            assert await anext(lines) == ": ping"
            gate.set()
            rest = "\n".join([line async for line in lines])
    assert parse_stream(rest)[-1] == "[DONE]"


async def test_a_client_that_stops_reading_is_cut_off(serve, chat_body, monkeypatch):
    monkeypatch.setattr("openai_frontend.reply.Pulse", _impatient)
    chunk = "x" * 100_000

    class Endless(FakeTriton):
        async def generate(self, request_id, request, media):
            self.num_open += 1
            try:
                while request_id not in self.stopped:
                    await asyncio.sleep(0)
                    yield text(chunk)
                yield finish()
            finally:
                self.num_open -= 1

    triton = Endless()
    async with serve(triton) as (service, url):
        _, writer = await connect(url, post({**chat_body, "stream": True}))
        await wait_until(lambda: triton.num_open == 1)
        await wait_until(lambda: triton.num_open == 0, timeout_s=10)
        await wait_until(lambda: service.admission.running == 0)
        writer.close()


def _impatient(*arguments) -> pulse.Pulse:
    return pulse.Pulse(*arguments, stall_timeout_s=0.3)


async def test_draining_lets_running_requests_finish(serve, chat_body):
    gate = asyncio.Event()
    triton = FakeTriton([text("a"), gate, finish("b")])
    async with serve(triton) as (service, url), httpx.AsyncClient() as client:
        running = asyncio.create_task(client.post(url + CHAT, json=chat_body))
        await wait_until(lambda: triton.num_open == 1)
        draining = asyncio.create_task(service.drain(5.0))
        await wait_until(lambda: service.admission.is_draining)
        assert (await client.post(url + CHAT, json=chat_body)).status_code == 503
        gate.set()
        assert (await running).json()["choices"][0]["message"]["content"] == "ab"
        assert await draining


async def test_requests_left_over_after_draining_get_an_error(serve, chat_body, parse_stream):
    triton = FakeTriton(forever())
    async with serve(triton) as (service, url), httpx.AsyncClient() as client:
        body = {**chat_body, "stream": True}
        running = asyncio.create_task(client.post(url + CHAT, json=body))
        await wait_until(lambda: triton.num_open == 1)
        assert not await service.drain(0.05)
        chunks = parse_stream((await running).text)
        assert chunks[-2]["error"]["code"] == "shutting_down"
        assert chunks[-1] == "[DONE]"
        assert triton.num_open == 0


async def test_a_slow_header_and_a_slow_body_are_closed(serve, chat_body, monkeypatch):
    monkeypatch.setattr(BoundedH11Protocol, "header_timeout_s", 0.1)
    monkeypatch.setattr("openai_frontend.endpoints.generating.read_body", _read_body_quickly)
    async with serve(FakeTriton([finish()])) as (_, url), httpx.AsyncClient() as client:
        for beginning in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHo"):
            reader, writer = await connect(url, beginning)
            reply = await asyncio.wait_for(reader.read(), 2)
            assert reply.startswith(b"HTTP/1.1 408")
            assert b'"request_timeout"' in reply
            writer.close()
        reader, writer = await connect(url, post(chat_body)[:-5])
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 408")
        writer.close()
        assert (await client.post(url + CHAT, json=chat_body)).status_code == 200


async def _read_body_quickly(*arguments):
    return await read_body(*arguments, allowance_s=0.1)


async def test_an_answered_connection_may_idle_longer_than_a_header(serve, chat_body, monkeypatch):
    monkeypatch.setattr(BoundedH11Protocol, "header_timeout_s", 0.1)
    async with serve(FakeTriton([finish()])) as (_, url):
        reader, writer = await connect(url, post(chat_body))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        await asyncio.sleep(0.25)
        writer.write(post(chat_body))
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_body_that_comes_after_its_answer_is_no_slow_header(serve, chat_body, monkeypatch):
    """The official clients send header and body apart; a refusal may come between them."""
    monkeypatch.setattr(BoundedH11Protocol, "header_timeout_s", 0.1)
    monkeypatch.setattr("openai_frontend.launch.http_server.KEEP_ALIVE_S", 1)
    async with serve(FakeTriton([finish()])) as (_, url):
        reader, writer = await connect(url, b"")
        for _ in range(2):
            head, _, body = post(chat_body).partition(b"\r\n\r\n")
            writer.write(head.replace(b"/v1/chat/completions", b"/v1/embeddings") + b"\r\n\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
            assert answer.startswith(b"HTTP/1.1 404")
            await asyncio.wait_for(reader.readuntil(b"}}"), 2)
            writer.write(body)
            await asyncio.sleep(0.25)
        writer.write(post(chat_body))
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 200")
        await asyncio.wait_for(reader.readuntil(b"}}"), 2)
        writer.write(b"GET /health HT")
        rest = await asyncio.wait_for(reader.read(), 2)
        assert b"HTTP/1.1 408" in rest, "a header that has begun must still come in time"
        writer.close()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://gateway.example:8180/health", 200),
        ("HTTPS://x/v1/models?x=http://y", 200),
        ("http://x/nothing%2Fhere", 404),
        ("http://x", 200),  # the page for people
    ],
)
async def test_a_request_may_name_the_whole_url(serve, target, status):
    async with serve(FakeTriton()) as (_, url):
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        reader, writer = await connect(url, request)
        assert await reader.readuntil(b" ") == b"HTTP/1.1 "
        assert await reader.readuntil(b" ") == b"%d " % status
        writer.close()


async def test_malformed_and_oversized_headers_are_400_in_openai_shape(serve):
    hostile = [
        b"NONSENSE\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    async with serve(FakeTriton()) as (_, url):
        for request in hostile:
            reader, writer = await connect(url, request)
            reply = await asyncio.wait_for(reader.read(), 2)
            assert reply.startswith(b"HTTP/1.1 400"), reply
            assert b'"invalid_http"' in reply
            writer.close()


async def test_a_header_above_64_kib_is_not_collected(serve):
    async with serve(FakeTriton()) as (_, url):
        _, writer = await connect(url, b"GET /health HTTP/1.1\r\nHost: a\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(b"y" * 65_536)
                await writer.drain()
            pytest.fail("64 MiB of header were accepted")
        writer.close()


async def test_connections_above_the_limit_are_refused(serve, monkeypatch):
    monkeypatch.setattr(BoundedH11Protocol, "max_connections", 1)
    async with serve(FakeTriton()) as (_, url):
        _, first = await connect(url, b"")
        await asyncio.sleep(0.05)
        reader, second = await connect(url, b"")
        reply = await asyncio.wait_for(reader.read(), 2)
        assert reply.startswith(b"HTTP/1.1 503")
        assert b'"too_many_connections"' in reply
        for writer in (first, second):
            writer.close()


async def test_a_hundred_aborts_leave_nothing_open(serve, chat_body):
    triton = FakeTriton(forever())
    async with serve(triton) as (service, url):
        for _ in range(100):
            _, writer = await connect(url, post({**chat_body, "stream": True}))
            writer.close()
        await wait_until(lambda: service.admission.running == 0 and triton.num_open == 0, 10)
        await wait_until(lambda: not service._stopping)
        assert not service._generations
        tasks = [task for task in asyncio.all_tasks() if "pump" in repr(task).lower()]
        assert tasks == []


async def test_no_event_is_lost_when_they_pile_up(serve, chat_body, parse_stream):
    events: list[Event] = [text(str(number)) for number in range(200)]
    triton = FakeTriton([*events, finish()])
    async with serve(triton) as (_, url), httpx.AsyncClient() as client:
        reply = await client.post(url + CHAT, json={**chat_body, "stream": True})
    chunks = parse_stream(reply.text)[:-1]
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert content == "".join(str(number) for number in range(200))
