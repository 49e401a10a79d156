"""Token logprobs with the tokens' texts."""

from __future__ import annotations

from backend.tokenizer import Tokenizer
from backend.wire import EventLogprob, EventTopLogprob, TokenLogprob


def describe(logprob: TokenLogprob, tokenizer: Tokenizer) -> EventLogprob:
    """Special tokens are shown by name: their probability is asked for, not their effect."""
    text, data = _token(logprob.token_id, tokenizer)
    top = tuple(
        EventTopLogprob(*_pair(token_id, value, tokenizer)) for token_id, value in logprob.top
    )
    return EventLogprob(text, logprob.logprob, logprob.token_id, data, top)


def _pair(
    token_id: int, logprob: float, tokenizer: Tokenizer
) -> tuple[str, float, int, tuple[int, ...]]:
    text, data = _token(token_id, tokenizer)
    return text, logprob, token_id, data


def _token(token_id: int, tokenizer: Tokenizer) -> tuple[str, tuple[int, ...]]:
    data = tokenizer.id_to_bytes(token_id)
    return data.decode("utf-8", "replace"), tuple(data)
