"""`bad_words` and `bad_words_token_ids` as sequences of tokens."""

from __future__ import annotations

from typing import Final

from backend.errors import InvalidRequestError
from backend.preprocess.sampling import check_token_ids
from backend.tokenizer import Tokenizer
from backend.wire import GenerateRequest

MAX_WORDS: Final = 256
MAX_WORD_BYTES: Final = 256


def bad_words(
    request: GenerateRequest, tokenizer: Tokenizer, vocab_size: int
) -> list[tuple[int, ...]]:
    """Each word as it is tokenized alone and behind a blank; each id, or list of ids, as it is.

    Raises InvalidRequestError naming the field, the value and the limit.
    """
    words, ids = request.bad_words or [], request.bad_words_token_ids or []
    for name, items in (("bad_words", words), ("bad_words_token_ids", ids)):
        if len(items) > MAX_WORDS:
            raise InvalidRequestError(
                f"{name} has {len(items)} elements; at most {MAX_WORDS} are allowed", param=name
            )
    found: dict[tuple[int, ...], None] = {}
    for place, word in enumerate(words):
        size = len(word.encode("utf-8", "replace"))
        if not word.strip() or size > MAX_WORD_BYTES:
            raise InvalidRequestError(
                f"bad_words[{place}] has {size} bytes; it must have 1 to {MAX_WORD_BYTES}, not "
                "only blanks",
                param="bad_words",
            )
        for text in (word, " " + word.lstrip()):
            found[tuple(tokenizer.encode_text(text))] = None
    for place, item in enumerate(ids):
        sequence = [item] if isinstance(item, int) else item
        if not sequence:
            raise InvalidRequestError(
                f"bad_words_token_ids[{place}] is empty", param="bad_words_token_ids"
            )
        check_token_ids(sequence, vocab_size, "bad_words_token_ids")
        found[tuple(sequence)] = None
    return list(found)
