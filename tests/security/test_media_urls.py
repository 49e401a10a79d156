"""Hostile URLs: spellings, private addresses, rebinding, local files."""

import os
import threading
from pathlib import Path

import pytest

from backend.errors import MediaError, MediaFetchError
from backend.media import http
from backend.media.address import is_global, resolve
from backend.media.data_uri import decode_data_uri
from backend.media.fetch import FetchPolicy, fetch
from backend.media.http import HttpPolicy, http_get
from backend.media.local_file import read_local_file
from backend.media.url import parse_http_url


@pytest.fixture(autouse=True)
def no_connection(monkeypatch):
    """Nothing in this file may reach the network."""

    def refuse(*args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(http, "_open_socket", refuse)


# ---- spelling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("http://example.com", "example.com", 80, "/"),
        ("HTTPS://Example.COM:8443/a.png", "example.com", 8443, "/a.png"),
        ("https://example.com.?x=1#frag", "example.com", 443, "/?x=1"),
        ("http://[2606:4700::1111]:81/x", "2606:4700::1111", 81, "/x"),
        ("http://8.8.8.8/x", "8.8.8.8", 80, "/x"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "/"),
        ("https://e.com/图.png?名=1", "e.com", 443, "/%E5%9B%BE.png?%E5%90%8D=1"),
        ("https://e.com/a%20b@c:d", "e.com", 443, "/a%20b@c:d"),
    ],
)
def test_good_urls_are_taken_apart(text, host, port, target):
    url = parse_http_url(text)
    assert (url.host, url.port, url.target) == (host, port, target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://a\\@b/", "backslash"),
        ("http:\\\\example.com/", "backslash"),
        ("http://user@example.com/", "user name"),
        ("http://user:pw@example.com/", "user name"),
        ("http://127.0.0.1@example.com/", "user name"),
        ("http://example.com/\r\nHost: internal", "control characters"),
        ("http://example.com/a b", "spaces or control"),
        ("http://exam\tple.com/", "spaces or control"),
        ("http://example.com/\x00", "spaces or control"),
        ("\nhttp://example.com/", "spaces or control"),
        ("http:///etc/passwd", "not of the form"),
        ("http:example.com", "not of the form"),
        ("http://", "not of the form"),
        ("http://:80/", "not of the form"),
        ("http://example.com:port/", "not of the form"),
        ("http://example.com:80:80/", "not of the form"),
        ("http://[::1", "not of the form"),
        ("http://[::1%25eth0]/", "not of the form"),
        ("http://[not-an-address]/", "not of the form"),
        ("http://[1:2]/", "not a valid IPv6 address"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:65536/", "port 65536"),
        ("http://2130706433/", "number that is not a dotted IPv4"),
        ("http://0x7f000001/", "number that is not a dotted IPv4"),
        ("http://017700000001/", "number that is not a dotted IPv4"),
        ("http://0177.0.0.1/", "number that is not a dotted IPv4"),
        ("http://127.1/", "number that is not a dotted IPv4"),
        ("http://0x7f.0.0.0x1/", "number that is not a dotted IPv4"),
        ("http://1.1.1.256/", "number that is not a dotted IPv4"),
        ("http://-bad-.com/", "not a valid name"),
        ("http://a..b/", "not a valid name"),
        ("http://exa%6dple.com/", "not a valid name"),
        ("http://exam<ple.com/", "not a valid name"),
        ("http://" + "a" * 300 + "/", "not a valid name"),
        ("http://example.com/" + "a" * 9000, "characters; at most 8192"),
    ],
)
def test_bad_urls_are_refused_with_a_reason(text, message):
    with pytest.raises(MediaError, match=message):
        parse_http_url(text)


# ---- addresses --------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address):
    assert not is_global(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are(address):
    assert is_global(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8000/v2/health",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://0.0.0.0/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://metadata.internal/",
    ],
)
def test_private_hosts_are_not_fetched_from(url):
    policy = HttpPolicy(resolver=lambda host, port: ["127.0.0.1"])
    with pytest.raises(MediaFetchError, match="is not a public host"):
        http_get(url, 1000, policy)


def test_one_private_address_among_public_ones_is_enough():
    with pytest.raises(MediaFetchError, match="is not a public host"):
        resolve("e.com", 80, 5.0, lambda host, port: ["8.8.8.8", "10.0.0.1"], False)


def test_names_are_resolved_once_and_that_address_is_used(monkeypatch):
    answers = [["8.8.8.8"], ["127.0.0.1"]]  # a rebinding name server
    used = []

    class Stop(Exception):
        pass

    def open_socket(url, addresses, tls, deadline):
        used.append(addresses)
        raise Stop

    monkeypatch.setattr(http, "_open_socket", open_socket)
    with pytest.raises(Stop):
        http_get("http://rebind.example/", 1000, HttpPolicy(resolver=lambda h, p: answers.pop(0)))
    assert used == [["8.8.8.8"]] and len(answers) == 1


def test_a_name_without_address_and_a_name_server_that_hangs():
    def unknown(host, port):
        raise OSError("Name or service not known")

    with pytest.raises(MediaFetchError, match=r"^nowhere.example has no address$"):
        http_get("http://nowhere.example/", 1000, HttpPolicy(resolver=unknown))

    release = threading.Event()
    try:
        with pytest.raises(MediaFetchError, match="was not found in time"):
            hang = HttpPolicy(timeout_s=0.05, resolver=lambda h, p: [str(release.wait(10))])
            http_get("http://slow.example/", 1000, hang)
    finally:
        release.set()


