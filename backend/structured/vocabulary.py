"""Our tokenizer as llguidance wants it: the exact bytes of each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from llguidance import LLTokenizer


class Vocabulary(Protocol):
    """The part of backend.tokenizer.Tokenizer that constraints need."""

    eos_token_ids: tuple[int, ...]

    def token_id(self, name: str) -> int | None: ...
    def id_to_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes: ...
    def is_special(self, token_id: int) -> bool: ...
    def encode_text(self, text: str) -> list[int]: ...


class _Tokens:
    """What LLTokenizer reads of a tokenizer. Special tokens are no text: no grammar admits them but
    by their id; ids without bytes are admitted by none."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, num_token_ids: int) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.tokens: Sequence[bytes] = [vocabulary.id_to_bytes(i) for i in range(num_token_ids)]
        self.special_token_ids = [i for i in range(num_token_ids) if vocabulary.is_special(i)]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._vocabulary.encode_text(text)


def make_ll_tokenizer(vocabulary: Vocabulary, num_token_ids: int) -> LLTokenizer:
    """About 0.3 s for 100,000 tokens."""
    eos = [i for i in vocabulary.eos_token_ids if i < num_token_ids]
    tokens = cast(Any, _Tokens(vocabulary, num_token_ids))
    return LLTokenizer(tokens, n_vocab=num_token_ids, eos_token=eos)
