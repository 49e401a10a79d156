"""GET with every limit that an untrusted URL calls for.

    parse URL ─▶ resolve once ─▶ every address public? ─▶ connect to that address (pinned)
        ▲                                                        │
        └──────────────── redirect (≤ 3): from the top ◀─────────┘

One deadline covers it all: it shortens the time-out of each socket operation, so that a server
that sends a byte per second gains nothing. TLS names and the Host header are the URL's, while the
connection goes to the address that was checked. Errors name the host, never the path or query.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from backend.errors import MediaError, MediaFetchError
from backend.media.address import Resolver, resolve, system_resolver
from backend.media.url import HttpUrl, parse_http_url

CONNECT_TIMEOUT_S: Final = 3.0
MAX_REDIRECTS: Final = 3
MAX_RETRIES: Final = 2
MAX_ADDRESSES: Final = 4
RETRY_PAUSE_S: Final = 0.1
CHUNK_BYTES: Final = 256 * 1024
USER_AGENT: Final = "ernie-triton"

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class HttpPolicy:
    """`timeout_s` covers one fetch from name resolution to the last byte, retries included."""

    timeout_s: float = 10.0
    allow_private: bool = False
    resolver: Resolver = system_resolver
    sleep: Callable[[float], None] = time.sleep
    tls: ssl.SSLContext = field(default_factory=lambda: tls_context())


class _Deadline:
    """A socket whose every read ends by `deadline` (monotonic seconds)."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_remaining(self.deadline))  # type: ignore[attr-defined]
        return super().recv_into(*args, **kwargs)  # type: ignore[misc,no-any-return]


class _PlainSocket(_Deadline, socket.socket):
    pass


class _TlsSocket(_Deadline, ssl.SSLSocket):
    pass


def tls_context(authorities: str | None = None) -> ssl.SSLContext:
    """Verifies certificates against a file of authorities, or the system's."""
    context = ssl.create_default_context(cafile=authorities)
    context.sslsocket_class = _TlsSocket
    return context


class _Retry(Exception):
    """A failure that may pass; carries the error to report when it does not."""

    def __init__(self, error: MediaFetchError) -> None:
        super().__init__()
        self.error = error


def http_get(text: str, max_bytes: int, policy: HttpPolicy) -> bytes:
    """Fetch `text`. Raises MediaError for a refused URL, MediaFetchError for everything after."""
    url = parse_http_url(text)
    deadline = time.monotonic() + policy.timeout_s
    attempt = 0
    while True:
        try:
            return _follow(url, max_bytes, policy, deadline)
        except _Retry as failure:
            pause = RETRY_PAUSE_S * 2**attempt
            attempt += 1
            if attempt > MAX_RETRIES or time.monotonic() + pause >= deadline:
                raise failure.error from None
            policy.sleep(pause)
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise MediaFetchError(
                    f"{url.host} did not send everything within {policy.timeout_s:g} s"
                ) from None
            raise MediaFetchError(f"{url.host} broke the connection off") from None


def _follow(url: HttpUrl, max_bytes: int, policy: HttpPolicy, deadline: float) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        connection = _connect(url, policy, deadline)
        try:
            connection.request(
                "GET",
                url.target,
                headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT},
            )
            # The answer may own the socket by now; closing the connection alone would leak it.
            with connection.getresponse() as response:
                if response.status not in _REDIRECTS:
                    return _read(url, response, max_bytes)
                location = _location(response)
        finally:
            connection.close()
        try:
            url = url.join(location)
        except MediaError as error:
            raise MediaFetchError(f"{url.host} redirects elsewhere: {error.message}") from None
    raise MediaFetchError(f"{url.host} redirects more than {MAX_REDIRECTS} times")


def _location(response: http.client.HTTPResponse) -> str:
    """Headers are read as Latin-1; what servers write there beyond ASCII is UTF-8."""
    text: str = response.headers.get("Location", "")
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _connect(url: HttpUrl, policy: HttpPolicy, deadline: float) -> http.client.HTTPConnection:
    addresses = resolve(
        url.host, url.port, _remaining(deadline), policy.resolver, policy.allow_private
    )
    # The class only frames requests and answers here; it never opens a socket of its own.
    connection = http.client.HTTPConnection(url.host, url.port)
    connection.auto_open = 0
    connection.default_port = 443 if url.scheme == "https" else 80
    connection.sock = _open_socket(url, addresses[:MAX_ADDRESSES], policy.tls, deadline)
    return connection


def _open_socket(
    url: HttpUrl, addresses: list[str], tls: ssl.SSLContext, deadline: float
) -> socket.socket:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        plain = _PlainSocket(family, socket.SOCK_STREAM)
        plain.deadline = deadline
        try:
            plain.settimeout(min(CONNECT_TIMEOUT_S, _remaining(deadline)))
            plain.connect((address, url.port))
            if url.scheme == "http":
                return plain
            plain.settimeout(_remaining(deadline))
            secure: Any = tls.wrap_socket(plain, server_hostname=url.host)
            secure.deadline = deadline
            return secure  # type: ignore[no-any-return]
        except ssl.SSLCertVerificationError:
            plain.close()
            raise MediaFetchError(f"{url.host} has no valid TLS certificate") from None
        except OSError:
            plain.close()
    raise _Retry(MediaFetchError(f"no connection to {url.host}, port {url.port}"))


def _read(url: HttpUrl, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if response.status != http.client.OK:
        error = MediaFetchError(f"{url.host} answered {response.status}")
        raise _Retry(error) if response.status in _RETRIED else error
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise MediaFetchError(f"{url.host} sent a compressed answer although none was asked for")
    expected = response.length
    if expected is not None and expected > max_bytes:
        raise _too_large(url, max_bytes)
    data = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(url, max_bytes)
    if expected is not None and len(data) < expected:
        raise MediaFetchError(f"{url.host} sent {len(data)} bytes of the {expected} it announced")
    return bytes(data)


def _too_large(url: HttpUrl, max_bytes: int) -> MediaFetchError:
    return MediaFetchError(
        f"{url.host} sends more than the {max_bytes} bytes allowed", code="media_too_large"
    )


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
