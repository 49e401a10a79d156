"""What has broken other servers' clients, each asked of this one over plain HTTP.

For clients that have no program of their own here: Vercel's AI SDK, Cline, Open WebUI, LlamaIndex,
Claude Code, and curl with what FastDeploy's guides tell it to send.
"""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conformance.clients.conversation import (
    CHAT,
    DESCRIBE,
    PICTURE_BASE64,
    PICTURE_URI,
    SCHEMA,
    TOOL,
    TOOL_RESULT,
    WEATHER,
)

pytestmark = [pytest.mark.conformance, pytest.mark.triton]

COMPLETIONS = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": TOOL}]
USER = {"role": "user", "content": CHAT}
PICTURE = {"type": "image_url", "image_url": {"url": PICTURE_URI}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": TOOL["name"], "arguments": '{"city": "Beijing"}'},
}


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def post(http):
    def ask(headers=None, **body):
        brief = {"temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
        reply = http.post(COMPLETIONS, json={**brief, **body}, headers=headers)
        assert reply.status_code == 200, reply.text
        return reply

    return ask


def answer(reply):
    return reply.json()["choices"][0]["message"]["content"]


def events(reply):
    """The payloads of a stream that must be framed as the strictest parsers want it."""
    assert reply.headers["content-type"].startswith("text/event-stream")
    *blocks, end = reply.text.split("\n\n")
    assert end == "" and blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.fixture(scope="module")
def streams(http):
    """Chunks of a thinking answer, of a tool call, and of two choices."""
    bodies = {
        "text": {"messages": [USER]},
        "tool": {"messages": [{"role": "user", "content": WEATHER}], "tools": TOOLS},
        "two": {"messages": [USER], "n": 2},
    }
    return {
        name: events(http.post(COMPLETIONS, json={**body, "stream": True, "temperature": 0}))
        for name, body in bodies.items()
    }


@pytest.mark.parametrize("kind", ["text", "tool", "two"])
def test_every_chunk_has_one_choice_with_its_index_and_no_null_text(streams, kind):
    chunks = streams[kind]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert isinstance(choice["index"], int)
        assert choice["delta"].get("role", "assistant") == "assistant"
        assert isinstance(choice["delta"]["content"], str)
        assert isinstance(chunk["created"], int)
        assert (chunk["object"], chunk["model"]) == ("chat.completion.chunk", "ernie")
        for call in choice["delta"]["tool_calls"] or ():
            assert isinstance(call["index"], int)
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("kind", ["text", "tool", "two"])
def test_each_choice_begins_with_its_role_and_ends_with_one_reason(streams, kind):
    for index in {chunk["choices"][0]["index"] for chunk in streams[kind]}:
        mine = [c["choices"][0] for c in streams[kind] if c["choices"][0]["index"] == index]
        first = mine[0]["delta"]
        assert (first["role"], first["content"]) == ("assistant", "")
        assert all("role" not in choice["delta"] for choice in mine[1:])
        *before, last = [choice["finish_reason"] for choice in mine]
        assert set(before) == {None}
        assert last == ("tool_calls" if kind == "tool" else "stop")


def test_a_streamed_call_has_its_id_and_name_once(streams):
    calls = [
        call
        for chunk in streams["tool"]
        for call in chunk["choices"][0]["delta"]["tool_calls"] or ()
    ]
    assert calls[0]["type"] == "function" and calls[0]["id"]
    assert calls[0]["function"]["name"] == TOOL["name"]
    assert all("id" not in call and "name" not in call["function"] for call in calls[1:])
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": "Beijing"}


def test_usage_stands_in_every_answer_and_in_a_last_chunk_for_those_who_ask(post):
    usage = post(messages=[USER]).json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    reply = post(messages=[USER], stream=True, stream_options={"include_usage": True})
    *chunks, last = events(reply)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == usage["completion_tokens"]
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("content", [None, "", []])
def test_an_assistant_that_only_called_tools_may_have_no_content(post, content):
    messages = [
        {"role": "user", "content": WEATHER},
        {"role": "assistant", "content": content, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": TOOL_RESULT},
    ]
    assert "sunny" in answer(post(messages=messages, tools=TOOLS))


def test_an_assistant_without_any_content_key_is_read(post):
    messages = [
        {"role": "user", "content": WEATHER},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": TOOL_RESULT},
    ]
    assert "sunny" in answer(post(messages=messages, tools=TOOLS))


def test_an_empty_answer_in_the_history_is_read(post):
    messages = [USER, {"role": "assistant", "content": ""}, USER]
    assert "ERNIE" in answer(post(messages=messages))


def test_fields_that_nobody_knows_are_ignored(post):
    fields = {"stream_response": True, "background_tasks": {"a": [None]}, "of_next_year": 1}
    assert "ERNIE" in answer(post(messages=[USER], **fields))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_either_limit_of_tokens_is_obeyed(post, limit):
    reply = post(messages=[USER], **{limit: 3}).json()
    assert reply["usage"]["completion_tokens"] == 3
    assert reply["choices"][0]["finish_reason"] == "length"


def test_the_list_of_models_tells_the_context(http):
    (model,) = http.get("/v1/models").json()["data"]
    assert model["id"] == "ernie" and isinstance(model["created"], int)
    assert http.get("/v1/models/ernie").json()["max_model_len"] == model["max_model_len"] > 0


@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": "default"}, {"model": ""}])
def test_no_model_need_be_named(post, given):
    assert "ERNIE" in answer(post(messages=[USER], **given))


@pytest.mark.parametrize(
    "switch",
    [
        {"metadata": {"enable_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_thinking_is_switched_off_wherever_a_client_puts_the_switch(http, switch):
    body = {"messages": [USER], "temperature": 0, "max_tokens": 4}
    reply = http.post(COMPLETIONS, json={**body, **switch}).json()
    assert reply["choices"][0]["message"]["reasoning_content"] is None
    reply = http.post(COMPLETIONS, json=body).json()
    assert reply["choices"][0]["message"]["reasoning_content"]


def test_a_tool_may_return_a_picture(post):
    tool = {**TOOL, "name": "take_picture", "parameters": {"type": "object", "properties": {}}}
    call = {**CALL, "function": {"name": "take_picture", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": DESCRIBE},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [PICTURE]},
    ]
    reply = post(messages=messages, tools=[{"type": "function", "function": tool}])
    assert reply.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0


@pytest.mark.parametrize("detail", ["auto", "high"])
def test_a_picture_may_come_with_a_detail_and_after_the_question(post, detail):
    part = {"type": "image_url", "image_url": {"url": PICTURE_URI, "detail": detail}}
    content = [{"type": "text", "text": DESCRIBE}, part]
    told = answer(post(messages=[{"role": "user", "content": content}]))
    assert "star" in told


def test_fields_that_are_null_are_as_good_as_absent(post):
    names = ("tools", "tool_choice", "stop", "response_format", "seed", "logit_bias", "user", "n")
    nulls = dict.fromkeys((*names, "stream_options", "parallel_tool_calls", "metadata", "logprobs"))
    assert "ERNIE" in answer(post(messages=[USER], **nulls))


def test_the_answer_names_the_request(post):
    assert post(messages=[USER], max_tokens=1).headers["x-request-id"]
    asked = post(messages=[USER], max_tokens=1, headers={"x-request-id": "trace-7"})
    assert asked.headers["x-request-id"] == "trace-7"


def test_a_schema_is_obeyed_also_when_it_is_streamed(post):
    form = {"type": "json_schema", "json_schema": {"name": "t", "schema": SCHEMA, "strict": True}}
    content = [PICTURE, {"type": "text", "text": DESCRIBE}]
    body = {"messages": [{"role": "user", "content": content}], "response_format": form}
    chunks = events(post(stream=True, **body))
    streamed = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert json.loads(streamed).keys() == {"colour", "shape"}
    assert json.loads(answer(post(**body))) == json.loads(streamed)


def test_claude_codes_conversation_is_read(http):
    """System messages in the middle, thinking sent back, cache marks, betas, many tools."""
    tools = [
        {
            "name": f"tool_{number}",
            "description": "Does nothing",
            "input_schema": {"type": "object"},
        }
        for number in range(20)
    ]
    weather = {"name": TOOL["name"], "input_schema": TOOL["parameters"]}
    mark = {"cache_control": {"type": "ephemeral"}}
    source = {"type": "base64", "media_type": "image/jpeg", "data": PICTURE_BASE64}
    body = {
        "model": "ernie",
        "max_tokens": 30,
        "system": [{"type": "text", "text": "You are a helper.", **mark}],
        "metadata": {"user_id": "user_1"},
        "tools": [*tools, {**weather, **mark}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": WEATHER, **mark}]},
            {"role": "system", "content": "Be brief."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I call the tool.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": TOOL["name"],
                        "input": {"city": "Beijing"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [
                            {"type": "text", "text": TOOL_RESULT},
                            {"type": "image", "source": source},
                        ],
                        **mark,
                    },
                    {"type": "text", "text": "Go on."},
                ],
            },
        ],
    }
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
    reply = http.post("/v1/messages?beta=true", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    counted = http.post("/v1/messages/count_tokens?beta=true", json=body, headers=headers)
    usage = reply.json()["usage"]
    assert counted.json() == {
        "input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]
    }
