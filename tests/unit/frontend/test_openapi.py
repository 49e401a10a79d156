"""/openapi.json says what is served, and /docs shows it without outside requests."""

from __future__ import annotations

import re

import msgspec
import pytest

from backend.wire import Message
from openai_frontend.endpoints.playground import PATHS as PLAYGROUND_PATHS
from tests.unit.frontend.fake_triton import FakeTriton, finish


def references(value):
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("serve_metrics", [True, False])
async def test_the_document_has_every_route_and_no_other(make_client, serve_metrics):
    client = make_client(FakeTriton(), serve_metrics=serve_metrics)
    document = (await client.get("/openapi.json")).json()
    documented = {(path, name) for path, item in document["paths"].items() for name in item}
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in client._transport.app.routes
        if route.path not in PLAYGROUND_PATHS
        for method in route.methods - {"HEAD"}
    }
    assert documented == served


async def test_every_reference_leads_somewhere_and_ids_are_unique(make_client):
    document = (await make_client(FakeTriton()).get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= names
    ids = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(ids) == len(set(ids))


async def test_schemas_are_those_of_the_structs_without_what_is_not_for_clients(make_client):
    document = (await make_client(FakeTriton()).get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    chat = schemas["ChatRequest"]
    assert chat["required"] == ["messages"]
    assert {"tool_choice", "request_id", "top_k"} <= set(chat["properties"])
    assert not {"op", "single_response"} & set(chat["properties"])
    assert set(schemas["Message"]["properties"]) == set(Message.__struct_fields__)


async def test_an_answer_has_the_documented_fields(make_client, chat_body):
    client = make_client(FakeTriton([finish("a")]))
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for path, body in (
        ("/v1/chat/completions", chat_body),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", chat_body),
    ):
        reply = (await client.post(path, json=body)).json()
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        schema = schemas[content["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        assert set(schema["required"]) <= set(reply) <= set(schema["properties"])
        assert "text/event-stream" in content


async def test_keys_are_documented_where_they_are_asked_for(make_client):
    headers = {"authorization": "Bearer sesame"}
    client = make_client(FakeTriton(), api_keys=("sesame",))
    document = (await client.get("/openapi.json", headers=headers)).json()
    assert document["security"] == [{"bearer": []}, {"x-api-key": []}]
    assert (await client.get("/docs")).status_code == 401
    assert "security" not in (await make_client(FakeTriton()).get("/openapi.json")).json()


async def test_the_page_lists_every_path_and_asks_nobody(make_client):
    client = make_client(FakeTriton())
    document = msgspec.json.decode((await client.get("/openapi.json")).content)
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert not re.search(r"https?://|<script|src=|url\(|@import", page.text)
