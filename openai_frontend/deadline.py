"""How long a request may take: the server's limit, or less where the client asks for less.

Clients ask by the body's `timeout` or the header X-Request-Timeout, both in seconds from the
request's arrival. Neither can make it longer than --request-timeout.
"""

from __future__ import annotations

import math

from starlette.types import Scope

from backend.errors import DeadlineExceededError, InvalidRequestError

HEADER = "X-Request-Timeout"
FOREVER_S = 365 * 86_400.0
_RAW_HEADER = HEADER.lower().encode()


def header_timeout(scope: Scope) -> float | None:
    """Seconds of X-Request-Timeout. Raises InvalidRequestError when it is no positive number."""
    for name, value in scope["headers"]:
        if name == _RAW_HEADER:
            text = value.decode("latin-1")
            try:
                return check_timeout(float(text), HEADER)
            except ValueError:
                raise _refusal(HEADER, repr(text[:32])) from None
    return None


def check_timeout(timeout_s: float | None, param: str) -> float | None:
    """`timeout_s` itself. Raises InvalidRequestError naming `param` and the value."""
    if timeout_s is not None and not (math.isfinite(timeout_s) and timeout_s > 0):
        raise _refusal(param, f"{timeout_s:g}")
    return timeout_s


def shortest(*timeouts_s: float | None) -> float:
    """The least of the limits; None and 0 are none."""
    return min((timeout_s for timeout_s in timeouts_s if timeout_s), default=FOREVER_S)


def exceeded(timeout_s: float) -> DeadlineExceededError:
    return DeadlineExceededError(f"the request was not finished within {timeout_s:g} s")


def _refusal(param: str, shown: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{param} is {shown}; it must be a number of seconds above 0", param=param
    )
