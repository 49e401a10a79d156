"""Log-probabilities in the shapes of the chat and the completions API."""

from __future__ import annotations

import codecs
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


class TextCursor:
    """Walks along an answer's tokens and knows how many characters of text are behind it.

    By the tokens' bytes, and by nothing that was sent: a character of several tokens is complete
    with its last, and text that is held back has its place all the same.
    """

    def __init__(self, offset: int) -> None:
        """`offset`: characters of text before the first token."""
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, item: EventLogprob) -> int:
        """Where this token's text begins."""
        start = self._offset
        data = item.token.encode() if item.bytes is None else bytes(item.bytes)
        self._offset += len(self._decoder.decode(data))
        return start


def completion_logprobs(logprobs: Sequence[EventLogprob], cursor: TextCursor) -> CompletionLogprobs:
    """`cursor` stands before the first of these tokens, and after the last when this returns."""
    offsets = [cursor.step(item) for item in logprobs]
    return CompletionLogprobs(
        tokens=[item.token for item in logprobs],
        token_logprobs=[item.logprob for item in logprobs],
        top_logprobs=[{top.token: top.logprob for top in item.top} for item in logprobs],
        text_offset=offsets,
    )
