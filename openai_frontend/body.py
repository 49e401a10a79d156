"""Reads a request body within bounds of size and time.

Size is checked twice: the declared length before a byte is read, then the bytes as they come, since
a chunked body declares none. A sender must keep up MIN_BYTES_PER_S after a start-up allowance, so
that a dripping body cannot hold a slot for ever.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import Receive, Scope

from backend.errors import ErnieError, RequestTooLargeError
from openai_frontend.admission import ByteLease

START_ALLOWANCE_S = 30.0
MIN_BYTES_PER_S = 16 * 1024


class ClientDisconnected(Exception):
    """The client is gone; there is nobody to answer."""


class RequestTimeoutError(ErnieError):
    """The body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


async def read_body(
    scope: Scope,
    receive: Receive,
    max_bytes: int,
    lease: ByteLease,
    allowance_s: float = START_ALLOWANCE_S,
) -> bytes:
    """The whole body.

    Raises RequestTooLargeError above `max_bytes`, OverloadedError when `lease` cannot grow,
    RequestTimeoutError for a sender that is too slow, ClientDisconnected when the client leaves.
    """
    declared = _declared_length(scope)
    if declared is not None and declared > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    start = time.monotonic()
    while True:
        left = start + allowance_s + size / MIN_BYTES_PER_S - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), max(left, 0.0))
        except asyncio.TimeoutError:
            raise RequestTimeoutError(
                f"the request body arrived too slowly: {size} bytes so far"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        lease.grow(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _declared_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request body is larger than {max_bytes} bytes (--max-body-mib); "
        "send smaller pictures, or name them by URL"
    )
