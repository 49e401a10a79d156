"""Replies of /v1/chat/completions, with FastDeploy's fields.

Streamed: a first chunk per choice with the role and no text, then deltas whose strings are "" and
never null, `arrival_time` in seconds since the request came, the finish reason with the last text,
or in a chunk of its own after the last piece of a tool call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from backend.wire import Delta, Event, ToolCallDelta
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import END, ReplyHead, encode
from openai_frontend.protocol.logprobs import ChatLogprobs, chat_logprobs
from openai_frontend.protocol.openai_format import OpenAIFormat, OpenAIReply


class Function(msgspec.Struct):
    name: str
    arguments: str


class ToolCallObject(msgspec.Struct):
    id: str
    type: str
    function: Function


class ChatMessage(msgspec.Struct):
    role: str
    content: str
    multimodal_content: None
    reasoning_content: str | None
    tool_calls: list[ToolCallObject] | None
    prompt_token_ids: list[int] | msgspec.UnsetType | None = msgspec.UNSET
    completion_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | msgspec.UnsetType = msgspec.UNSET


class ChatCompletion(OpenAIReply[ChatChoice]):
    """A collected reply."""


class ChatFormat(OpenAIFormat):
    """Implements `Format`."""

    object_name = "chat.completion"

    def __init__(self, head: ReplyHead) -> None:
        super().__init__(head, "chat.completion.chunk")
        self._has_begun: set[int] = set()

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        parts: list[bytes] = []
        if index not in self._has_begun:
            self._has_begun.add(index)
            parts += self._first(index, event, answers, elapsed_s)
        # An event may hold nothing to show: its tokens are still to come as text.
        ids = event.token_ids if self._head.return_token_ids else None
        if event.delta or event.finish_reason is not None or event.logprobs or ids:
            for piece in _apart(event):
                parts += self._delta(index, piece, answers, elapsed_s)
        return b"".join(parts)

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        calls = [
            ToolCallObject(call.id, "function", Function(call.name, "".join(call.arguments)))
            for _, call in sorted(answer.tool_calls.items())
        ]
        message = ChatMessage(
            role="assistant",
            content="".join(answer.content),
            multimodal_content=None,
            reasoning_content="".join(answer.reasoning) or None,
            tool_calls=calls or None,
        )
        if self._head.return_token_ids:
            message.prompt_token_ids = answer.prompt_token_ids
            message.completion_token_ids = answer.token_ids
        choice = ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(answer.logprobs) if answer.logprobs else None,
            finish_reason=answer.finish_reason.value if answer.finish_reason else None,
        )
        if answer.stop_reason is not None:
            choice.stop_reason = answer.stop_reason
        return choice

    def _first(
        self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float
    ) -> list[bytes]:
        ids = b""
        if self._head.return_token_ids:
            prompt = encode(event.prompt_token_ids)
            ids = b',"prompt_token_ids":' + prompt + b',"completion_token_ids":null'
        return [
            self._prefix,
            b',"choices":[{"index":%d,"delta":{"role":"assistant","content":"",' % index,
            b'"reasoning_content":"","tool_calls":null',
            ids,
            b'},"logprobs":null,"finish_reason":null,"arrival_time":%.6f}]' % elapsed_s,
            self._usage_member(answers),
            b"}",
            END,
        ]

    def _delta(
        self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float
    ) -> list[bytes]:
        delta = event.delta
        parts = [
            self._prefix,
            b',"choices":[{"index":%d,"delta":{"content":' % index,
            encode(delta.content),
            b',"reasoning_content":',
            encode(delta.reasoning),
            b',"tool_calls":',
            encode([_tool_call_delta(call) for call in _one_per_call(delta.tool_calls)])
            if delta.tool_calls
            else b"null",
        ]
        if self._head.return_token_ids:
            parts += [
                b',"prompt_token_ids":null,"completion_token_ids":',
                encode(event.token_ids or []),
            ]
        parts += [
            b'},"logprobs":',
            encode(chat_logprobs(event.logprobs)) if event.logprobs else b"null",
            b',"finish_reason":',
            encode(event.finish_reason),
        ]
        if event.stop_reason is not None:
            parts += [b',"stop_reason":', encode(event.stop_reason)]
        parts.append(b',"arrival_time":%.6f}]' % elapsed_s)
        parts.append(self._usage_member(answers))
        parts += [b"}", END]
        return parts


def _apart(event: Event) -> list[Event]:
    """A call's last text and the finish reason, as OpenAI sends them: its clients tell of a call
    that is complete only when the reason comes in a later chunk."""
    if not event.delta.tool_calls or event.finish_reason is None:
        return [event]
    calls = replace(event, finish_reason=None, stop_reason=None)
    return [calls, replace(event, delta=Delta(), token_ids=None, logprobs=None)]


def _one_per_call(deltas: Sequence[ToolCallDelta]) -> list[ToolCallDelta]:
    """The deltas of one event, those of the same call put together."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        first = calls.get(delta.index)
        if first is not None:
            delta = replace(first, arguments=first.arguments + delta.arguments)
        calls[delta.index] = delta
    return list(calls.values())


def _tool_call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "type": "function",
        "id": call.id,
        "function": {"name": call.name, "arguments": call.arguments},
    }
