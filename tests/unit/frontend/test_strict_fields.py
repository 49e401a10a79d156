"""--strict-fields: a field that no struct knows is refused by its path; without it, ignored."""

from __future__ import annotations

import copy
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InvalidRequestError
from openai_frontend.launch.parsing import parse_options
from openai_frontend.protocol.messages_request import MessagesRequest
from openai_frontend.protocol.requests import ChatRequest, CompletionRequest, decode_body
from openai_frontend.protocol.responses_request import ResponsesRequest
from openai_frontend.protocol.tokenization import DetokenizeRequest, TokenizeRequest
from tests.unit.frontend.fake_triton import FakeTriton, finish

CHAT = {
    "model": "default",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "video_url", "video_url": {"url": "http://x/v.mp4", "fps": 2}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "annotations": [],
            "thoughts": "hm",
            "tool_calls": [
                {"id": "1", "index": 0, "function": {"name": "f", "arguments": {"free": 1}}}
            ],
        },
        {"role": "tool", "content": {"type": "text", "text": "4"}},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"free": {"x": 1}}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": 1}}},
    "stream_options": {"include_usage": True},
    "metadata": {"free": 1},
    "chat_template_kwargs": {"free": {"a": 1}},
    "user": "me",
    "timeout": 5,
}
RESPONSES = {
    "input": [
        {
            "role": "user",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "input_text", "text": "Hi", "annotations": []}],
        }
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"free": 1}}],
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "truncation": "auto",
}
MESSAGES = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
            ],
        }
    ],
    "max_tokens": 5,
    "tools": [{"name": "f", "input_schema": {"free": 1}, "cache_control": {}}],
    "metadata": {"user_id": "1"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
}
BODIES = {
    ChatRequest: CHAT,
    CompletionRequest: {"prompt": ["a"], "echo": True, "logit_bias": {"5": 1}},
    ResponsesRequest: RESPONSES,
    MessagesRequest: MESSAGES,
    TokenizeRequest: {"messages": CHAT["messages"], "add_special_tokens": True},
    DetokenizeRequest: {"tokens": [1]},
}
FREE = ("parameters", "schema", "metadata", "chat_template_kwargs", "arguments", "input_schema")


def objects_of(value, place=()):
    """Places of all objects that have a struct."""
    if isinstance(value, dict):
        yield place
        for name, member in value.items():
            if name not in (*FREE, "cache_control", "logit_bias"):
                yield from objects_of(member, (*place, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from objects_of(member, (*place, index))


PLACES = [(kind, place) for kind, body in BODIES.items() for place in objects_of(body)]


def path_of(place, name):
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in (*place, name))
    return text.lstrip(".")


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_what_is_known_passes(kind):
    assert isinstance(decode_body(json.dumps(BODIES[kind]).encode(), kind, True), kind)


@pytest.mark.parametrize(
    ("kind", "place"), PLACES, ids=[f"{k.__name__}:{path_of(p, '')}" for k, p in PLACES]
)
def test_an_unknown_field_is_refused_on_every_level_by_its_path(kind, place):
    body = copy.deepcopy(BODIES[kind])
    target = body
    for step in place:
        target = target[step]
    target["temprature"] = 1
    data = json.dumps(body).encode()
    assert decode_body(data, kind), "ignored without the flag"
    with pytest.raises(InvalidRequestError) as caught:
        decode_body(data, kind, strict_fields=True)
    assert caught.value.param == path_of(place, "temprature")
    assert caught.value.code == "unknown_field"
    target["temprature"] = None
    assert decode_body(json.dumps(body).encode(), kind, True), "a null says nothing"


def test_the_way_to_triton_is_not_for_clients():
    with pytest.raises(InvalidRequestError, match="op"):
        decode_body(b'{"messages": [], "op": "tokenize"}', ChatRequest, True)


@given(st.text(min_size=1, max_size=200))
def test_any_name_is_refused_or_known(name):
    body = json.dumps({"messages": [], name: 1}).encode()
    known = {field.encode_name for field in msgspec.structs.fields(ChatRequest)}
    if name in known:
        return
    with pytest.raises(InvalidRequestError) as caught:
        decode_body(body, ChatRequest, True)
    assert caught.value.param == name[:64]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi", "x": 1}]}),
        ("/v1/completions", {"prompt": "Hi", "x": 1}),
        ("/v1/responses", {"input": "Hi", "x": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "x": 1}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}], "x": 1}),
        ("/tokenize", {"prompt": "Hi", "x": 1}),
        ("/detokenize", {"tokens": [1], "x": 1}),
    ],
)
async def test_every_endpoint_obeys_the_flag(make_client, path, body):
    assert (await make_client(FakeTriton([finish()])).post(path, json=body)).status_code == 200
    triton = FakeTriton([finish()])
    reply = await make_client(triton, strict_fields=True).post(path, json=body)
    assert reply.status_code == 400
    assert "--strict-fields" in reply.json()["error"]["message"]
    assert triton.sent == triton.asked == []


def test_the_flag_is_off_by_default():
    assert not parse_options([], {}).strict_fields
    assert parse_options(["--strict-fields"], {}).strict_fields
