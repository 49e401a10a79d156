"""/health, /ping, /v1/models, /metrics, /version and the request id header."""

from __future__ import annotations

import re

import pytest

from backend.errors import EngineUnavailableError
from backend.request import FinishReason, Usage
from openai_frontend import __version__
from openai_frontend.service import Service, ServiceSettings
from tests.unit.frontend.fake_triton import FakeTriton, finish, text

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_is_an_empty_200_while_the_engine_answers(make_client, path):
    reply = await make_client(FakeTriton()).get(path)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    ("state", "failure", "code"),
    [
        ({"engine_up": 0, "state": "restarting"}, None, "engine_restarting"),
        ({"engine_up": 0, "state": "failed"}, None, "engine_failed"),
        ({"engine_up": 1, "integrity_failures": 2}, None, "integrity_failure"),
        ({}, EngineUnavailableError("gone"), "engine_unavailable"),
    ],
)
async def test_health_is_503_with_a_reason_otherwise(make_client, state, failure, code):
    reply = await make_client(FakeTriton(state=state, failure=failure)).get("/health")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == code
    assert "retry-after" in reply.headers


async def test_health_is_503_while_draining(make_client, chat_body):
    client = make_client(FakeTriton([finish()]))
    client.service.admission.drain()
    assert (await client.get("/health")).json()["error"]["code"] == "shutting_down"
    reply = await client.post(CHAT, json=chat_body)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "shutting_down"


async def test_the_engine_is_asked_at_most_once_a_second():
    triton = FakeTriton()
    now = 0.0
    service = Service(triton, ServiceSettings())
    service.status._clock = lambda: now
    for _ in range(5):
        await service.status.check()
    assert triton.num_stats == 1
    now = 1.5
    await service.status.check()
    assert triton.num_stats == 2


async def test_models_lists_the_served_one_with_its_length(make_client):
    client = make_client(FakeTriton(), model_name="ernie-4.5-vl-tiny")
    listing = (await client.get("/v1/models")).json()
    assert listing["object"] == "list"
    (card,) = listing["data"]
    assert card["id"] == "ernie-4.5-vl-tiny"
    assert card["object"] == "model"
    assert card["max_model_len"] == 4096
    assert card["permission"][0]["id"].startswith("modelperm-")
    assert (await client.get("/v1/models/ernie-4.5-vl-tiny")).json() == card
    assert (await client.get("/v1/models/default")).status_code == 200
    assert (await client.get("/v1/models/gpt-4")).status_code == 404


async def test_models_answers_also_when_the_engine_does_not(make_client):
    client = make_client(FakeTriton(failure=EngineUnavailableError("gone")))
    assert (await client.get("/v1/models")).json()["data"][0]["max_model_len"] is None


async def test_version(make_client):
    assert (await make_client(FakeTriton()).get("/version")).json() == {"version": __version__}


async def test_metrics_have_fastdeploys_names_and_count_what_happened(make_client, chat_body):
    usage = Usage(prompt_tokens=100, completion_tokens=5, cached_tokens=60, image_tokens=30)
    stats = {"engine_up": 1, "running": 3, "waiting": 2, "kv_blocks_total": 8, "kv_blocks_free": 2}
    triton = FakeTriton([text("a"), finish(usage=usage, reason=FinishReason.LENGTH)], state=stats)
    client = make_client(triton)
    await client.post(CHAT, json={**chat_body, "stream": True})
    await client.post(CHAT, json={})
    await client.get("/v1/unknown/path")
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(re.findall(r"^(fastdeploy:[^ ]+) (\S+)$", reply.text, re.M))
    expected = {
        "requests_number_total": 2,
        'request_success_total{finished_reason="length"}': 1,
        "prompt_tokens_total": 100,
        "generation_tokens_total": 5,
        "prefix_cache_token_num_total": 60,
        'media_tokens_total{kind="image"}': 30,
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "gpu_cache_usage_perc": 0.75,
        "time_to_first_token_seconds_count": 1,
        "time_per_output_token_seconds_count": 1,
        "e2e_request_latency_seconds_count": 1,
        "engine_up": 1,
        f'http_requests_total{{method="POST",path="{CHAT}",status_code="200"}}': 1,
        f'http_requests_total{{method="POST",path="{CHAT}",status_code="400"}}': 1,
        'http_requests_total{method="GET",path="other",status_code="404"}': 1,
    }
    found = {name: float(values[f"fastdeploy:{name}"]) for name in expected}
    assert found == expected


async def test_metrics_say_that_the_engine_is_down(make_client):
    client = make_client(FakeTriton(failure=EngineUnavailableError("gone")))
    assert "fastdeploy:engine_up 0.0" in (await client.get("/metrics")).text


async def test_metrics_are_absent_from_the_api_when_they_have_their_own_port(make_client):
    client = make_client(FakeTriton(), serve_metrics=False)
    assert (await client.get("/metrics")).status_code == 404


async def test_the_request_id_is_the_clients_or_a_new_one(make_client, chat_body):
    client = make_client(FakeTriton([finish()]))
    reply = await client.post(CHAT, json=chat_body, headers={"x-request-id": "trace-1"})
    assert reply.headers["x-request-id"] == "trace-1"
    for strange in ("a b", "x" * 200, ""):
        reply = await client.get("/nothing", headers={"x-request-id": strange})
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
