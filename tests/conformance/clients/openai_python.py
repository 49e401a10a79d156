"""OpenAI's Python client: `python openai_python.py BASE_URL`."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import openai
from conversation import (
    CHAT,
    DESCRIBE,
    KEY,
    PICTURE_URI,
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
from openai.lib.streaming.chat import ContentDoneEvent, FunctionToolCallArgumentsDoneEvent
from pydantic import BaseModel

URL = f"{base_url()}/v1"
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
TOOLS = [{"type": "function", "function": TOOL}]
PICTURE = {"type": "image_url", "image_url": {"url": PICTURE_URI}}
GREEDY = {"model": MODEL, "temperature": 0, "max_completion_tokens": 400}


class Thing(BaseModel):
    colour: Literal["red", "green", "blue", "yellow"]
    shape: Literal["circle", "square", "triangle", "star"]


def user(*parts):
    return {"role": "user", "content": list(parts) if len(parts) > 1 else parts[0]}


def text(value):
    return {"type": "text", "text": value}


def chat():
    reply = client.chat.completions.create(messages=[user(CHAT)], **GREEDY)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.choices[0].finish_reason == "stop"
    return reply.choices[0].message.content


def vision():
    reply = client.chat.completions.create(messages=[user(PICTURE, text(DESCRIBE))], **GREEDY)
    return reply.choices[0].message.content


def tools():
    messages = [user(WEATHER)]
    reply = client.chat.completions.create(messages=messages, tools=TOOLS, **GREEDY)
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == TOOL["name"]
    # The message goes back as the client made it, as OpenAI's guide does.
    messages += [
        reply.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT},
    ]
    reply = client.chat.completions.create(messages=messages, tools=TOOLS, **GREEDY)
    return ToolRound(json.loads(call.function.arguments), reply.choices[0].message.content)


def streaming():
    stream = client.chat.completions.create(
        messages=[user(POEM)], stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    *chunks, last = stream
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert (last.choices, last.usage.completion_tokens > len(chunks) / 2) == ([], True)
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    contents = [chunk.choices[0].delta.content for chunk in chunks]
    assert None not in contents
    return Streamed([content for content in contents if content])


def structured():
    form = {"name": "thing", "schema": SCHEMA, "strict": True}
    reply = client.chat.completions.create(
        messages=[user(PICTURE, text(DESCRIBE))],
        response_format={"type": "json_schema", "json_schema": form},
        **GREEDY,
    )
    return json.loads(reply.choices[0].message.content)


def parsed():
    """A pydantic class as the format; the client makes the schema and reads the answer."""
    reply = client.chat.completions.parse(
        messages=[user(PICTURE, text(DESCRIBE))], response_format=Thing, **GREEDY
    )
    thing = reply.choices[0].message.parsed
    assert isinstance(thing, Thing)
    return thing


def stream_helper():
    """The client puts the chunks together itself: it needs every `index`, `id` and `name`."""
    with client.chat.completions.stream(
        messages=[user(WEATHER)],
        tools=[{"type": "function", "function": {**TOOL, "strict": True}}],
        **GREEDY,
    ) as stream:
        (done,) = [e for e in stream if isinstance(e, FunctionToolCallArgumentsDoneEvent)]
        final = stream.get_final_completion()
    assert (done.index, done.name) == (0, TOOL["name"])
    (call,) = final.choices[0].message.tool_calls
    assert call.id and call.function.arguments == done.arguments
    assert final.choices[0].finish_reason == "tool_calls"
    return done.arguments


def stream_of_a_format():
    with client.chat.completions.stream(
        messages=[user(PICTURE, text(DESCRIBE))], response_format=Thing, **GREEDY
    ) as stream:
        (done,) = [event for event in stream if isinstance(event, ContentDoneEvent)]
    assert isinstance(done.parsed, Thing)
    return done.parsed


def choices():
    reply = client.chat.completions.create(
        messages=[user(CHAT)], n=2, seed=3, logprobs=True, top_logprobs=2, **GREEDY
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    return reply.choices[1].message.content


def responses():
    """The Responses API: items instead of messages, streamed as events."""
    limits = {"model": MODEL, "temperature": 0, "max_output_tokens": 400}
    content = [
        {"type": "input_image", "image_url": PICTURE_URI, "detail": "auto"},
        {"type": "input_text", "text": DESCRIBE},
    ]
    asked = [{"role": "user", "content": content}]
    reply = client.responses.create(input=asked, **limits)
    with client.responses.stream(input=asked, **limits) as stream:
        streamed = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert reply.status == final.status == "completed"
    assert streamed == reply.output_text == final.output_text
    assert "red" in streamed and "star" in streamed
    parsed = client.responses.parse(input=asked, text_format=Thing, **limits)
    assert isinstance(parsed.output_parsed, Thing)
    return streamed


def responses_tools():
    limits = {"model": MODEL, "temperature": 0, "max_output_tokens": 400}
    tool = {"type": "function", **TOOL, "strict": False}
    items = [user(WEATHER)]
    reply = client.responses.create(input=items, tools=[tool], **limits)
    items += reply.output  # reasoning and call, as the client read them
    (call,) = [item for item in reply.output if item.type == "function_call"]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": TOOL_RESULT})
    answer = client.responses.create(input=items, tools=[tool], **limits).output_text
    assert json.loads(call.arguments) == {"city": "Beijing"} and "sunny" in answer
    return answer


def completions():
    reply = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3, logprobs=1)
    assert [choice.index for choice in reply.choices] == [0, 1]
    pieces = client.completions.create(model=MODEL, prompt="a", max_tokens=3, stream=True)
    assert all(isinstance(piece.choices[0].text, str) for piece in pieces)
    return reply.choices[0].text


def errors():
    """Mistakes become the client's own exceptions, with OpenAI's fields."""
    mistakes = [
        (openai.NotFoundError, "model_not_found", {"model": "gpt-5"}),
        (openai.BadRequestError, "invalid_value", {"temperature": -1}),
        (openai.BadRequestError, "context_length_exceeded", {"messages": [user("long " * 9000)]}),
    ]
    for kind, code, changes in mistakes:
        try:
            client.chat.completions.create(**{"messages": [user(CHAT)], **GREEDY, **changes})
        except kind as error:
            assert (error.code, error.type) == (code, "invalid_request_error"), error
            assert error.request_id
        else:
            raise AssertionError(f"no error for {sorted(changes)}")
    return [code for _, code, _ in mistakes]


def asynchronous():
    """Four streams of one async client at a time."""

    async def one(session):
        stream = await session.chat.completions.create(messages=[user(CHAT)], stream=True, **GREEDY)
        return "".join([chunk.choices[0].delta.content async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as session:
            return await asyncio.gather(*(one(session) for _ in range(4)))

    answers = set(asyncio.run(all_of_them()))
    assert len(answers) == 1, answers
    return answers.pop()


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
            stream_helper,
            stream_of_a_format,
            choices,
            responses,
            responses_tools,
            completions,
            errors,
            asynchronous,
        )
    }
)
