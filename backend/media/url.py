"""The one parser of media URLs: what it returns is what gets connected to.

Strict on purpose. Spellings that different parsers read differently (userinfo, backslashes,
control characters, numbers for addresses) are refused instead of interpreted.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from backend.errors import MediaError

MAX_URL_CHARACTERS: Final = 8192
MAX_NAME_CHARACTERS: Final = 253

_AUTHORITY = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]@/?#:\\]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """`host` is ASCII: a name, or an address without brackets. `target` goes into the request."""

    scheme: str
    host: str
    port: int
    target: str

    def join(self, location: str) -> HttpUrl:
        """The URL that a redirect from here to `location` names. Raises MediaError."""
        _check_characters(location)
        host = f"[{self.host}]" if ":" in self.host else self.host
        base = f"{self.scheme}://{host}:{self.port}{self.target}"
        try:
            joined = urllib.parse.urljoin(base, location)
        except ValueError:  # brackets without an address, characters that NFKC makes others of
            raise MediaError("the URL's host is not a valid name") from None
        return parse_http_url(joined)


def parse_http_url(text: str) -> HttpUrl:
    """Parse an absolute http(s) URL. Raises MediaError saying which part is refused."""
    _check_characters(text)
    if "@" in re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0]:
        raise MediaError("the URL holds a user name or a password")
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise MediaError("the URL is not of the form http(s)://host[:port]/path")
    scheme = match["scheme"].lower()
    port = int(match["port"] or (443 if scheme == "https" else 80))
    if not 0 < port < 65536:
        raise MediaError(f"the URL's port {port} is not between 1 and 65535")
    host = _check_address(match["v6"]) if match["v6"] else _check_name(match["name"])
    rest = match["rest"] or "/"
    target = rest if rest.startswith("/") else "/" + rest
    # Keeps what is escaped already; escapes the rest, such as Chinese file names.
    escaped = urllib.parse.quote(target, safe="/?%&=+$,;:@!'()*~-._|", errors="replace")
    return HttpUrl(scheme, host, port, escaped)


def _check_characters(text: str) -> None:
    if len(text) > MAX_URL_CHARACTERS:
        raise MediaError(f"the URL has {len(text)} characters; at most {MAX_URL_CHARACTERS}")
    if any(character <= " " or character == "\x7f" for character in text):
        raise MediaError("the URL holds spaces or control characters")
    if "\\" in text:
        raise MediaError("the URL holds a backslash")


def _check_address(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise MediaError("the URL's host is not a valid IPv6 address") from None


def _check_name(text: str) -> str:
    invalid = MediaError("the URL's host is not a valid name")
    if len(text) > MAX_NAME_CHARACTERS:
        raise invalid
    try:
        name = text.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise invalid from None
    labels = name.split(".")
    if len(name) > MAX_NAME_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise invalid
    if _NUMBER.fullmatch(labels[-1]) and not _is_ipv4(name):
        raise MediaError("the URL's host is a number that is not a dotted IPv4 address")
    return name


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
