"""Log-probabilities in the shapes of the chat and the completions API."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.wire import EventLogprob


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int] | None


class TokenLogprobs(msgspec.Struct):
    token: str
    logprob: float
    bytes: Sequence[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[TokenLogprobs]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def chat_logprobs(logprobs: Sequence[EventLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        [
            TokenLogprobs(
                item.token,
                item.logprob,
                item.bytes,
                [TopLogprob(top.token, top.logprob, top.bytes) for top in item.top],
            )
            for item in logprobs
        ]
    )


def completion_logprobs(logprobs: Sequence[EventLogprob], offset: int) -> CompletionLogprobs:
    """`offset`: characters of text before the first of these tokens."""
    offsets = []
    for item in logprobs:
        offsets.append(offset)
        offset += len(item.token)
    return CompletionLogprobs(
        tokens=[item.token for item in logprobs],
        token_logprobs=[item.logprob for item in logprobs],
        top_logprobs=[{top.token: top.logprob for top in item.top} for item in logprobs],
        text_offset=offsets,
    )
