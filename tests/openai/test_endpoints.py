"""Each endpoint besides chat and completions, once, against the whole service."""

from __future__ import annotations

import base64
import json

import httpx
import openai
import pytest

pytestmark = pytest.mark.triton

USER = {"role": "user", "content": "Tell me about bridges."}


@pytest.fixture
def http(service):
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


def test_load_and_config_info_tell_of_the_running_engine(http):
    load = http.get("/load").json()
    assert load["kv_blocks_total"] > 0
    assert 0 <= load["kv_usage"] <= 1
    info = http.get("/config-info").json()
    assert info["engine"]["max_model_len"] == load["limits"]["max_model_len"]
    assert info["settings"]["serving"]["allowed_local_media_path"] is True


def test_a_request_id_and_the_fingerprint_come_back(http):
    body = {"messages": [USER], "max_tokens": 2, "request_id": "end-to-end"}
    reply = http.post("/v1/chat/completions", json=body).json()
    assert reply["id"] == "chatcmpl-end-to-end"
    assert reply["system_fingerprint"] == http.get("/config-info").json()["system_fingerprint"]


def test_tokenize_counts_what_chat_reads_and_detokenize_is_its_inverse(http, media_folder):
    picture = {"type": "image_url", "image_url": f"file://{media_folder / 'picture.jpg'}"}
    for content in ("Tell me.", [picture, {"type": "text", "text": "What is it?"}]):
        messages = [{"role": "user", "content": content}]
        tokens = http.post("/tokenize", json={"messages": messages}).json()
        body = {"messages": messages, "max_tokens": 1, "return_token_ids": True}
        reply = http.post("/v1/chat/completions", json=body).json()
        assert tokens["tokens"] == reply["choices"][0]["message"]["prompt_token_ids"]
        assert tokens["count"] == reply["usage"]["prompt_tokens"]
    ids = http.post("/tokenize", json={"prompt": "Bridges, 桥梁"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "Bridges, 桥梁"}
    assert http.post("/detokenize", json={"tokens": [-1]}).status_code == 400
    assert http.post("/tokenize", json={"prompt": ""}).json()["error"]["param"] == "prompt"


def test_messages_are_answered_and_counted_alike(http, media_folder):
    data = base64.b64encode((media_folder / "picture.jpg").read_bytes()).decode()
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/jpeg", "data": data},
    }
    question = {"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}
    body = {"model": "default", "max_tokens": 8, "temperature": 0, "messages": [question]}
    count = http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
    reply = http.post("/v1/messages", json=body).json()
    usage = reply["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count
    assert reply["stop_reason"] in ("end_turn", "max_tokens")
    assert {block["type"] for block in reply["content"]} <= {"text", "tool_use"}
    stream = http.post("/v1/messages", json={**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert events[0]["message"]["usage"]["input_tokens"] == count
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    texts = [block["text"] for block in reply["content"] if block["type"] == "text"]
    assert "".join(delta.get("text", "") for delta in deltas) == "".join(texts)
    assert events[-1]["type"] == "message_stop"
    refused = http.post("/v1/messages", json={**body, "max_tokens": 0})
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_the_official_client_gets_responses(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="null") as client:
        settings = {
            "model": "default",
            "input": "Tell me about bridges.",
            "temperature": 0,
            "max_output_tokens": 8,
            "reasoning": {"effort": "none"},
        }
        created = client.responses.create(**settings)
        with client.responses.stream(**settings) as stream:
            events = list(stream)
    assert created.status in ("completed", "incomplete")
    assert created.usage.output_tokens <= 8
    assert events[-1].response.output_text == created.output_text


def test_the_document_is_served_and_every_get_in_it_answers(http):
    document = http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if "get" in methods:
            assert http.get(path.replace("{model}", "default")).status_code == 200, path
