"""Fetching from servers that misbehave, on loopback: slow, endless, lying, redirecting, failing."""

import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from backend.errors import MediaFetchError
from backend.media.http import HttpPolicy, http_get, tls_context

OK = b"HTTP/1.1 200 OK\r\n"


class Server:
    """Accepts connections one by one and hands each to `answer(connection, number)`.

    `greet`: read the request first.
    """

    def __init__(
        self, answer: Callable[[socket.socket, int], None], address: str, greet: bool
    ) -> None:
        self._answer = answer
        self._greet = greet
        self._socket = socket.create_server((address, 0))
        self.port = self._socket.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def url(self, path: str = "/a.png") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    if self._greet:
                        self.requests.append(self._read(connection))
                    self._answer(connection, number)
                except OSError:
                    pass  # the client left: expected of many of these tests

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError
            request += data
        return request


@pytest.fixture
def serve():
    servers = []

    def start(answer, address="127.0.0.1", greet=True):
        if isinstance(answer, bytes):
            data = answer
            answer = lambda connection, number: connection.sendall(data)  # noqa: E731
        servers.append(Server(answer, address, greet))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def policy(**overrides):
    values = {"timeout_s": 5.0, "allow_private": True, "sleep": lambda seconds: None}
    return HttpPolicy(**{**values, **overrides})


def drip(connection, data=b"x", pause_s=0.02):
    while True:
        connection.sendall(data)
        time.sleep(pause_s)


def test_a_plain_answer_and_what_was_asked(serve):
    server = serve(OK + b"Content-Length: 5\r\n\r\nhello")
    assert http_get(server.url("/图?q=1"), 5, policy()) == b"hello"
    request = server.requests[0]
    assert request.startswith(b"GET /%E5%9B%BE?q=1 HTTP/1.1\r\n")
    assert b"Host: 127.0.0.1:%d\r\n" % server.port in request
    assert b"Accept-Encoding: identity\r\n" in request


def test_the_connection_goes_to_the_checked_address_under_the_urls_name(serve):
    server = serve(OK + b"Content-Length: 2\r\n\r\nhi")
    pinned = policy(resolver=lambda host, port: ["127.0.0.1"])
    assert http_get(f"http://pictures.example:{server.port}/x", 10, pinned) == b"hi"
    assert b"Host: pictures.example:%d\r\n" % server.port in server.requests[0]


def test_chunks_and_an_end_by_closing(serve):
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert http_get(serve(chunked).url(), 5, policy()) == b"abcde"
    assert http_get(serve(OK + b"\r\nuntil the end").url(), 100, policy()) == b"until the end"


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", id="header"),
        pytest.param(OK + b"Content-Length: 100000\r\n\r\n", id="body"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n", id="chunk size"),
    ],
)
def test_a_server_that_drips_is_left_at_the_deadline(serve, start):
    def answer(connection, number):
        connection.sendall(start)
        drip(connection, b"1")

    server = serve(answer)
    started = time.monotonic()
    with pytest.raises(MediaFetchError, match=r"did not send everything within 0.4 s"):
        http_get(server.url(), 10**6, policy(timeout_s=0.4))
    assert time.monotonic() - started < 2


def test_a_server_that_says_nothing_is_left_at_the_deadline(serve):
    server = serve(lambda connection, number: connection.recv(1))
    with pytest.raises(MediaFetchError, match="did not send everything within"):
        http_get(server.url(), 1000, policy(timeout_s=0.2))


@pytest.mark.parametrize(
    "head", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: -5\r\n\r\n"]
)
def test_an_endless_body_is_cut_at_the_limit(serve, head):
    piece = b"400\r\n" + b"x" * 1024 + b"\r\n" if b"chunked" in head else b"x" * 1024

    def answer(connection, number):
        connection.sendall(OK + head)
        while True:
            connection.sendall(piece)

    with pytest.raises(MediaFetchError, match="more than the 100000 bytes allowed") as info:
        http_get(serve(answer).url(), 100_000, policy())
    assert info.value.code == "media_too_large"


