"""uvicorn, hardened: bounded headers, a time limit for them, a bounded number of connections.

uvicorn itself waits for ever for the rest of a header and answers malformed HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from backend.errors import ConfigError, EngineUnavailableError, ErrorInfo
from openai_frontend.protocol.errors import error_body
from openai_frontend.pulse import ABORT_EXTENSION

HEADER_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 2048
KEEP_ALIVE_S = 75
BACKLOG = 1024
_ABSOLUTE = re.compile(rb"https?://[^/]*", re.IGNORECASE)
_QUIET_PATHS = ("/health", "/ping", "/metrics")

logger = logging.getLogger("uvicorn.error")


class BoundedH11Protocol(H11Protocol):
    """Closes connections that take too long to send a header, and those above the limit.

    Gives the application a way to cut a connection whose client has stopped reading, and the path
    alone where a client sends the whole URL, as to a proxy (RFC 9112, 3.2.2).
    """

    header_timeout_s = HEADER_TIMEOUT_S
    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner = self.app
        self.app = self._with_abort
        self._header_timer: asyncio.TimerHandle | None = None

    async def _with_abort(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[ABORT_EXTENSION] = self.transport.abort
        if _ABSOLUTE.match(scope["raw_path"]):
            raw_path = _ABSOLUTE.sub(b"", scope["raw_path"]) or b"/"
            scope.update(raw_path=raw_path, path=unquote(raw_path.decode("ascii")))
        await self._inner(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            busy = EngineUnavailableError("too many connections", code="too_many_connections")
            self._refuse(503, busy.info())
            return
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_expecting()
        elif self.cycle is not None and self._is_between_requests():
            # That was the rest of a body whose request had its answer before.
            self._stop_expecting()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, ErrorInfo(400, "invalid_request_error", "invalid_http", msg))

    def _is_between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _expect_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout_s, self._header_is_late)

    def _stop_expecting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_is_late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(
                408,
                ErrorInfo(
                    408, "invalid_request_error", "request_timeout", "no header arrived in time"
                ),
            )

    def _refuse(self, status: int, info: ErrorInfo) -> None:
        """Answer outside any request and close."""
        body = error_body(info)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is on its way already
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class ApiServer(uvicorn.Server):
    """A uvicorn server on sockets that are bound already; signals are the launcher's business.

    `sockets`: the API's first. `host` is only for the line that tells where it listens.
    """

    def __init__(self, app: ASGIApp, sockets: list[socket.socket], host: str) -> None:
        self._sockets = sockets
        self._url = url(host, sockets[0].getsockname()[1])
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedH11Protocol,
                ws="none",
                lifespan="on",
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=2,
                backlog=BACKLOG,
                server_header=False,
            )
        )
        logging.getLogger("uvicorn.access").addFilter(_is_worth_a_line)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_stopped(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(self._sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # uvicorn leaves its last line out for sockets that others bound.
        logger.info("Uvicorn running on %s (Press CTRL+C to quit)", self._url)


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A socket bound to `host`:`port`, not listening yet: clients are refused until it does.

    Raises ConfigError naming `flag` when the address is unknown or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host: {host!r} is no address of this machine") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"{flag}: cannot listen on {host}:{port} ({error.strerror}); "
            f"end the program that uses it or choose another port with {flag}"
        ) from None
    return sock


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Probes come every few seconds and would bury the rest of the access log."""
    path = record.args[2] if isinstance(record.args, tuple) and len(record.args) > 2 else ""
    return path not in _QUIET_PATHS
