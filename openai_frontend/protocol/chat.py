"""Replies of /v1/chat/completions, with FastDeploy's fields.

Streamed: a first chunk per choice with the role and no text, then deltas whose strings are "" and
never null, `arrival_time` in seconds since the request came, the finish reason with the last text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backend.wire import Event, ToolCallDelta
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import END, OpenAIStream, ReplyHead, encode
from openai_frontend.protocol.logprobs import ChatLogprobs, chat_logprobs
from openai_frontend.protocol.usage import UsageObject, usage_object


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


class ChatCompletion(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject
    system_fingerprint: str
    service_tier: str | msgspec.UnsetType = msgspec.UNSET


class ChatFormat(OpenAIStream):
    """Implements `Format`."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._prefix = head.prefix("chat.completion.chunk")
        self._has_begun: set[int] = set()

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        parts: list[bytes] = []
        if index not in self._has_begun:
            self._has_begun.add(index)
            parts += self._first(index, event, elapsed_s)
        # An event may hold nothing to show: its tokens are still to come as text.
        ids = event.token_ids if self._head.return_token_ids else None
        if event.delta or event.finish_reason is not None or event.logprobs or ids:
            parts += self._delta(index, event, answers, elapsed_s)
        return b"".join(parts)

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return self._prefix + b',"choices":[],"usage":' + self._usage(answers) + b"}" + END

    def body(self, answers: Sequence[Answer]) -> bytes:
        return encode(
            ChatCompletion(
                id=self._head.id,
                object="chat.completion",
                created=self._head.created,
                model=self._head.model,
                choices=[self._choice(*item) for item in enumerate(answers)],
                usage=usage_object(
                    [answer.usage for answer in answers], self._head.choices_per_prompt
                ),
                system_fingerprint=self._head.system_fingerprint,
                service_tier=self._head.service_tier or msgspec.UNSET,
            )
        )

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

    def _first(self, index: int, event: Event, elapsed_s: float) -> list[bytes]:
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
            b',"usage":null}' if self._head.include_usage else b"}",
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
            encode([_tool_call_delta(call) for call in delta.tool_calls])
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
        if self._head.continuous_usage:
            parts += [b',"usage":', self._usage(answers)]
        elif self._head.include_usage:
            parts.append(b',"usage":null')
        parts += [b"}", END]
        return parts

    def _usage(self, answers: Sequence[Answer]) -> bytes:
        usages = [answer.usage_so_far() for answer in answers]
        return encode(usage_object(usages, self._head.choices_per_prompt))


def _tool_call_delta(call: ToolCallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "type": "function",
        "id": call.id,
        "function": {"name": call.name, "arguments": call.arguments},
    }
