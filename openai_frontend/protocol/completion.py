"""Replies of /v1/completions: plain text, one choice per prompt and repetition."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.wire import Event
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.formats import END, ReplyHead, encode
from openai_frontend.protocol.logprobs import (
    CompletionLogprobs,
    TextCursor,
    completion_logprobs,
)
from openai_frontend.protocol.openai_format import OpenAIFormat, OpenAIReply


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType | None = msgspec.UNSET
    completion_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    arrival_time: float | msgspec.UnsetType = msgspec.UNSET


class Completion(OpenAIReply[CompletionChoice]):
    """A collected reply."""


class CompletionFormat(OpenAIFormat):
    """Implements `Format`."""

    object_name = "text_completion"

    def __init__(self, head: ReplyHead) -> None:
        super().__init__(head, "text_completion")
        self._cursors: dict[int, TextCursor] = {}

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        text = event.delta.reasoning + event.delta.content
        ids = event.token_ids if self._head.return_token_ids else None
        if not (text or event.finish_reason is not None or event.logprobs or ids):
            return b""
        if (cursor := self._cursors.get(index)) is None:
            cursor = self._cursors[index] = TextCursor(answers[index].num_echoed)
        choice = CompletionChoice(
            index=index,
            text=text,
            logprobs=completion_logprobs(event.logprobs, cursor) if event.logprobs else None,
            finish_reason=event.finish_reason.value if event.finish_reason else None,
            arrival_time=round(elapsed_s, 6),
        )
        if event.stop_reason is not None:
            choice.stop_reason = event.stop_reason
        if self._head.return_token_ids:
            choice.prompt_token_ids = event.prompt_token_ids
            choice.completion_token_ids = event.token_ids or []
        usage = self._usage_member(answers)
        return b"".join((self._prefix, b',"choices":[', encode(choice), b"]", usage, b"}", END))

    def _choice(self, index: int, answer: Answer) -> CompletionChoice:
        choice = CompletionChoice(
            index=index,
            text="".join((*answer.reasoning, *answer.content)),
            logprobs=completion_logprobs(answer.logprobs, TextCursor(answer.num_echoed))
            if answer.logprobs
            else None,
            finish_reason=answer.finish_reason.value if answer.finish_reason else None,
        )
        if answer.stop_reason is not None:
            choice.stop_reason = answer.stop_reason
        if self._head.return_token_ids:
            choice.prompt_token_ids = answer.prompt_token_ids
            choice.completion_token_ids = answer.token_ids
        return choice
