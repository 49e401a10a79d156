"""Anthropic's Python client at /v1/messages: `python anthropic_python.py BASE_URL`."""

from __future__ import annotations

import json
from typing import Literal

import anthropic
from conversation import (
    CHAT,
    DESCRIBE,
    KEY,
    PICTURE_BASE64,
    POEM,
    SCHEMA,
    TOOL,
    TOOL_RESULT,
    WEATHER,
    Streamed,
    ToolRound,
    base_url,
    play,
)
from pydantic import BaseModel

client = anthropic.Anthropic(base_url=base_url(), api_key=KEY, max_retries=0, timeout=120)
MODEL = "default"
# The client has no `temperature` any more; the API still has.
LIMITS = {"model": MODEL, "max_tokens": 400, "extra_body": {"temperature": 0}}
TOOLS = [
    {
        "name": TOOL["name"],
        "description": TOOL["description"],
        "input_schema": TOOL["parameters"],
    }
]
PICTURE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/jpeg", "data": PICTURE_BASE64},
}
THINKING = {"type": "enabled", "budget_tokens": 200}


class Thing(BaseModel):
    colour: Literal["red", "green", "blue", "yellow"]
    shape: Literal["circle", "square", "triangle", "star"]


def user(content):
    return {"role": "user", "content": content}


def asked_picture():
    return [user([PICTURE, {"type": "text", "text": DESCRIBE}])]


def answer_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def chat():
    message = client.messages.create(messages=[user(CHAT)], **LIMITS)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    return answer_of(message)


def vision():
    return answer_of(client.messages.create(messages=asked_picture(), **LIMITS))


def tools():
    messages = [user(WEATHER)]
    message = client.messages.create(messages=messages, tools=TOOLS, **LIMITS)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.name == TOOL["name"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": TOOL_RESULT}
    # The blocks go back as the client read them.
    messages += [{"role": "assistant", "content": message.content}, user([result])]
    answer = client.messages.create(messages=messages, tools=TOOLS, **LIMITS)
    return ToolRound(call.input, answer_of(answer))


def streaming():
    with client.messages.stream(messages=[user(POEM)], **LIMITS) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert "".join(pieces) == answer_of(message)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > len(pieces) / 2
    return Streamed(pieces)


def structured():
    form = {"type": "json_schema", "schema": SCHEMA}
    message = client.messages.create(
        messages=asked_picture(), output_config={"format": form}, **LIMITS
    )
    return json.loads(answer_of(message))


def parsed():
    message = client.messages.parse(messages=asked_picture(), output_format=Thing, **LIMITS)
    assert isinstance(message.parsed_output, Thing)
    return message.parsed_output


def thinking():
    """Thinking blocks, streamed, then sent back before a tool's result, as Claude Code does."""
    messages = [user(WEATHER)]
    with client.messages.stream(
        messages=messages, tools=TOOLS, thinking=THINKING, **LIMITS
    ) as stream:
        thoughts = "".join(event.thinking for event in stream if event.type == "thinking")
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[0].thinking == thoughts and message.content[0].signature
    assert message.content[1].input == {"city": "Beijing"}
    result = {
        "type": "tool_result",
        "tool_use_id": message.content[1].id,
        "content": [{"type": "text", "text": TOOL_RESULT}],
    }
    messages += [{"role": "assistant", "content": message.content}, user([result])]
    answer = client.messages.create(messages=messages, tools=TOOLS, thinking=THINKING, **LIMITS)
    assert "sunny" in answer_of(answer)
    return answer_of(answer)


def tool_runner():
    """The client calls the function itself and goes on until there is an answer."""

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city

        Args:
            city: the city
        """
        assert city == "Beijing"
        return TOOL_RESULT

    # POST /v1/messages?beta=true
    runner = client.beta.messages.tool_runner(
        messages=[user(WEATHER)], tools=[get_weather], **LIMITS
    )
    answer = answer_of(runner.until_done())
    assert "sunny" in answer
    return answer


def count_tokens():
    counted = client.messages.count_tokens(
        model=MODEL, messages=asked_picture(), tools=TOOLS, system="Be brief."
    )
    message = client.messages.create(
        messages=asked_picture(), tools=TOOLS, system="Be brief.", **LIMITS
    )
    cached = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + cached
    return counted.input_tokens


def errors():
    mistakes = [
        (anthropic.NotFoundError, "not_found_error", {"model": "claude"}),
        (anthropic.BadRequestError, "invalid_request_error", {"messages": []}),
    ]
    for kind, name, changes in mistakes:
        try:
            client.messages.create(**{"messages": [user(CHAT)], **LIMITS, **changes})
        except kind as error:
            assert (error.body["type"], error.body["error"]["type"]) == ("error", name)
        else:
            raise AssertionError(f"no error for {sorted(changes)}")
    return [name for _, name, _ in mistakes]


play(
    {
        step.__name__: step
        for step in (
            chat,
            vision,
            tools,
            streaming,
            structured,
            parsed,
            thinking,
            tool_runner,
            count_tokens,
            errors,
        )
    }
)
