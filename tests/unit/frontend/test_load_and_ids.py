"""/load, /config-info, and the fields that name an answer: ids, fingerprint, tier."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from backend.wire import Message
from openai_frontend.launch.options import Options, effective_settings
from openai_frontend.protocol.requests import ChatRequest, expand
from tests.unit.frontend.conftest import chunks_of
from tests.unit.frontend.fake_triton import FakeTriton, finish, forever, text, wait_until

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


async def test_load_reports_the_engine_and_the_limits(make_client):
    state = {
        "engine_up": 1,
        "running": 3,
        "waiting": 2,
        "kv_blocks_total": 8,
        "kv_blocks_free": 1,
        "kv_blocks_held": 2,
        "kv_blocks_cached": 5,
        "max_num_seqs": 32,
        "max_model_len": 4096,
    }
    reply = await make_client(FakeTriton(state=state), max_concurrency=7).get("/load")
    assert reply.json() == {
        "server_load": 0,
        "running": 3,
        "waiting": 2,
        "kv_usage": 0.25,
        "kv_blocks_total": 8,
        "kv_blocks_held": 2,
        "kv_blocks_cached": 5,
        "limits": {
            "max_concurrency": 7,
            "max_num_seqs": 32,
            "max_num_batched_tokens": None,
            "max_model_len": 4096,
        },
    }


async def test_load_is_503_without_an_engine(make_client):
    reply = await make_client(FakeTriton(state={"engine_up": 0})).get("/load")
    assert reply.status_code == 503


async def test_config_info_tells_settings_and_no_secret(make_client):
    options = Options(
        api_keys=("sesame",),
        serving={"allowed_local_media_path": "/srv/secret", "max_num_seqs": 4},
    )
    client = make_client(FakeTriton(), effective=effective_settings(options), checkpoint="tiny")
    reply = await client.get("/config-info")
    info = reply.json()
    assert info["checkpoint"] == "tiny"
    assert info["settings"]["serving"] == {"allowed_local_media_path": True, "max_num_seqs": 4}
    assert info["settings"]["needs_api_key"] is True
    assert info["engine"] == {"max_model_len": 4096}
    assert "sesame" not in reply.text
    assert "secret" not in reply.text


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({}, f"chatcmpl-{UUID}"),
        ({"request_id": "a_1.b:c-d"}, "chatcmpl-a_1.b:c-d"),
        ({"request_id": "chatcmpl-mine"}, "chatcmpl-mine"),
        ({"user": "ann"}, f"chatcmpl-ann-{UUID}"),
        ({"user": "ann b@x.org\n"}, f"chatcmpl-ann-b-x.org--{UUID}"),
        ({"user": "ann", "request_id": "mine"}, "chatcmpl-mine"),
    ],
)
async def test_the_id_has_fastdeploys_forms(make_client, chat_body, fields, pattern):
    triton = FakeTriton([finish()])
    reply = (await make_client(triton).post(CHAT, json={**chat_body, **fields})).json()
    assert re.fullmatch(pattern, reply["id"])
    assert triton.sent[0].request_id == reply["id"]


@pytest.mark.parametrize("request_id", ["a b", "ä", "x" * 129, "a/b", "a\n"])
async def test_a_request_id_of_strange_signs_is_refused(make_client, chat_body, request_id):
    reply = await make_client(FakeTriton()).post(CHAT, json={**chat_body, "request_id": request_id})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "request_id"


async def test_a_request_id_is_refused_while_it_is_open_and_no_longer(make_client, chat_body):
    triton = FakeTriton(scripts=[forever(), [finish()]])
    client = make_client(triton)
    body = {**chat_body, "request_id": "twin"}
    first = asyncio.create_task(client.post(CHAT, json=body))
    await wait_until(lambda: triton.num_open == 1)
    second = await client.post(CHAT, json=body)
    assert second.status_code == 400
    assert second.json()["error"]["code"] == "duplicate_request_id"
    assert len(triton.sent) == 1
    await triton.stop("chatcmpl-twin")
    await first
    assert (await client.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_fingerprint_is_stable_and_tier_is_named_to_those_who_ask(make_client, path):
    body = {"messages": [{"role": "user", "content": "a"}], "prompt": "a"}
    extra = {"service_tier": "auto", "store": True, "max_streaming_response_tokens": 4, **body}
    client = make_client(FakeTriton([text("a"), finish()]), checkpoint="tiny")
    plain = (await client.post(path, json=body)).json()
    asked = (await client.post(path, json=extra)).json()
    assert plain["system_fingerprint"] == asked["system_fingerprint"]
    assert re.fullmatch("fp_[0-9a-f]{10}", plain["system_fingerprint"])
    assert "service_tier" not in plain
    assert asked["service_tier"] == "default"
    *chunks, _ = chunks_of((await client.post(path, json={**extra, "stream": True})).text)
    assert {chunk["system_fingerprint"] for chunk in chunks} == {plain["system_fingerprint"]}
    assert {chunk["service_tier"] for chunk in chunks} == {"default"}
    other = make_client(FakeTriton([finish()]), checkpoint="other")
    assert (await other.post(path, json=body)).json()["system_fingerprint"] != (
        plain["system_fingerprint"]
    )


def test_what_ends_at_the_door_does_not_reach_the_server():
    fields = {"user": "a", "store": True, "service_tier": "flex", "request_id": "r", "n": 1}
    request = ChatRequest(messages=[Message("user", "a")], **fields)
    (sent,) = expand(request, None)
    assert not set(json.loads(sent)) & set(fields)
