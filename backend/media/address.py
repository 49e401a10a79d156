"""Host names → addresses, and which of them a server may be sent to by a client."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Final

from backend.errors import MediaFetchError

Resolver = Callable[[str, int], list[str]]
"""(host, port) → addresses as text. Raises OSError when there are none."""

_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# IPv6 that carries IPv4 to somewhere else: Teredo and 6to4.
_TUNNELS: Final = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))


def is_global(text: str) -> bool:
    """Is this an address of the public internet, also when seen through its embedded IPv4?"""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # also link-local ones with a zone, on some versions of Python
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved
    if address.ipv4_mapped is not None:
        return is_global(str(address.ipv4_mapped))
    if address in _NAT64:
        return is_global(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
    if any(address in network for network in _TUNNELS):
        return False
    return address in _UNICAST and address.is_global


def system_resolver(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve(
    host: str, port: int, timeout_s: float, resolver: Resolver, allow_private: bool
) -> list[str]:
    """Addresses of `host`, every one of them allowed.

    Raises MediaFetchError: unknown host, no answer within `timeout_s`, or one address that is not
    public (one is enough: a name with a public and a private address is an attack).
    """
    try:
        addresses = [str(ipaddress.ip_address(host))]
    except ValueError:
        addresses = _resolve_in_time(host, port, timeout_s, resolver)
    if not allow_private and not all(is_global(address) for address in addresses):
        raise MediaFetchError(f"{host} is not a public host, and only those are fetched from")
    return addresses


def _resolve_in_time(host: str, port: int, timeout_s: float, resolver: Resolver) -> list[str]:
    """The C library's look-up cannot be interrupted: past the deadline its thread is left alone."""
    answer: list[list[str]] = []

    def look_up() -> None:
        try:
            answer.append(resolver(host, port))
        except (OSError, UnicodeError):
            answer.append([])

    thread = threading.Thread(target=look_up, name="media-resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, timeout_s))
    if not answer:
        raise MediaFetchError(f"the address of {host} was not found in time")
    if not answer[0]:
        raise MediaFetchError(f"{host} has no address")
    return answer[0]
