"""Bodies and replies of /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backend.errors import InvalidRequestError
from backend.wire import GenerateRequest


class TokenizeRequest(GenerateRequest):
    """`prompt` as /v1/completions takes it, or `messages` and all that /v1/chat/completions renders
    with them. `add_special_tokens` changes nothing: ERNIE's templates write all of them."""

    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeReply(msgspec.Struct):
    """`max_model_len` is null until the engine has told it."""

    count: int
    max_model_len: int | None
    tokens: Sequence[int]
    token_strs: None = None


class DetokenizeRequest(msgspec.Struct):
    tokens: list[int]
    model: str = "default"


class DetokenizeReply(msgspec.Struct):
    prompt: str


def check_tokenize(request: TokenizeRequest) -> None:
    """Raises InvalidRequestError for what only the HTTP side knows of."""
    if request.return_token_strs:
        raise InvalidRequestError(
            "return_token_strs is not supported; ask /detokenize for the text of tokens",
            param="return_token_strs",
        )
