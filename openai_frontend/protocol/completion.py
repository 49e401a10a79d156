"""Replies of /v1/completions: plain text, one choice per prompt and repetition."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.wire import Event
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import END, OpenAIStream, ReplyHead, encode
from openai_frontend.protocol.logprobs import CompletionLogprobs, completion_logprobs
from openai_frontend.protocol.usage import UsageObject, usage_object


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType | None = msgspec.UNSET
    completion_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    arrival_time: float | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageObject
    system_fingerprint: str
    service_tier: str | msgspec.UnsetType = msgspec.UNSET


class CompletionFormat(OpenAIStream):
    """Implements `Format`."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._prefix = head.prefix("text_completion")
        self._offsets: dict[int, int] = {}

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        text = event.delta.reasoning + event.delta.content
        ids = event.token_ids if self._head.return_token_ids else None
        if not (text or event.finish_reason is not None or event.logprobs or ids):
            return b""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=completion_logprobs(event.logprobs, offset) if event.logprobs else None,
            finish_reason=event.finish_reason.value if event.finish_reason else None,
            arrival_time=round(elapsed_s, 6),
        )
        if event.stop_reason is not None:
            choice.stop_reason = event.stop_reason
        if self._head.return_token_ids:
            choice.prompt_token_ids = event.prompt_token_ids
            choice.completion_token_ids = event.token_ids or []
        usage = b""
        if self._head.continuous_usage:
            usage = b',"usage":' + self._usage(answers)
        elif self._head.include_usage:
            usage = b',"usage":null'
        return b"".join((self._prefix, b',"choices":[', encode(choice), b"]", usage, b"}", END))

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes:
        return self._prefix + b',"choices":[],"usage":' + self._usage(answers) + b"}" + END

    def body(self, answers: Sequence[Answer]) -> bytes:
        return encode(
            Completion(
                id=self._head.id,
                object="text_completion",
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

    def _choice(self, index: int, answer: Answer) -> CompletionChoice:
        choice = CompletionChoice(
            index=index,
            text="".join((*answer.reasoning, *answer.content)),
            logprobs=completion_logprobs(answer.logprobs, 0) if answer.logprobs else None,
            finish_reason=answer.finish_reason.value if answer.finish_reason else None,
        )
        if answer.stop_reason is not None:
            choice.stop_reason = answer.stop_reason
        if self._head.return_token_ids:
            choice.prompt_token_ids = answer.prompt_token_ids
            choice.completion_token_ids = answer.token_ids
        return choice

    def _usage(self, answers: Sequence[Answer]) -> bytes:
        usages = [answer.usage_so_far() for answer in answers]
        return encode(usage_object(usages, self._head.choices_per_prompt))
