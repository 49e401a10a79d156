"""Replies of OpenAI's /v1/responses: output items of type reasoning, message and function_call.

Streamed: response.created, response.in_progress; for each item response.output_item.added, its
deltas, response.output_item.done; response.completed, .incomplete or .failed. Every event has the
next sequence_number. The newlines that ERNIE writes before an answer are left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from backend.errors import ErrorInfo
from backend.request import FinishReason, Usage
from backend.wire import Event, ToolCallDelta
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import PING, ReplyHead, encode, server_event
from openai_frontend.protocol.responses_request import ResponsesRequest, function_tools

_INCOMPLETE = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}
_MESSAGE, _REASONING, _CALL = "message", "reasoning", "function_call"
_PREFIXES = {_MESSAGE: "msg_", _REASONING: "rs_", _CALL: "fc_"}
_PARTS = {_MESSAGE: "output_text", _REASONING: "reasoning_text"}


class ResponseObject(msgspec.Struct):
    """Items of `output` are those of `Item.object`."""

    id: str
    created_at: int
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    reasoning: dict[str, str | None]
    temperature: float | None
    text: Any
    tool_choice: Any
    tools: list[Any]
    top_p: float | None
    user: str | None
    object: str = "response"
    background: bool = False
    previous_response_id: None = None
    service_tier: str = "default"
    store: bool = False
    truncation: str = "disabled"


class Item:
    """One output item as it grows. `kind`: message, reasoning or function_call."""

    def __init__(self, kind: str, call_id: str = "", name: str = "") -> None:
        self.kind = kind
        self.id = f"{_PREFIXES[kind]}{uuid.uuid4().hex}"
        self.call_id = call_id
        self.name = name
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def part(self) -> dict[str, Any]:
        """Its only content part, with the text so far."""
        part: dict[str, Any] = {"type": _PARTS[self.kind], "text": self.text}
        if self.kind == _MESSAGE:
            part |= {"annotations": [], "logprobs": []}
        return part

    def object(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == _CALL:
            return {**item, "call_id": self.call_id, "name": self.name, "arguments": self.text}
        item["content"] = [self.part()] if self.texts else []
        return {**item, **({"role": "assistant"} if self.kind == _MESSAGE else {"summary": []})}


class ResponsesFormat:
    """Implements `Format`, for one choice."""

    ping = PING
    done = b""

    def __init__(self, head: ReplyHead, request: ResponsesRequest) -> None:
        self._head = head
        self._request = request
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._item: Item | None = None

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        parts = self._begin()
        delta = event.delta
        if delta.reasoning:
            parts += self._say(_REASONING, delta.reasoning)
        content = delta.content
        if self._item is None or self._item.kind != _MESSAGE:
            content = content.lstrip("\n")
        if content:
            parts += self._say(_MESSAGE, content)
        for call in delta.tool_calls:
            parts += self._call(call)
        if event.finish_reason is not None:
            parts += self._end(answers[index])
        return b"".join(parts)

    def failure(self, info: ErrorInfo) -> bytes:
        code = "server_error" if info.status >= 500 else info.code
        error = {"code": code, "message": info.message}
        failed = self._response("failed", self._output, error=error)
        return b"".join((*self._begin(), self._event("response.failed", response=failed)))

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return b""  # the last event has it

    def body(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        items = []
        if answer.reasoning:
            items.append(_item(Item(_REASONING), answer.reasoning))
        if text := "".join(answer.content).lstrip("\n"):
            items.append(_item(Item(_MESSAGE), [text]))
        for _, call in sorted(answer.tool_calls.items()):
            items.append(_item(Item(_CALL, call.id, call.name), call.arguments))
        status, reason = _status(answer)
        output = [item.object("completed") for item in items]
        if output:
            output[-1]["status"] = status
        return encode(self._response(status, output, reason, answer.usage))

    def _begin(self) -> list[bytes]:
        if self._sequence:
            return []
        response = self._response("in_progress", [])
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def _say(self, kind: str, text: str) -> list[bytes]:
        parts = []
        if self._item is None or self._item.kind != kind:
            parts = self._open(Item(kind))
            parts.append(self._part_event("added"))
        return [*parts, self._delta(f"response.{_PARTS[kind]}.delta", text)]

    def _call(self, call: ToolCallDelta) -> list[bytes]:
        parts = []
        if call.id is not None:
            parts = self._open(Item(_CALL, call.id, call.name or ""))
        if call.arguments:
            parts.append(self._delta("response.function_call_arguments.delta", call.arguments))
        return parts

    def _open(self, item: Item) -> list[bytes]:
        parts = self._close("completed")
        self._item = item
        return [*parts, self._item_event("added", item.object("in_progress"))]

    def _delta(self, name: str, text: str) -> bytes:
        if self._item is None:
            return b""
        self._item.texts.append(text)
        return self._text_event(name, self._item, delta=text)

    def _close(self, status: str) -> list[bytes]:
        item = self._item
        if item is None:
            return []
        if item.kind == _CALL:
            name = "response.function_call_arguments.done"
            parts = [self._text_event(name, item, arguments=item.text, name=item.name)]
        else:
            name = f"response.{_PARTS[item.kind]}.done"
            parts = [self._text_event(name, item, text=item.text), self._part_event("done")]
        parts.append(self._item_event("done", item.object(status)))
        self._output.append(item.object(status))
        self._item = None
        return parts

    def _end(self, answer: Answer) -> list[bytes]:
        status, reason = _status(answer)
        parts = self._close(status)
        response = self._response(status, self._output, reason, answer.usage)
        return [*parts, self._event(f"response.{status}", response=response)]

    def _item_event(self, name: str, item: dict[str, Any]) -> bytes:
        index = len(self._output)
        return self._event(f"response.output_item.{name}", output_index=index, item=item)

    def _part_event(self, name: str) -> bytes:
        if self._item is None:
            return b""
        return self._event(
            f"response.content_part.{name}",
            item_id=self._item.id,
            output_index=len(self._output),
            content_index=0,
            part=self._item.part(),
        )

    def _text_event(self, kind: str, item: Item, **fields: Any) -> bytes:
        if item.kind != _CALL:
            fields["content_index"] = 0
        if item.kind == _MESSAGE:
            fields["logprobs"] = []
        return self._event(kind, item_id=item.id, output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        body = encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return server_event(kind, body)

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        reason: str | None = None,
        usage: Usage | None = None,
        error: dict[str, str] | None = None,
    ) -> ResponseObject:
        request = self._request
        reasoning, parallel = request.reasoning, request.parallel_tool_calls
        return ResponseObject(
            id=self._head.id,
            created_at=self._head.created,
            model=self._head.model,
            status=status,
            output=output,
            usage=None if usage is None else _usage(usage),
            error=error,
            incomplete_details=None if reason is None else {"reason": reason},
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata or {},
            parallel_tool_calls=parallel is not False,
            reasoning={"effort": None if reasoning is None else reasoning.effort, "summary": None},
            temperature=request.temperature,
            text=request.text if request.text and request.text.format else _PLAIN_TEXT,
            tool_choice=request.tool_choice or "auto",
            tools=list(function_tools(request)),
            top_p=request.top_p,
            user=request.user,
        )


_PLAIN_TEXT = {"format": {"type": "text"}}


def _item(item: Item, texts: Sequence[str]) -> Item:
    item.texts = list(texts)
    return item


def _status(answer: Answer) -> tuple[str, str | None]:
    """(status, why it is incomplete)"""
    reason = _INCOMPLETE.get(answer.finish_reason) if answer.finish_reason else None
    return ("completed", None) if reason is None else ("incomplete", reason)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
