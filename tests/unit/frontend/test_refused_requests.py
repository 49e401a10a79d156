"""What never reaches Triton: each refusal has its status, its code and OpenAI's body."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from backend.errors import EngineUnavailableError, InternalError
from openai_frontend.endpoints.playground import PATHS as PLAYGROUND_PATHS
from tests.unit.frontend.fake_triton import FakeTriton, finish, forever, wait_until

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
DEEP = {"a": None}
for _ in range(100):
    DEEP = {"a": DEEP}


def error_of(reply: httpx.Response, status: int) -> dict[str, object]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_value"),
        ({"messages": [{"content": "no role"}]}, "messages[0]", "invalid_value"),
        ({"messages": [USER], "temperature": "hot"}, "temperature", "invalid_value"),
        ({"messages": [USER], "max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"messages": [USER], "n": 0}, "n", "invalid_value"),
        ({"messages": [USER], "n": 17}, "n", "invalid_value"),
        ({"messages": [USER], "stream_options": {}}, "stream_options", "invalid_value"),
        ({"messages": [USER], "top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"messages": [USER] * 2049}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [USER], "metadata": DEEP}, "metadata", "invalid_value"),
        (
            {"messages": [USER], "tools": [{"function": {"name": "f", "parameters": DEEP}}]},
            "tools[0].function.parameters",
            "invalid_value",
        ),
    ],
)
async def test_a_bad_chat_body_is_400_and_names_the_field(make_client, body, param, code):
    triton = FakeTriton([finish()])
    error = error_of(await make_client(triton).post(CHAT, json=body), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert triton.sent == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"messages": NaN}'])
async def test_what_is_not_a_json_object_is_400(make_client, body):
    error_of(await make_client(FakeTriton()).post(CHAT, content=body), 400)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"messages": [], "temperature": NaN}', "invalid character (byte 32)"),
        (b'{"messages": [{"role": "user", "content": "half a \\ud83d, cut"}]}', "surrogate pair"),
        (b'\xef\xbb\xbf{"messages": []}', "invalid character (byte 0)"),
        (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "it is not UTF-8"),
        (b'{"messages": "half', "truncated"),
    ],
)
async def test_broken_json_is_told_with_what_breaks_it(make_client, content, reason):
    error = error_of(await make_client(FakeTriton()).post(CHAT, content=content), 400)
    assert error["code"] == "invalid_json"
    assert error["message"].startswith("the body is not valid JSON: ")
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,@@@@", "base64 is broken"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,rawtext", "base64"),
        ("data:text/html;base64,AAAA", "text/html"),
        ("data:nonsense", "must read"),
        ("media:0", "not for clients"),
        ("data:image/png;base64,ÄÄÄÄ", "broken"),
        ("data:image/png;base64,%C3%84AA", "broken"),
    ],
)
async def test_a_bad_data_url_is_400_and_names_the_part(make_client, url, words):
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"messages": [USER, {"role": "user", "content": [part]}]}
    error = error_of(await make_client(FakeTriton()).post(CHAT, json=body), 400)
    assert error["message"].startswith("messages[1].content[0]")
    assert error["param"] == "messages[1].content[0]"
    assert words in error["message"]
    assert error["code"] == "invalid_media"


async def test_a_list_of_jpeg_frames_is_no_video(make_client):
    part = {"type": "video_url", "video_url": "data:video/jpeg;base64,AAAA"}
    body = {"messages": [{"role": "user", "content": [part]}]}
    error = error_of(await make_client(FakeTriton()).post(CHAT, json=body), 400)
    assert "JPEG" in error["message"]


async def test_an_oversized_body_is_413_declared_or_counted(make_client, chat_body):
    client = make_client(FakeTriton([finish()]), max_body_bytes=1000)
    big = json.dumps({**chat_body, "user": "x" * 1000}).encode()
    assert error_of(await client.post(CHAT, content=big), 413)["code"] == "request_too_large"

    async def chunked():
        for start in range(0, len(big), 100):
            yield big[start : start + 100]

    assert error_of(await client.post(CHAT, content=chunked()), 413)["code"] == "request_too_large"
    assert (await client.post(CHAT, json=chat_body)).status_code == 200


async def test_unknown_paths_and_methods_have_openai_bodies(make_client):
    client = make_client(FakeTriton())
    assert error_of(await client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(await client.get("/v1/models/"), 404)["code"] == "model_not_found"
    reply = await client.get(CHAT)
    assert error_of(reply, 405)["code"] == "method_not_allowed"
    assert "POST" in reply.headers["allow"]
    error_of(await client.request("BREW", "/health"), 405)
    reply = await client.get("/health/", headers={"host": "evil.example/x?"})
    assert reply.status_code == 404, "no redirect built from the Host header"


async def test_the_request_above_the_limit_is_429_at_once(make_client, chat_body):
    triton = FakeTriton(forever())
    client = make_client(triton, max_concurrency=1)
    first = asyncio.create_task(client.post(CHAT, json=chat_body))
    await wait_until(lambda: triton.sent)
    reply = await client.post(CHAT, json=chat_body)
    error = error_of(reply, 429)
    assert error["type"] == "rate_limit_error"
    assert reply.json()["detail"] == "Too many requests,current max concurrency is 1"
    assert int(reply.headers["retry-after"]) >= 1
    await triton.stop(triton.sent[0].request_id)
    assert (await first).status_code == 200
    triton.script = [finish()]
    assert (await client.post(CHAT, json=chat_body)).status_code == 200, "the place is free again"


async def test_large_bodies_share_a_bounded_memory(make_client, chat_body):
    triton = FakeTriton(forever())
    client = make_client(triton)
    client.service.admission.max_buffered_bytes = 1500
    large = {**chat_body, "user": "x" * 1000}
    first = asyncio.create_task(client.post(CHAT, json=large))
    await wait_until(lambda: triton.sent)
    assert error_of(await client.post(CHAT, json=large), 429)["type"] == "rate_limit_error"
    assert client.service.admission.running == 1
    await triton.stop(triton.sent[0].request_id)
    await first
    assert client.service.admission.buffered_bytes == 0
    triton.script = [finish()]
    assert (await client.post(CHAT, json=large)).status_code == 200


async def test_a_lost_server_is_503_with_retry_after(make_client, chat_body):
    reply = await make_client(FakeTriton([EngineUnavailableError("gone")])).post(
        CHAT, json=chat_body
    )
    assert error_of(reply, 503)["code"] == "engine_unavailable"
    assert reply.headers["retry-after"] == "1"


async def test_our_own_mistake_is_500_without_its_text(make_client, chat_body, monkeypatch):
    triton = FakeTriton([InternalError("boom")])
    error_of(await make_client(triton).post(CHAT, json=chat_body), 500)

    async def broken(*args):
        raise RuntimeError("secret path /etc/shadow")
        yield

    monkeypatch.setattr(triton, "generate", broken)
    error = error_of(await make_client(triton).post(CHAT, json=chat_body), 500)
    assert "secret" not in error["message"]


async def test_a_request_above_its_time_is_504_and_stopped(make_client, chat_body):
    triton = FakeTriton(forever())
    client = make_client(triton, request_timeout_s=0.05)
    error = error_of(await client.post(CHAT, json=chat_body), 504)
    assert error["code"] == "deadline_exceeded"
    await wait_until(lambda: not triton.num_open)
    assert triton.stopped


async def test_keys_guard_every_path_but_health_and_the_page(make_client, chat_body):
    client = make_client(FakeTriton([finish()]), api_keys=("first", "second"))
    paths = {route.path for route in client._transport.app.routes}
    for path in paths - {"/health", "/ping", *PLAYGROUND_PATHS}:
        reply = await client.get(path)
        if path.startswith("/v1/messages"):  # Anthropic's form, see test_messages_endpoint
            assert reply.status_code == 401
            continue
        error = error_of(reply, 401)
        assert error["code"] == "invalid_api_key"
        assert error["type"] == "authentication_error"
    assert (await client.get("/health")).status_code == 200
    assert (await client.post("/ping")).status_code == 200
    for value in ("Bearer first", "bearer second"):
        reply = await client.post(CHAT, json=chat_body, headers={"authorization": value})
        assert reply.status_code == 200
    for value in ("Bearer", "Bearer third", "Basic first", "first", "Bearer first,second"):
        reply = await client.post(CHAT, json=chat_body, headers={"authorization": value})
        assert reply.status_code == 401
    for host in ("evil.example/health?", "x#", "a@b"):
        reply = await client.get("/v1/models", headers={"host": host})
        assert reply.status_code == 401
