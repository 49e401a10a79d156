"""What surrounds every endpoint, as plain ASGI classes: request ids, metrics, API keys."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import UnauthorizedError
from openai_frontend.error_response import error_response
from openai_frontend.frontend_metrics import FrontendMetrics

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class RequestId:
    """Answers with the client's X-Request-Id, or a new one if it sent none or a strange one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class HttpMetrics:
    """Counts requests by path; paths that no route knows share one label."""

    def __init__(self, app: ASGIApp, metrics: FrontendMetrics, paths: Sequence[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0  # stays so when the client leaves before an answer

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
            self._metrics.http_request(method, path, status, time.monotonic() - start)


class ApiKeys:
    """Asks for a key on every path but the open ones: `Authorization: Bearer KEY`, or `x-api-key`,
    where Anthropic's clients put theirs.

    The path is the one the router uses, not one rebuilt from the Host header. Keys are compared by
    digest, all of them, so that neither timing nor length tells anything.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str],
        open_paths: Sequence[str],
        metrics: FrontendMetrics,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._digests = [_digest(key.encode()) for key in keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            if not self._is_known(scope):
                error = UnauthorizedError("a valid API key is needed: Authorization: Bearer KEY")
                self._metrics.failed(error.code)
                await error_response(error.info(), scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        return any([self._matches(key) for key in _given_keys(scope)])

    def _matches(self, key: bytes) -> bool:
        given = _digest(key)
        return any([hmac.compare_digest(given, digest) for digest in self._digests])


def _given_keys(scope: Scope) -> list[bytes]:
    """The first key of either header."""
    keys: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        scheme, _, key = value.partition(b" ")
        if name == b"authorization" and scheme.lower() == b"bearer":
            keys.setdefault(name, key.strip())
        elif name == b"x-api-key":
            keys.setdefault(name, value.strip())
    return list(keys.values())


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
