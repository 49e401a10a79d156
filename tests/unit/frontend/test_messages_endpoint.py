"""/v1/messages and /v1/messages/count_tokens, as Anthropic's clients use them."""

from __future__ import annotations

import base64
import json

import pytest

from backend.errors import EngineUnavailableError, InvalidRequestError
from backend.request import FinishReason, Usage
from openai_frontend.upstream import Tokens
from tests.unit.frontend.fake_triton import FakeTriton, call, finish, text

URL = "/v1/messages"
USER = {"role": "user", "content": "Hi"}
BODY = {"model": "default", "max_tokens": 64, "messages": [USER]}
PNG = base64.b64encode(b"png").decode()
WEATHER = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ANSWER = [
    text(reasoning="Hm", prompt_token_ids=[1, 2, 3, 4, 5, 6, 7]),
    text("\n"),
    text("\nIt "),
    text("is."),
    call(0, "", id="call-0", name="get_weather"),
    call(0, '{"city": '),
    call(0, '"Riga"}'),
    finish(
        reason=FinishReason.TOOL_CALLS,
        usage=Usage(prompt_tokens=7, completion_tokens=9, cached_tokens=4),
    ),
]


def events_of(body: str):
    """(event, data) of each; asserts that the two names agree."""
    events = []
    for frame in body.strip("\n").split("\n\n"):
        name, data = frame.split("\n")
        assert name.startswith("event: ")
        event = json.loads(data.removeprefix("data: "))
        assert event["type"] == name.removeprefix("event: ")
        events.append(event)
    return events


def rebuilt(events):
    """The message that a client puts together from a stream."""
    first, *_, delta, last = events
    assert (first["type"], delta["type"], last["type"]) == (
        "message_start",
        "message_delta",
        "message_stop",
    )
    message = first["message"]
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            block, change = message["content"][event["index"]], event["delta"]
            field = {"input_json_delta": "json"}.get(change["type"], change["type"][:-6])
            block[field] += change.get("partial_json", change.get(field, ""))
    for block in message["content"]:
        arguments = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(arguments)
    return {**message, **delta["delta"], "usage": delta["usage"]}


async def test_a_message_holds_thinking_text_and_tool_use(make_client):
    reply = (await make_client(FakeTriton(ANSWER)).post(URL, json=BODY)).json()
    assert reply.pop("id").startswith("msg_")
    assert reply == {
        "type": "message",
        "role": "assistant",
        "model": "default",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "unsigned"},
            {"type": "text", "text": "It is."},
            {"type": "tool_use", "id": "call-0", "name": "get_weather", "input": {"city": "Riga"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "output_tokens": 9,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0,
        },
    }


async def test_a_stream_gives_the_same_message_in_anthropics_events(make_client):
    collected = (await make_client(FakeTriton(ANSWER)).post(URL, json=BODY)).json()
    client = make_client(FakeTriton(ANSWER))
    reply = await client.post(f"{URL}?beta=true", json={**BODY, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    assert [event["type"] for event in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta"),
        *("content_block_delta", "content_block_stop", "content_block_start"),
        *("content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    message = rebuilt(events)
    assert {**message, "id": ""} == {**collected, "id": ""}


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (finish("a"), "end_turn", None),
        (finish("a", stop_reason=7), "end_turn", None),
        (finish("a", stop_reason="END"), "stop_sequence", "END"),
        (finish("a", reason=FinishReason.LENGTH), "max_tokens", None),
        (finish("a", reason=FinishReason.CONTENT_FILTER), "refusal", None),
    ],
)
async def test_the_stop_reason_is_anthropics(make_client, last, reason, sequence):
    reply = (await make_client(FakeTriton([last])).post(URL, json=BODY)).json()
    assert (reply["stop_reason"], reply["stop_sequence"]) == (reason, sequence)


async def test_a_call_cut_off_by_max_tokens_has_an_object_as_input(make_client):
    script = [call(0, '{"ci', id="c", name="f"), finish(reason=FinishReason.LENGTH)]
    reply = (await make_client(FakeTriton(script)).post(URL, json=BODY)).json()
    assert reply["content"][0]["input"] == {}


async def sent(make_client, **fields):
    triton = FakeTriton([finish("a")])
    reply = await make_client(triton).post(URL, json={**BODY, **fields})
    assert reply.status_code == 200, reply.text
    return triton.sent[0]


async def test_settings_are_passed_on_under_our_names(make_client):
    request = (
        await sent(
            make_client,
            stop_sequences=["END"],
            temperature=0.5,
            top_p=0.9,
            top_k=3,
            metadata={"user_id": "u"},
        )
    ).request
    assert request.max_tokens == 64
    assert request.stop == ["END"]
    assert (request.temperature, request.top_p, request.top_k) == (0.5, 0.9, 3)


@pytest.mark.parametrize(
    ("fields", "switch", "budget", "effort"),
    [
        ({}, False, None, None),
        ({"thinking": {"type": "disabled"}}, False, None, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 32}}, True, 32, None),
        ({"thinking": {"type": "adaptive"}}, True, None, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, True, None, "low"),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            True,
            None,
            "high",
        ),
    ],
)
async def test_thinking_is_off_unless_asked_for(make_client, fields, switch, budget, effort):
    request = (await sent(make_client, **fields)).request
    assert request.chat_template_kwargs == {"enable_thinking": switch}
    assert (request.reasoning_max_tokens, request.reasoning_effort) == (budget, effort)


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
    ],
)
async def test_tools_and_their_choice_are_passed_on(make_client, choice, expected, parallel):
    hosted = {"type": "web_search_20250305", "name": "web_search"}
    custom = {**WEATHER, "type": "custom", "cache_control": {"type": "ephemeral"}}
    request = (await sent(make_client, tools=[custom, hosted], tool_choice=choice)).request
    (tool,) = request.tools
    assert tool.function.name == "get_weather"
    assert tool.function.parameters == WEATHER["input_schema"]
    assert (request.tool_choice, request.parallel_tool_calls) == (expected, parallel)


