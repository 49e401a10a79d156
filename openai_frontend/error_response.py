"""Errors as HTTP answers, in the form that the path's clients understand."""

from __future__ import annotations

import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backend.errors import ErnieError, ErrorInfo, InternalError
from openai_frontend.protocol.errors import body_for

_RETRY_STATUSES = (429, 503)
_DEFAULT_RETRY_S = 1.0
_HTTP_ERRORS = {
    404: ("not_found", "there is no {method} {path} here"),
    405: ("method_not_allowed", "{path} does not take {method}"),
}


def error_response(info: ErrorInfo, path: str) -> Response:
    headers = {}
    if info.status in _RETRY_STATUSES:
        headers["retry-after"] = str(math.ceil(info.retry_after_s or _DEFAULT_RETRY_S))
    if info.status == 504:
        # Official clients would repeat the request: it ran out of the time that it was given.
        headers["x-should-retry"] = "false"
    if info.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(body_for(path, info), info.status, headers, "application/json")


async def handle_ernie_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ErnieError):
        raise error
    return error_response(error.info(), request.scope["path"])


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """The router's own refusals: unknown path, wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    code, text = _HTTP_ERRORS.get(error.status_code, ("invalid_request", "the request is refused"))
    message = text.format(method=request.method, path=request.scope["path"][:200])
    info = ErrorInfo(error.status_code, "invalid_request_error", code, message)
    response = error_response(info, request.scope["path"])
    response.headers.update(error.headers or {})
    return response


async def handle_unexpected(request: Request, exception: Exception) -> Response:
    """Our own mistake: the traceback goes to the log, never to the client."""
    error = InternalError("internal error; the server's log has the cause")
    return error_response(error.info(), request.scope["path"])