def test_a_body_announced_too_large_is_not_read(serve):
    server = serve(OK + b"Content-Length: 1001\r\n\r\n")
    with pytest.raises(MediaFetchError, match="more than the 1000 bytes allowed"):
        http_get(server.url(), 1000, policy())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (OK + b"Content-Length: 10\r\n\r\nabc", "sent 3 bytes of the 10 it announced"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "broke the connection off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "broke the connection off"),
        (b"not HTTP at all\r\n\r\n", "broke the connection off"),
        (b"", "broke the connection off"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500, "broke the connection off"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "broke the connection off"),
        (OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b", "sent a compressed answer"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404$"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204$"),
        (b"HTTP/1.1 206 Partial Content\r\n\r\nab", "answered 206$"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "answered 401$"),
    ],
)
def test_answers_that_are_no_picture(serve, answer, message):
    server = serve(answer)
    with pytest.raises(MediaFetchError, match=message) as info:
        http_get(server.url("/private/path?token=secret"), 1000, policy())
    assert "secret" not in info.value.message and "private" not in info.value.message
    assert len(server.requests) == 1


def test_500_twice_and_then_the_picture(serve):
    def answer(connection, number):
        failed = b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(failed if number < 2 else OK + b"Content-Length: 2\r\n\r\nok")

    pauses = []
    server = serve(answer)
    assert http_get(server.url(), 10, policy(sleep=pauses.append)) == b"ok"
    assert len(server.requests) == 3 and pauses == [0.1, 0.2]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_third_failure_is_reported(serve, status):
    server = serve(b"HTTP/1.1 %d Oops\r\nContent-Length: 0\r\n\r\n" % status)
    with pytest.raises(MediaFetchError, match=rf"^127.0.0.1 answered {status}$"):
        http_get(server.url(), 10, policy())
    assert len(server.requests) == 3


def test_nobody_listens(serve):
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(MediaFetchError, match=rf"^no connection to 127.0.0.1, port {port}$"):
        http_get(f"http://127.0.0.1:{port}/", 10, policy())