# ---- other schemes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["ftp://e.com/a", "gopher://e.com/", "javascript:alert(1)", "/etc/passwd", "", "jar:file:///x"],
)
def test_unknown_schemes_are_refused(url):
    with pytest.raises(MediaError, match="must begin with http:, https:, data: or file:"):
        fetch(url, "image", [], FetchPolicy())


@pytest.mark.parametrize("number", ["0", "1", "-1", "x", "", "٣", "99999999999999999999"])
def test_attached_media_are_addressed_by_number(number):
    media = [b"zero"]
    if number == "0":
        assert fetch("media:0", "image", media, FetchPolicy()) == b"zero"
        return
    with pytest.raises(MediaError, match="names an item of MEDIA, which holds 1"):
        fetch(f"media:{number}", "image", media, FetchPolicy())


def test_attached_media_have_the_same_limits():
    with pytest.raises(MediaError, match="5 bytes; at most 4") as info:
        fetch("media:0", "image", [b"12345"], FetchPolicy(max_image_bytes=4))
    assert info.value.code == "media_too_large"
    assert fetch("media:0", "video", [b"12345"], FetchPolicy(max_image_bytes=4)) == b"12345"


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,aGVsbG8=",
        "data:image/jpg;base64,aGVs\n bG8=",
        "DATA:;BASE64,aGVsbG8%3D",
        "data:image/png;name=a.png;base64,aGVsbG8=",
        "data:base64;base64,aGVsbG8=",
    ],
)
def test_data_uris_in_the_spellings_that_clients_use(uri):
    assert fetch(uri, "image", [], FetchPolicy()) == b"hello"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("data:image/png;base64", "needs a comma"),
        ("data:image/png,hello", "must be base64"),
        ("data:image/png;base64,aGVsbG8", "not valid base64"),
        ("data:image/png;base64,this/is/an/example", "not valid base64"),
        ("data:image/png;base64,図", "not valid base64"),
        ("data:image/png;base64,", "holds no data"),
        ("data:video/jpeg;base64,aGVsbG8=", "list of pictures"),
        ("data:image/png;base64," + "A" * 4000, "about 3000 bytes; at most 1000"),
    ],
)
def test_bad_data_uris_are_named(uri, message):
    with pytest.raises(MediaError, match=message):
        decode_data_uri(uri, 1000)


# ---- files ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    allowed = tmp_path / "allowed"
    (allowed / "sub").mkdir(parents=True)
    (allowed / "a.png").write_bytes(b"inside")
    (allowed / "sub" / "图 b.png").write_bytes(b"deeper")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "x").write_bytes(b"outside")
    (allowed / "link-in").symlink_to(allowed / "a.png")
    (allowed / "link-out").symlink_to(tmp_path / "secret")
    (allowed / "folder-out").symlink_to(tmp_path)
    (allowed / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(allowed / "pipe")
    return allowed


def test_files_are_closed_unless_a_folder_is_opened(folder):
    with pytest.raises(MediaError, match="not allowed on this server"):
        fetch(f"file://{folder}/a.png", "image", [], FetchPolicy())


def test_files_inside_are_read(folder):
    policy = FetchPolicy(allowed_local_media_path=str(folder))
    for url in (
        f"file://{folder}/a.png",
        f"FILE:{folder}/a.png",
        f"file://localhost{folder}/a.png",
    ):
        assert fetch(url, "image", [], policy) == b"inside"
    assert fetch(f"file://{folder}/link-in", "image", [], policy) == b"inside"
    url = f"file://{folder}/sub/%E5%9B%BE%20b.png"
    assert fetch(url, "image", [], policy) == b"deeper"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "{folder}/../secret",
        "{folder}/sub/../../secret",
        "{folder}/%2e%2e/secret",
        "{folder}/link-out",
        "{folder}/folder-out/secret",
        "{folder}/dangling",
        "{folder}/missing",
        "{folder}-too/x",
        "{folder}",
        "/",
        "{folder}/a.png/x",
    ],
)
def test_nothing_outside_can_be_told_from_nothing_at_all(folder, path):
    with pytest.raises(MediaFetchError, match=r"^no such file in the folder that media"):
        read_local_file("file://" + path.format(folder=folder), str(folder), 1000)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file://host/etc/passwd", "must look like file:///absolute/path"),
        ("file:relative", "must look like"),
        ("file:///a%00b", "must look like"),
        ("file://[/etc/passwd", "must look like"),
        ("file://a\N{ACCOUNT OF}b/etc/passwd", "must look like"),
    ],
)
def test_odd_file_urls_are_refused(folder, url, message):
    with pytest.raises(MediaError, match=message):
        read_local_file(url, str(folder), 1000)


@pytest.mark.parametrize("name", ["pipe", "sub"])
def test_only_regular_files_are_read_and_a_pipe_does_not_block(folder, name):
    with pytest.raises(MediaFetchError, match="not a regular file"):
        read_local_file(f"file://{folder}/{name}", str(folder), 1000)


def test_large_files_are_refused_by_their_size(folder):
    with pytest.raises(MediaFetchError, match="6 bytes; at most 5 are allowed"):
        read_local_file(f"file://{folder}/a.png", str(folder), 5)


def test_a_file_that_lies_about_its_size_is_still_limited():
    with pytest.raises(MediaFetchError, match="more than the 3 bytes allowed"):
        read_local_file("file:///proc/self/stat", "/proc", 3)


def test_a_link_swapped_in_after_the_check_is_not_followed(folder, monkeypatch):
    real = os.path.realpath
    secret = folder.parent / "secret"

    def swapped(path, **kwargs):
        answer = real(path, **kwargs)
        if str(answer).endswith("a.png"):
            Path(answer).unlink()
            Path(answer).symlink_to(secret)
        return answer

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(MediaFetchError, match="no such file"):
        read_local_file(f"file://{folder}/a.png", str(folder), 1000)
