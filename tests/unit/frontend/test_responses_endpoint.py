"""/v1/responses: create and stream, by hand and through the official client."""

from __future__ import annotations

import asyncio
import base64
import json

import openai
import pytest

from backend.errors import EngineUnavailableError
from backend.request import FinishReason, Usage
from tests.unit.frontend.fake_triton import FakeTriton, call, finish, text

URL = "/v1/responses"
PNG = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
USAGE = Usage(prompt_tokens=7, completion_tokens=9, cached_tokens=4, reasoning_tokens=2)
ANSWER = [
    text(reasoning="Hm"),
    text("\n"),
    text("\nIt "),
    text("is."),
    call(0, "", id="call-0", name="get_weather"),
    call(0, '{"city": '),
    call(0, '"Riga"}'),
    finish(reason=FinishReason.TOOL_CALLS, usage=USAGE),
]
DELTAS = {
    "response.reasoning_text.delta",
    "response.output_text.delta",
    "response.function_call_arguments.delta",
}


def events_of(body: str):
    """The events; asserts their names and that their numbers count up from 0."""
    events = []
    for frame in body.strip("\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(event)
    return events


def without_ids(response):
    items = [{**item, "id": item["id"].split("_")[0]} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "output": items}


async def ask(make_client, script=ANSWER, **fields):
    triton = FakeTriton(script)
    reply = await make_client(triton).post(URL, json={"input": "Hi", **fields})
    assert reply.status_code == 200, reply.text
    return triton.sent[0], reply


async def test_a_response_holds_reasoning_a_message_and_a_call(make_client):
    _, reply = await ask(make_client, tools=[WEATHER], metadata={"a": "b"}, user="ann")
    response = reply.json()
    assert response["id"].startswith("resp_")
    assert (response["object"], response["status"], response["error"]) == (
        "response",
        "completed",
        None,
    )
    assert (response["store"], response["metadata"], response["user"]) == (
        False,
        {"a": "b"},
        "ann",
    )
    assert response["tools"] == [WEATHER]
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 16,
    }
    assert without_ids(response)["output"] == [
        {
            "id": "rs",
            "type": "reasoning",
            "status": "completed",
            "content": [{"type": "reasoning_text", "text": "Hm"}],
            "summary": [],
        },
        {
            "id": "msg",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "It is.", "annotations": [], "logprobs": []}
            ],
        },
        {
            "id": "fc",
            "type": "function_call",
            "status": "completed",
            "call_id": "call-0",
            "name": "get_weather",
            "arguments": '{"city": "Riga"}',
        },
    ]


async def test_a_stream_tells_the_same_response_step_by_step(make_client):
    _, collected = await ask(make_client)
    _, reply = await ask(make_client, stream=True)
    events = events_of(reply.text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    assert events[0]["response"]["status"] == "in_progress"
    response = events[-1]["response"]
    assert without_ids(response) == without_ids(collected.json())
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    for index, item in enumerate(done):
        added, *inner, _ = [e for e in events if e.get("output_index") == index]
        assert added["item"]["id"] == item["id"]
        assert {event["item_id"] for event in inner} == {item["id"]}
        said = "".join(event["delta"] for event in inner if event["type"] in DELTAS)
        assert said == item.get("arguments", item.get("content", [{}])[0].get("text"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (FinishReason.LENGTH, "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
    ],
)
async def test_what_was_cut_off_is_incomplete(make_client, stream, reason, why):
    _, reply = await ask(make_client, [finish("a", reason=reason)], stream=stream)
    response = reply.json() if not stream else events_of(reply.text)[-1]["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": why}
    assert response["output"][-1]["status"] == "incomplete"
    if stream:
        assert events_of(reply.text)[-1]["type"] == "response.incomplete"


async def test_a_failure_in_a_stream_is_its_last_event(make_client):
    script = [text("a"), EngineUnavailableError("gone")]
    _, reply = await ask(make_client, script, stream=True)
    last = events_of(reply.text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "gone"}


async def test_settings_are_passed_on_under_our_names(make_client):
    sent, reply = await ask(
        make_client,
        instructions="Be brief",
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        store=True,
        reasoning={"effort": "xhigh", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": True}},
        include=["reasoning.encrypted_content"],
        truncation="auto",
        parallel_tool_calls=False,
    )
    request = sent.request
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "Be brief"),
        ("user", "Hi"),
    ]
    assert (request.max_tokens, request.temperature, request.top_p) == (9, 0.5, 0.9)
    assert request.reasoning_effort == "high"
    assert request.response_format.json_schema.name == "x"
    assert request.parallel_tool_calls is False
    assert reply.json()["store"] is False
    assert reply.json()["text"]["format"]["name"] == "x"


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ("required", "required", ["get_weather", "other"]),
        ({"type": "function", "name": "other"}, "other", ["get_weather", "other"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "other"}],
            },
            "required",
            ["other"],
        ),
    ],
)
async def test_tools_and_their_choice_are_passed_on(make_client, choice, expected, names):
    tools = [WEATHER, {**WEATHER, "name": "other"}, {"type": "web_search"}]
    sent, reply = await ask(make_client, tools=tools, tool_choice=choice)
    found = sent.request.tool_choice
    assert (found if isinstance(found, str) else found.function.name) == expected
    assert [tool.function.name for tool in sent.request.tools] == names
    assert reply.json()["tool_choice"] == choice


