"""LangChain's ChatOpenAI: `python langchain_chat.py BASE_URL`."""

from __future__ import annotations

from typing import Literal

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
    check_object,
    play,
)
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

URL = f"{base_url()}/v1"
LIMITS = {"model": "default", "temperature": 0, "max_tokens": 400, "timeout": 120}
model = ChatOpenAI(base_url=URL, api_key=KEY, max_retries=0, **LIMITS)
PICTURE = HumanMessage(
    [
        {"type": "image_url", "image_url": {"url": PICTURE_URI}},
        {"type": "text", "text": DESCRIBE},
    ]
)


class Thing(BaseModel):
    """A coloured shape"""

    colour: Literal["red", "green", "blue", "yellow"]
    shape: Literal["circle", "square", "triangle", "star"]


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city"""
    return TOOL_RESULT


def chat():
    message = model.invoke(CHAT)
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] == "stop"
    return message.content


def vision():
    return model.invoke([PICTURE]).content


def tools():
    with_tools = model.bind_tools([get_weather])
    messages = [HumanMessage(WEATHER)]
    message = with_tools.invoke(messages)
    (call,) = message.tool_calls
    assert (call["name"], message.invalid_tool_calls) == (TOOL["name"], [])
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    return ToolRound(call["args"], with_tools.invoke([*messages, message, result]).content)


def streaming():
    chunks = list(model.stream(POEM, stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["output_tokens"] > len(chunks) / 2
    assert whole.response_metadata["finish_reason"] == "stop"
    return Streamed([chunk.content for chunk in chunks if chunk.content])


def structured():
    return model.with_structured_output(SCHEMA, method="json_schema", strict=True).invoke([PICTURE])


def by_class():
    thing = model.with_structured_output(Thing).invoke([PICTURE])
    assert isinstance(thing, Thing)
    return thing


def by_function_call():
    """The schema as a tool that must be called."""
    thing = model.with_structured_output(Thing, method="function_calling").invoke([PICTURE])
    assert isinstance(thing, Thing)
    return thing


def streamed_tools():
    """LangChain adds the pieces of a call up by their index."""
    chunks = list(model.bind_tools([get_weather], tool_choice="required").stream(WEATHER))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == (TOOL["name"], {"city": "Beijing"})
    assert call["id"]
    return call["args"]


def tool_result_of_parts():
    """A tool message whose content is a list."""
    with_tools = model.bind_tools([get_weather])
    message = with_tools.invoke(WEATHER)
    result = ToolMessage(
        [{"type": "text", "text": TOOL_RESULT}], tool_call_id=message.tool_calls[0]["id"]
    )
    answer = with_tools.invoke([HumanMessage(WEATHER), message, result]).content
    assert "sunny" in answer
    return answer


def batch():
    answers = {message.content for message in model.batch([CHAT] * 2)}
    assert len(answers) == 1
    return answers.pop()


def responses():
    """The same class through /v1/responses."""
    other = ChatOpenAI(base_url=URL, api_key=KEY, max_retries=0, use_responses_api=True, **LIMITS)
    with_tools = other.bind_tools([get_weather])
    message = with_tools.invoke(WEATHER)
    result = get_weather.invoke(message.tool_calls[0])
    answer = with_tools.invoke([HumanMessage(WEATHER), message, result])
    assert "sunny" in answer.text
    streamed = "".join(chunk.text for chunk in other.stream([PICTURE]))
    assert "red" in streamed and "star" in streamed
    check_object(other.with_structured_output(SCHEMA, strict=True).invoke([PICTURE]), SCHEMA)
    return streamed


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
            by_function_call,
            streamed_tools,
            tool_result_of_parts,
            batch,
            responses,
        )
    }
)