async def test_a_named_tool_and_an_output_format_are_passed_on(make_client):
    schema = {"type": "object"}
    request = (
        await sent(
            make_client,
            tools=[WEATHER],
            tool_choice={"type": "tool", "name": "get_weather"},
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
    ).request
    assert request.tool_choice.function.name == "get_weather"
    assert request.response_format.json_schema.schema == schema


async def test_a_conversation_of_claude_code_becomes_messages(make_client):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [image]}
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True}
    request = await sent(
        make_client,
        system=[{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}, image]},
            {"role": "system", "content": "Use tools"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me see"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {"role": "user", "content": [result, failed, {"type": "text", "text": "Go on"}]},
        ],
    )
    messages = request.request.messages
    roles = ["system", "user", "system", "assistant", "tool", "tool", "user"]
    assert [message.role for message in messages] == roles
    assert request.media == [b"png", b"png"]
    assert messages[1].content[1].image_url.url == "media:0"
    assistant = messages[3]
    assert (assistant.content, assistant.reasoning_content) == ("Let me see", "Hm")
    assert [(c.id, c.function.name) for c in assistant.tool_calls] == [("t1", "f"), ("t2", "g")]
    assert assistant.tool_calls[0].function.arguments == {"a": 1}
    assert messages[4].tool_call_id == "t1"
    assert messages[4].content[0].image_url.url == "media:1"
    assert [part.text for part in messages[5].content] == ["Error: ", "no"]
    assert messages[6].content[0].text == "Go on"


async def test_an_assistants_message_at_the_end_is_continued(make_client):
    triton = FakeTriton([finish("\n c")])
    messages = [USER, {"role": "assistant", "content": "a b"}]
    reply = await make_client(triton).post(URL, json={**BODY, "messages": messages})
    assert triton.sent[0].request.continue_final_message
    assert reply.json()["content"] == [{"type": "text", "text": "\n c"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
        {"messages": "Hi"},
        {"tool_choice": {"type": "some"}},
        {"thinking": {"type": "some"}},
        {"max_tokens": "many"},
        {"output_config": {"format": {"type": "xml"}}},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": {"type": "base64", "data": PNG}}],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "file", "data": ""}}],
                }
            ]
        },
    ],
)
async def test_a_clients_mistake_is_a_400_in_anthropics_form(make_client, fields):
    triton = FakeTriton([finish("a")])
    reply = await make_client(triton).post(URL, json={**BODY, **fields})
    assert reply.status_code == 400
    body = reply.json()
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == "invalid_request_error"
    assert triton.sent == []


@pytest.mark.parametrize(
    "thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}]
)
async def test_a_thread_is_refused_so_that_the_client_sends_all_of_it(make_client, thread):
    """What Anthropic's tool runner understands; without it half of a conversation is answered."""
    triton = FakeTriton([finish("a")])
    client = make_client(triton)
    reply = await client.post(URL, json={**BODY, "thread": thread})
    assert (reply.status_code, triton.sent) == (400, [])
    assert reply.json()["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }
    assert (await client.post(URL, json={**BODY, "thread": None})).status_code == 200


@pytest.mark.parametrize("path", [URL, f"{URL}/count_tokens"])
async def test_refusals_of_the_door_have_anthropics_form_too(make_client, path):
    client = make_client(FakeTriton(), api_keys=("sesame",), max_body_bytes=300)
    reply = await client.post(path, json=BODY)
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    key = {"x-api-key": "sesame"}
    large = {**BODY, "system": "x" * 400}
    for status, kind, answer in (
        (413, "request_too_large", client.post(path, json=large, headers=key)),
        (405, "invalid_request_error", client.get(path, headers=key)),
    ):
        reply = await answer
        assert reply.status_code == status
        assert reply.json()["error"]["type"] == kind
    client.service.admission.drain()
    reply = await client.post(path, json=BODY, headers=key)
    assert reply.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "sesame"}, 200),
        ({"authorization": "Bearer sesame"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "wrong", "authorization": "Bearer sesame"}, 200),
        ({}, 401),
    ],
)
async def test_a_key_may_come_in_either_header(make_client, headers, status):
    client = make_client(FakeTriton([finish("a")]), api_keys=("open", "sesame"))
    assert (await client.post(URL, json=BODY, headers=headers)).status_code == status


async def test_an_error_in_a_stream_is_an_error_event(make_client):
    client = make_client(FakeTriton([text("a"), EngineUnavailableError("gone")]))
    events = events_of((await client.post(URL, json={**BODY, "stream": True})).text)
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "gone"}
    assert "[DONE]" not in str(events)


async def test_tokens_are_counted_by_the_preprocessor(make_client):
    triton = FakeTriton(answer=Tokens([1] * 11))
    reply = await make_client(triton).post(
        f"{URL}/count_tokens?beta=true", json={"messages": [USER], "tools": [WEATHER]}
    )
    assert reply.json() == {"input_tokens": 11}
    (asked,) = triton.asked
    assert asked.request.op == "tokenize"
    assert asked.request.tools[0].function.name == "get_weather"


async def test_a_refused_count_is_an_error_in_anthropics_form(make_client):
    triton = FakeTriton(answer=InvalidRequestError("messages[0] is bad"))
    reply = await make_client(triton).post(f"{URL}/count_tokens", json={"messages": [USER]})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "messages[0] is bad"
