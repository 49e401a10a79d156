"""Replies of Anthropic's /v1/messages: a message of thinking, text and tool_use blocks.

Streamed: message_start; for each block content_block_start, deltas, content_block_stop;
message_delta with the stop reason and the token counts; message_stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backend.errors import ErrorInfo
from backend.request import FinishReason, Usage
from backend.wire import Event, ToolCallDelta
from openai_frontend.protocol.answer import Answer, ToolCall
from openai_frontend.protocol.errors import anthropic_error_body
from openai_frontend.protocol.formats import ReplyHead, encode, server_event

SIGNATURE = "unsigned"
"""Some clients send a thinking block back only if it is signed; nobody checks it here."""
_STOP_REASONS = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


class MessageUsage(msgspec.Struct):
    """`input_tokens` leaves out those read from the prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class MessageReply(msgspec.Struct):
    id: str
    type: str
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(msgspec.Struct):
    """Body of /v1/messages/count_tokens."""

    input_tokens: int


class MessagesFormat:
    """Implements `Format`, for one choice. `is_continued`: the text goes on where the client's own
    ended; otherwise the newlines that ERNIE writes before an answer are left out."""

    ping = server_event("ping", b'{"type":"ping"}')
    done = b""

    def __init__(self, head: ReplyHead, is_continued: bool) -> None:
        self._head = head
        self._trimmed = "" if is_continued else "\n"
        self._has_begun = False
        self._num_blocks = 0
        self._open: str | None = None

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        parts = [] if self._has_begun else [self._start(event)]
        delta = event.delta
        if delta.reasoning:
            parts += self._enter("thinking", {"thinking": "", "signature": ""})
            parts.append(self._delta({"type": "thinking_delta", "thinking": delta.reasoning}))
        content = delta.content
        if self._open != "text":
            content = content.lstrip(self._trimmed)
        if content:
            parts += self._enter("text", {"text": ""})
            parts.append(self._delta({"type": "text_delta", "text": content}))
        for call in delta.tool_calls:
            parts += self._call(call)
        if event.finish_reason is not None:
            parts += self._end(answers[index])
        return b"".join(parts)

    def failure(self, info: ErrorInfo) -> bytes:
        return server_event("error", anthropic_error_body(info))

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return b""  # message_delta has it

    def body(self, answers: Sequence[Answer]) -> bytes:
        (answer,) = answers
        reason, sequence = _stop(answer)
        content = _content(answer, self._trimmed)
        return encode(self._message(content, reason, sequence, _usage(answer.usage)))

    def _message(
        self,
        content: list[dict[str, Any]],
        stop_reason: str | None,
        stop_sequence: str | None,
        usage: MessageUsage,
    ) -> MessageReply:
        return MessageReply(
            self._head.id,
            "message",
            "assistant",
            self._head.model,
            content,
            stop_reason,
            stop_sequence,
            usage,
        )

    def _start(self, event: Event) -> bytes:
        self._has_begun = True
        usage = MessageUsage(len(event.prompt_token_ids or ()), 0)
        return _event("message_start", message=self._message([], None, None, usage))

    def _call(self, call: ToolCallDelta) -> list[bytes]:
        parts = []
        if call.id is not None:
            block = {"id": call.id, "name": call.name or "", "input": {}}
            parts = [*self._leave(), *self._enter("tool_use", block)]
        if call.arguments:
            delta = {"type": "input_json_delta", "partial_json": call.arguments}
            parts.append(self._delta(delta))
        return parts

    def _enter(self, kind: str, fields: dict[str, Any]) -> list[bytes]:
        """Events that open a block of this kind, if none is open."""
        if self._open == kind:
            return []
        parts = self._leave()
        self._open = kind
        block = {"type": kind, **fields}
        start = _event("content_block_start", index=self._num_blocks, content_block=block)
        return [*parts, start]

    def _leave(self) -> list[bytes]:
        if self._open is None:
            return []
        parts = []
        if self._open == "thinking":
            parts.append(self._delta({"type": "signature_delta", "signature": SIGNATURE}))
        parts.append(_event("content_block_stop", index=self._num_blocks))
        self._open = None
        self._num_blocks += 1
        return parts

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._num_blocks, delta=delta)

    def _end(self, answer: Answer) -> list[bytes]:
        reason, sequence = _stop(answer)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return [
            *self._leave(),
            _event("message_delta", delta=delta, usage=_usage(answer.usage)),
            _event("message_stop"),
        ]


def _event(name: str, **fields: Any) -> bytes:
    return server_event(name, encode({"type": name, **fields}))


def _content(answer: Answer, trimmed: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        thinking = "".join(answer.reasoning)
        blocks.append({"type": "thinking", "thinking": thinking, "signature": SIGNATURE})
    if text := "".join(answer.content).lstrip(trimmed):
        blocks.append({"type": "text", "text": text})
    for _, call in sorted(answer.tool_calls.items()):
        blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}
        )
    return blocks


def _arguments(call: ToolCall) -> Any:
    """{} for what max_tokens cut off: the block's input must be an object."""
    try:
        value = msgspec.json.decode("".join(call.arguments))
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _stop(answer: Answer) -> tuple[str | None, str | None]:
    """(stop_reason, stop_sequence)"""
    reason = answer.finish_reason
    if reason is None:
        return None, None
    if reason is FinishReason.STOP and isinstance(answer.stop_reason, str):
        return "stop_sequence", answer.stop_reason
    return _STOP_REASONS.get(reason, "end_turn"), None


def _usage(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )
