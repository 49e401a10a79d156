"""Fields that cannot be obeyed are told, not ignored; those that ask for nothing pass."""

from __future__ import annotations

import pytest

from openai_frontend.protocol.refused_fields import REFUSED_FIELDS
from tests.unit.frontend.fake_triton import FakeTriton, finish

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", REFUSED_FIELDS)
async def test_what_cannot_be_obeyed_is_refused(make_client, path, name):
    triton = FakeTriton([finish()])
    client = make_client(triton)
    reply = await client.post(path, json={**BODIES[path], name: [{"name": "f"}]})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, name)
    assert error["code"] == "unsupported_field"
    assert REFUSED_FIELDS[name] in error["message"]
    for nothing in (None, False, 0, {}, [], ""):
        reply = await client.post(path, json={**BODIES[path], name: nothing})
        assert reply.status_code == 200
    document = (await client.get("/openapi.json")).json()
    assert name not in document["components"]["schemas"]["ChatRequest"]["properties"]


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True, "service_tier": "flex"},
        {"verbosity": "low", "prompt_cache_key": "k", "modalities": ["text"], "mm_hashes": ["a"]},
    ],
)
async def test_what_has_no_effect_passes_even_the_strict(make_client, chat_body, fields):
    client = make_client(FakeTriton([finish()]), strict_fields=True)
    reply = await client.post("/v1/chat/completions", json={**chat_body, **fields})
    assert reply.status_code == 200
