"""Error bodies: OpenAI's `{"error": {"message", "type", "param", "code"}}`, and Anthropic's
`{"type": "error", "error": {"type", "message", "details"}}` below /v1/messages."""

from __future__ import annotations

import msgspec

from backend.errors import ErrorInfo

ANTHROPIC_PATH = "/v1/messages"
NO_THREADS = "thread_unsupported_request"
"""Anthropic's code; at its sight a client sends the whole conversation itself."""

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ErrorObject(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """`detail` stands beside `error` on a 429, where FastDeploy's clients look for it."""

    error: ErrorObject
    detail: str | None = None


class AnthropicErrorDetails(msgspec.Struct):
    """Of an error that Anthropic's clients mend by themselves."""

    error_code: str
    unsupported: list[str]


class AnthropicError(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    details: AnthropicErrorDetails | None = None


class AnthropicErrorBody(msgspec.Struct, tag="error"):
    error: AnthropicError


def error_body(info: ErrorInfo) -> bytes:
    error = ErrorObject(info.message, info.type, info.param, info.code)
    return msgspec.json.encode(ErrorBody(error, info.message if info.status == 429 else None))


def anthropic_error_body(info: ErrorInfo) -> bytes:
    other = "api_error" if info.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(info.status, other)
    details = None
    if info.code == NO_THREADS:
        details = AnthropicErrorDetails(info.code, ["thread"])
    return msgspec.json.encode(AnthropicErrorBody(AnthropicError(kind, info.message, details)))


def body_for(path: str, info: ErrorInfo) -> bytes:
    """The body that clients of this path understand."""
    is_anthropic = path == ANTHROPIC_PATH or path.startswith(f"{ANTHROPIC_PATH}/")
    return anthropic_error_body(info) if is_anthropic else error_body(info)