def test_the_next_address_is_tried(serve):
    server = serve(OK + b"Content-Length: 2\r\n\r\nok")
    both = policy(resolver=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert http_get(f"http://two.example:{server.port}/", 10, both) == b"ok"


# ---- redirects --------------------------------------------------------------------------------


def redirect(location, status=302):
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(serve, status):
    target = serve(OK + b"Content-Length: 2\r\n\r\nok")
    server = serve(redirect(target.url("/moved"), status))
    assert http_get(server.url(), 10, policy()) == b"ok"
    assert target.requests[0].startswith(b"GET /moved ")


def test_a_relative_redirect_and_one_without_scheme(serve):
    def answer(connection, number):
        places = [b"other?x=1", b"//127.0.0.1:%d/last" % server.port]
        if number < 2:
            connection.sendall(redirect(places[number].decode()))
        else:
            connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")

    server = serve(answer)
    assert http_get(server.url("/folder/first"), 10, policy()) == b"ok"
    assert [request.split()[1] for request in server.requests] == [
        b"/folder/first",
        b"/folder/other?x=1",
        b"/last",
    ]


def test_a_redirect_may_name_its_place_in_bare_utf_8(serve):
    target = serve(OK + b"Content-Length: 2\r\n\r\nok")
    server = serve(redirect(target.url("/共.png?名=图")))
    assert http_get(server.url(), 10, policy()) == b"ok"
    assert target.requests[0].split()[1] == b"/%E5%85%B1.png?%E5%90%8D=%E5%9B%BE"


def test_a_redirect_in_other_bytes_is_taken_for_latin_1(serve):
    target = serve(OK + b"Content-Length: 2\r\n\r\nok")
    server = serve(redirect(target.url("/CAFE.png")).replace(b"CAFE", b"caf\xe9"))
    assert http_get(server.url(), 10, policy()) == b"ok"
    assert target.requests[0].split()[1] == b"/caf%C3%A9.png"


def test_a_loop_ends_after_three(serve):
    server = serve(lambda connection, number: connection.sendall(redirect(server.url())))
    with pytest.raises(MediaFetchError, match="redirects more than 3 times"):
        http_get(server.url(), 10, policy())
    assert len(server.requests) == 4


def test_a_redirect_to_a_private_host_is_not_followed(serve, monkeypatch):
    inner = serve(OK + b"Content-Length: 6\r\n\r\nsecret")
    front = serve(redirect(inner.url("/admin")), "127.0.0.2")
    # The first hop passes for public; the second is looked at again, on its own.
    monkeypatch.setattr("backend.media.address.is_global", lambda address: address == "127.0.0.2")
    outside = policy(allow_private=False, resolver=lambda host, port: ["127.0.0.2"])
    with pytest.raises(MediaFetchError, match=r"^127.0.0.1 is not a public host"):
        http_get(f"http://outside.example:{front.port}/", 100, outside)
    assert len(front.requests) == 1
    assert inner.requests == []


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://e.com/",
        "data:text/plain;base64,aGk=",
        "http://user:pw@e.com/",
        "http:\\\\e.com\\",
        "http://2130706433/",
        "//[e.com/",
        "http://a\N{ACCOUNT OF}b/",
        "",
    ],
)
def test_redirects_to_other_things_are_refused(serve, location):
    server = serve(redirect(location))
    with pytest.raises(MediaFetchError) as info:
        http_get(server.url(), 100, policy())
    assert info.value.message.startswith("127.0.0.1 redirects")
    assert "passwd" not in info.value.message and "pw" not in info.value.message


# ---- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A throw-away key and a certificate for pictures.example, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=pictures.example -addext subjectAltName=DNS:pictures.example "
        f"-keyout {folder}/key -out {folder}/certificate"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "certificate").read_text())
    return str(both)


def _over_tls(certificate, talk):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer(connection, number):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            talk(secure)

    return answer


def test_the_certificate_is_checked_against_the_urls_name(serve, certificate):
    body = OK + b"Content-Length: 2\r\n\r\nok"
    server = serve(_over_tls(certificate, lambda secure: secure.sendall(body)), greet=False)
    known = policy(resolver=lambda host, port: ["127.0.0.1"], tls=tls_context(certificate))
    assert http_get(f"https://pictures.example:{server.port}/", 10, known) == b"ok"
    with pytest.raises(MediaFetchError, match=r"^other.example has no valid TLS certificate$"):
        http_get(f"https://other.example:{server.port}/", 10, known)
    unknown = policy(resolver=lambda host, port: ["127.0.0.1"])
    with pytest.raises(MediaFetchError, match="no valid TLS certificate"):
        http_get(f"https://pictures.example:{server.port}/", 10, unknown)


def test_a_drip_through_tls_is_left_at_the_deadline(serve, certificate):
    def talk(secure):
        secure.sendall(OK + b"Content-Length: 100000\r\n\r\n")
        drip(secure)

    server = serve(_over_tls(certificate, talk), greet=False)
    known = policy(
        timeout_s=0.5, resolver=lambda host, port: ["127.0.0.1"], tls=tls_context(certificate)
    )
    with pytest.raises(MediaFetchError, match="did not send everything within"):
        http_get(f"https://pictures.example:{server.port}/", 10**6, known)


def test_a_handshake_that_never_ends_is_left_at_the_deadline(serve):
    def answer(connection, number):
        while connection.recv(65536):
            pass

    server = serve(answer, greet=False)
    started = time.monotonic()
    with pytest.raises(MediaFetchError, match="no connection to"):
        http_get(f"https://127.0.0.1:{server.port}/", 10, policy(timeout_s=0.3))
    assert time.monotonic() - started < 2
