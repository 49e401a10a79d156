"""Token ids → text while they arrive."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from backend.tokenizer.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Gives out text as soon as it is final; O(new tokens) per push.

    A character whose bytes come with several tokens is held back until it is whole; bytes that
    turn out to be no UTF-8 become U+FFFD. All pushes and the finish together equal
    `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that these tokens complete."""
        id_to_bytes, skip = self._tokenizer.id_to_bytes, self._skip
        return self._decoder.decode(b"".join([id_to_bytes(i, skip) for i in token_ids]))

    def finish(self) -> str:
        """What was held back, as U+FFFD: its missing bytes will not come."""
        return self._decoder.decode(b"", True)