async def test_a_conversation_of_items_becomes_messages(make_client):
    items = [
        {"role": "developer", "content": "Be brief"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Weather?"},
                {"type": "input_image", "image_url": PNG, "detail": "auto"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see", "annotations": []}],
        },
        {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_image", "image_url": PNG}],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]},
        {"role": "assistant", "content": "Rain"},
        {"role": "assistant", "content": "Really"},
        {"role": "user", "content": "Thanks"},
    ]
    sent, _ = await ask(make_client, input=items)
    messages = sent.request.messages
    assert [m.role for m in messages] == [
        *("developer", "user", "assistant", "tool", "tool"),
        *("assistant", "assistant", "user"),
    ]
    assert sent.media == [b"png", b"png"]
    assert (messages[2].content, messages[2].reasoning_content) == ("Let me see", "Hm")
    assert [(c.id, c.function.name) for c in messages[2].tool_calls] == [("c1", "f"), ("c2", "g")]
    assert (messages[3].content, messages[3].tool_call_id) == ("rain", "c1")
    assert messages[4].content[0].image_url.url == "media:1"
    assert (messages[5].content, messages[5].reasoning_content) == ("Rain", "So")
    assert messages[6].content == "Really"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_not_found"),
        ({"conversation": "conv_1"}, "unsupported_parameter"),
        ({"background": True}, "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter"),
        ({"top_logprobs": 3}, "unsupported_parameter"),
        ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter"),
        ({"input": ""}, "missing_required_parameter"),
        ({"input": []}, "missing_required_parameter"),
        ({"input": 5}, "invalid_value"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "invalid_value"),
        ({"tool_choice": {"type": "mcp"}}, "invalid_value"),
        ({"tools": [{}]}, "invalid_value"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(make_client, fields, code):
    triton = FakeTriton([finish("a")])
    reply = await make_client(triton).post(URL, json={"input": "Hi", **fields})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code
    assert triton.sent == []


async def test_a_limit_below_one_is_refused_by_the_clients_own_name_for_it(make_client):
    triton = FakeTriton([finish("a")])
    reply = await make_client(triton).post(URL, json={"input": "Hi", "max_output_tokens": 0})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "max_output_tokens")
    assert error["message"] == "max_output_tokens is 0; it must be at least 1"
    assert triton.sent == []


async def test_the_official_client_creates_and_streams(serve):
    async with serve(FakeTriton(ANSWER)) as (_, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="null") as client:
            created = await client.responses.create(model="default", input="Hi", tools=[WEATHER])
            assert created.output_text == "It is."
            assert created.output[2].arguments == '{"city": "Riga"}'
            raw = await client.responses.create(model="default", input="Hi", stream=True)
            assert [event.type async for event in raw][-1] == "response.completed"
            async with client.responses.stream(
                model="default", input="Hi", tools=[WEATHER]
            ) as stream:
                texts = [e.delta async for e in stream if e.type == "response.output_text.delta"]
                final = await stream.get_final_response()
            assert texts == ["It ", "is."]
            assert final.output_text == "It is."
            assert final.output[2].parsed_arguments == {"city": "Riga"}
            assert final.usage.output_tokens_details.reasoning_tokens == 2


async def test_the_official_client_sees_a_refusal(serve):
    async with serve(FakeTriton(ANSWER)) as (_, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="null") as client:
            with pytest.raises(openai.BadRequestError) as raised:
                await asyncio.wait_for(
                    client.responses.create(input="Hi", previous_response_id="resp_1"), 10
                )
    assert raised.value.code == "previous_response_not_found"
