"""The request's messages in one shape, checked, whatever spelling the client used.

Reads `wire.Message`; knows nothing of any template. Reasoning that a client left in an assistant
message's content (`…</think>answer`) is moved to `reasoning`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from backend.errors import InvalidRequestError
from backend.wire import (
    MAX_JSON_DEPTH,
    ContentPart,
    Kind,
    Message,
    MessageToolCall,
    Tool,
    is_too_deep,
)

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}
# FastDeploy's and OpenAI's other names.
_ROLES |= {"bot": "assistant", "developer": "system"}
_MEDIA_TYPES: dict[str, Kind] = {
    "image_url": "image",
    "image": "image",
    "video_url": "video",
    "video": "video",
}
_THINK_START, _THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class MediaPart:
    """`index`: among all media parts of the conversation, from 0."""

    kind: Kind
    index: int


Part: TypeAlias = str | MediaPart


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an earlier turn; `arguments` is a JSON value, an object as a rule."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


def read_conversation(messages: Sequence[Message]) -> list[Turn]:
    """Turns in order. Raises InvalidRequestError naming `messages[i]…`, what it is, what fits."""
    if not messages:
        _refuse("messages", "must hold at least one message")
    turns: list[Turn] = []
    num_media = 0
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = _ROLES.get(message.role)
        if role is None:
            known = ", ".join(_ROLES)
            _refuse(f"{where}.role", f"is {message.role[:64]!r}; it must be one of {known}")
        parts = _read_content(message.content, where, num_media)
        num_media += sum(isinstance(part, MediaPart) for part in parts)
        calls = tuple(
            _read_call(call, f"{where}.tool_calls[{j}]")
            for j, call in enumerate(message.tool_calls or ())
        )
        if calls and role != "assistant":
            _refuse(f"{where}.tool_calls", f"belongs to an assistant message, not to {role}")
        reasoning = message.reasoning_content or ""
        if role == "assistant":
            parts, reasoning = _split_reasoning(parts, reasoning)
        turns.append(Turn(role, parts, reasoning, calls, message.tool_call_id, message.name))
    return turns


def read_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools as JSON objects {"type", "function": {"name", "description"?, "parameters"?}}."""
    result: list[dict[str, Any]] = []
    for i, tool in enumerate(tools or ()):
        where = f"tools[{i}]"
        if tool.type != "function":
            _refuse(f"{where}.type", f"is {tool.type[:64]!r}; it must be 'function'")
        if not tool.function.name:
            _refuse(f"{where}.function.name", "is empty")
        function: dict[str, Any] = {"name": tool.function.name}
        if tool.function.description is not None:
            function["description"] = tool.function.description
        if tool.function.parameters is not None:
            _check_depth(tool.function.parameters, f"{where}.function.parameters")
            function["parameters"] = tool.function.parameters
        result.append({"type": "function", "function": function})
    return result


def dump_json(value: Any) -> str:
    """JSON as the models were trained on: `", "`, `": "`, no escapes for Chinese."""
    return json.dumps(value, ensure_ascii=False)


def _read_content(
    content: str | list[ContentPart] | ContentPart | None, where: str, num_media: int
) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,) if content else ()
    if isinstance(content, ContentPart):
        content = [content]
    parts: list[Part] = []
    for j, part in enumerate(content):
        place = f"{where}.content[{j}]"
        if part.type == "text":
            if part.text is None:
                _refuse(f"{place}.text", "is missing")
            if part.text:
                parts.append(part.text)
        elif part.type in _MEDIA_TYPES:
            parts.append(MediaPart(_MEDIA_TYPES[part.type], num_media))
            num_media += 1
        else:
            _refuse(
                f"{place}.type",
                f"is {part.type[:64]!r}; it must be text, image_url or video_url",
            )
    return tuple(parts)


def _split_reasoning(parts: tuple[Part, ...], reasoning: str) -> tuple[tuple[Part, ...], str]:
    text = "".join(part for part in parts if isinstance(part, str))
    if _THINK_END not in text or any(isinstance(part, MediaPart) for part in parts):
        return parts, reasoning
    thought, _, answer = text.rpartition(_THINK_END)
    thought = thought.strip().removeprefix(_THINK_START)
    return ((answer,) if answer else ()), reasoning or thought


def _read_call(call: MessageToolCall, where: str) -> Call:
    if not call.function.name:
        _refuse(f"{where}.function.name", "is empty")
    arguments: Any = call.function.arguments
    place = f"{where}.function.arguments"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, parse_constant=_not_json) if arguments else {}
            json.dumps(arguments, allow_nan=False)  # 1e999 reads as infinity
        except (ValueError, RecursionError):
            _refuse(place, "is not valid JSON")
    _check_depth(arguments, place)
    return Call(call.function.name, arguments, call.id)


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)


def _check_depth(value: Any, where: str) -> None:
    if is_too_deep(value):
        _refuse(where, f"is nested deeper than {MAX_JSON_DEPTH} levels")


def _refuse(where: str, what: str) -> NoReturn:
    raise InvalidRequestError(f"{where} {what}", param=where)
