"""LiteLLM, as a library: `python litellm_completion.py BASE_URL`."""

from __future__ import annotations

import json
import os
from typing import Literal

# Read at import: no price list from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
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
from pydantic import BaseModel

litellm.telemetry = False
URL = base_url()
LIMITS = {"api_key": KEY, "temperature": 0, "max_tokens": 400, "num_retries": 0, "timeout": 120}
# The two providers by which its users reach a server like this one.
HOSTED = {"model": "hosted_vllm/default", "api_base": f"{URL}/v1", **LIMITS}
OPENAI = {"model": "openai/default", "api_base": f"{URL}/v1", **LIMITS}
TOOLS = [{"type": "function", "function": TOOL}]
PICTURE = {"type": "image_url", "image_url": {"url": PICTURE_URI}}


class Thing(BaseModel):
    colour: Literal["red", "green", "blue", "yellow"]
    shape: Literal["circle", "square", "triangle", "star"]


def user(content):
    return {"role": "user", "content": content}


def asked_picture():
    return [user([PICTURE, {"type": "text", "text": DESCRIBE}])]


def chat():
    reply = litellm.completion(messages=[user(CHAT)], **HOSTED)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert isinstance(reply.created, int)
    assert reply.choices[0].message.reasoning_content
    return reply.choices[0].message.content


def vision():
    return litellm.completion(messages=asked_picture(), **HOSTED).choices[0].message.content


def tools():
    messages = [user(WEATHER)]
    reply = litellm.completion(messages=messages, tools=TOOLS, **HOSTED)
    assert reply.choices[0].finish_reason == "tool_calls"
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == TOOL["name"]
    messages += [
        reply.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": TOOL_RESULT},
    ]
    answer = litellm.completion(messages=messages, tools=TOOLS, **HOSTED)
    return ToolRound(json.loads(call.function.arguments), answer.choices[0].message.content)


def streaming():
    chunks = list(
        litellm.completion(
            messages=[user(POEM)], stream=True, stream_options={"include_usage": True}, **HOSTED
        )
    )
    whole = litellm.stream_chunk_builder(chunks)
    contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert whole.choices[0].message.content == "".join(filter(None, contents))
    assert whole.usage.completion_tokens > len(contents) / 2
    return Streamed([content for content in contents if content])


def structured():
    form = {"name": "thing", "schema": SCHEMA, "strict": True}
    reply = litellm.completion(
        messages=asked_picture(),
        response_format={"type": "json_schema", "json_schema": form},
        **HOSTED,
    )
    return json.loads(reply.choices[0].message.content)


def by_class():
    reply = litellm.completion(messages=asked_picture(), response_format=Thing, **HOSTED)
    return Thing.model_validate_json(reply.choices[0].message.content)


def streamed_tools():
    chunks = list(litellm.completion(messages=[user(WEATHER)], tools=TOOLS, stream=True, **HOSTED))
    (call,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        TOOL["name"],
        {"city": "Beijing"},
    )
    assert call.id
    return call.function.arguments


def as_openai():
    """The same server by the provider for OpenAI itself, which sends other fields."""
    answer = litellm.completion(messages=asked_picture(), **OPENAI).choices[0].message.content
    assert "red" in answer and "star" in answer
    return answer


def responses():
    limits = {**OPENAI, "max_output_tokens": OPENAI["max_tokens"]}
    del limits["max_tokens"], limits["num_retries"]
    reply = litellm.responses(input=WEATHER, tools=[{"type": "function", **TOOL}], **limits)
    (call,) = [item for item in reply.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Beijing"}
    return call.arguments


def errors():
    try:
        litellm.completion(messages=[user(CHAT)], **{**HOSTED, "temperature": -1})
    except litellm.BadRequestError as error:
        return str(error)
    raise AssertionError("no error")


play(
    {
        step.__name__: step
        for step in (
            chat,
            vision,
            tools,
            streaming,
            structured,
            by_class,
            streamed_tools,
            as_openai,
            responses,
            errors,
        )
    }
)
