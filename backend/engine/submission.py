"""Checks of what a Triton client may send to `ernie_engine` directly: nothing of it is trusted.

Limits of the model (context, vocabulary, number of requests) are the engine process's to check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import InvalidRequestError, RequestTooLargeError
from backend.wire import EngineRequest, MediaSpan

MAX_PROMPT_TOKENS = 2**22
MAX_KEY_LENGTH = 128
MAX_ID_LENGTH = 512


def check_request(request: EngineRequest) -> None:
    """Raises InvalidRequestError that names the field."""
    if len(request.stream_key) > MAX_KEY_LENGTH:
        raise _invalid("stream_key", f"has more than {MAX_KEY_LENGTH} characters")
    if len(request.request_id) > MAX_ID_LENGTH:
        raise _invalid("request_id", f"has more than {MAX_ID_LENGTH} characters")
    if request.op == "stop" and not (request.request_id or request.stream_key):
        raise _invalid("request_id", "is missing: stop needs it, or a stream_key")
    if request.op == "tokens":
        raise _invalid("op", "is a question to multimodal_preprocessor, not to ernie_chat")
    if request.op == "error" and request.error is None:
        raise _invalid("error", "is missing")


def check_prompt(
    request: EngineRequest,
    prompt_ids: npt.NDArray[Any] | None,
    positions: npt.NDArray[Any] | None,
) -> None:
    """`prompt_ids` int32 [n], `positions` int32 [3, n] or nothing; media spans inside the prompt.

    Raises InvalidRequestError that names the tensor or the field.
    """
    if prompt_ids is None or prompt_ids.ndim != 1 or prompt_ids.size == 0:
        raise _invalid("PROMPT_IDS", "is missing or empty")
    size = prompt_ids.size
    if size > MAX_PROMPT_TOKENS:
        raise RequestTooLargeError(
            f"PROMPT_IDS has {size} tokens, at most {MAX_PROMPT_TOKENS}", param="PROMPT_IDS"
        )
    if int(prompt_ids.min()) < 0:
        raise _invalid("PROMPT_IDS", f"has the negative id {int(prompt_ids.min())}")
    if positions is not None:
        if positions.shape != (3, size):
            raise _invalid("POSITIONS", f"is {list(positions.shape)}, expected [3, {size}]")
        if int(positions.min()) < 0 or int(positions.max()) >= np.iinfo(np.int32).max // 2:
            raise _invalid("POSITIONS", "is out of range")
    _check_media(request, size)


def _check_media(request: EngineRequest, size: int) -> None:
    num_rows = request.pixels.num_rows if request.pixels else 0
    end, row = 0, 0
    for index, span in enumerate(request.media):
        if span.offset < end or span.num_tokens < 1 or span.offset + span.num_tokens > size:
            raise _invalid(f"media[{index}]", "is not inside the prompt, after the one before")
        if min(span.grid) < 1 or span.first_row != row:
            raise _invalid(f"media[{index}]", "has no patches, or not those after the one before")
        end, row = span.offset + span.num_tokens, row + _num_rows(span)
    if row != num_rows:
        raise _invalid("pixels", f"has {num_rows} rows, the media have {row}")


def _num_rows(span: MediaSpan) -> int:
    frames, height, width = span.grid
    return frames * height * width


def _invalid(name: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name} {what}", param=name)
