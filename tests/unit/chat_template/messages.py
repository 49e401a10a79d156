"""Short ways to write messages and tools."""

from __future__ import annotations

from typing import Any

import msgspec

from backend.wire import Message, Tool

IMAGE = {"type": "image_url", "image_url": {"url": "media:0"}}
VIDEO = {"type": "video_url", "video_url": {"url": "media:1"}}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
        "strict": True,
    },
}
WEATHER_JSON = (
    '{"type": "function", "function": {"name": "get_weather", "parameters": '
    '{"type": "object", "properties": {"location": {"type": "string"}}}}}'
)
WEATHER_LOOP: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "Weather in Beijing"}]},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "arguments": {"location": "Beijing", "unit": "c"},
                },
            }
        ],
    },
    {"role": "tool", "content": [{"type": "text", "text": "location: Beijing，sunny"}]},
]


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def messages(*items: dict[str, Any]) -> list[Message]:
    return msgspec.convert(list(items), list[Message])


def tools(*items: dict[str, Any]) -> list[Tool]:
    return msgspec.convert(list(items), list[Tool])


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}
