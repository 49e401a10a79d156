"""Constraints through a whole server: preprocessor, engine process and postprocessor."""

import json

import pytest

from tests.triton.triton_chat import is_last

pytestmark = pytest.mark.triton

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "ok": {"type": "boolean"},
    },
    "required": ["n", "ok"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "count", "parameters": SCHEMA, "strict": True}}


def question(**fields):
    messages = [{"role": "user", "content": "Count."}]
    return {"messages": messages, "seed": 3, "max_tokens": 250, "stream": True, **fields}


def content_of(events):
    return "".join(event.get("delta", {}).get("content", "") for event in events)


def calls_of(events):
    calls = {}
    for event in events:
        for delta in event.get("delta", {}).get("tool_calls", []):
            name, arguments = calls.get(delta["index"], ("", ""))
            calls[delta["index"]] = (
                name or delta.get("name", ""),
                arguments + delta.get("arguments", ""),
            )
    return list(calls.values())


@pytest.mark.parametrize("stream", [True, False])
def test_random_weights_think_briefly_and_answer_in_json(chat, stream):
    events = chat.events(
        question(
            stream=stream,
            reasoning_max_tokens=5,
            response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        )
    )
    assert is_last(events[-1])
    content = content_of(events)
    assert content[0] == "{"
    assert set(json.loads(content)) == {"n", "ok"}
    assert events[-1]["finish_reason"] == "stop"
    assert events[-1]["usage"]["reasoning_tokens"] == 6


@pytest.mark.parametrize("stream", [True, False])
def test_a_demanded_call_is_made_and_parsed(chat, stream):
    events = chat.events(
        question(
            stream=stream,
            tools=[TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            reasoning_max_tokens=2,
        )
    )
    ((name, arguments),) = calls_of(events)
    assert name == "count" and set(json.loads(arguments)) == {"n", "ok"}
    assert content_of(events) == ""
    assert events[-1]["finish_reason"] == "tool_calls"


def test_a_bad_schema_is_the_clients_error(chat):
    (event,) = chat.events(question(guided_json={"type": "wat"}))
    assert event["error"]["status"] == 400
    assert (event["error"]["code"], event["error"]["param"]) == ("invalid_grammar", "guided_json")
