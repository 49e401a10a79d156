"""A part's URL → the bytes behind it, whatever kind of URL it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from backend.errors import MediaError
from backend.media.data_uri import decode_data_uri
from backend.media.http import HttpPolicy, http_get
from backend.media.local_file import read_local_file
from backend.wire import MEDIA_URL_PREFIX, Kind

VIDEO_TIMEOUT_FACTOR = 3
"""Videos are larger: they may take this many times a picture's time to arrive."""


@dataclass(frozen=True)
class FetchPolicy:
    """What a URL may name. `http.timeout_s` is a picture's; videos have three times as long."""

    max_image_bytes: int = 32 * 2**20
    max_video_bytes: int = 256 * 2**20
    allowed_local_media_path: str = ""
    http: HttpPolicy = field(default_factory=HttpPolicy)

    def max_bytes(self, kind: Kind) -> int:
        return self.max_image_bytes if kind == "image" else self.max_video_bytes


def fetch(url: str, kind: Kind, media: Sequence[bytes], policy: FetchPolicy) -> bytes:
    """The bytes that `url` stands for: `media:N`, `data:`, `file:`, `http:` or `https:`.

    Raises MediaError (a bad URL, too large) or MediaFetchError (it cannot be had). Messages name
    the host or the limit, and no path, query or server text.
    """
    max_bytes = policy.max_bytes(kind)
    scheme = url.partition(":")[0].strip().lower()
    if scheme + ":" == MEDIA_URL_PREFIX:
        return _attached(url, media, max_bytes)
    if scheme == "data":
        return decode_data_uri(url.lstrip(), max_bytes)
    if scheme == "file":
        return read_local_file(url, policy.allowed_local_media_path, max_bytes)
    if scheme in ("http", "https"):
        factor = VIDEO_TIMEOUT_FACTOR if kind == "video" else 1
        http = replace(policy.http, timeout_s=policy.http.timeout_s * factor)
        return http_get(url, max_bytes, http)
    raise MediaError("the URL must begin with http:, https:, data: or file:")


def is_attached(url: str) -> bool:
    """Whether the bytes came with the request: nothing had to be fetched for them."""
    return url.partition(":")[0].strip().lower() + ":" in (MEDIA_URL_PREFIX, "data:")


def _attached(url: str, media: Sequence[bytes], max_bytes: int) -> bytes:
    text = url[len(MEDIA_URL_PREFIX) :]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(media)):
        raise MediaError(f"the URL names an item of MEDIA, which holds {len(media)}")
    data = media[int(text)]
    if len(data) > max_bytes:
        raise MediaError(
            f"it has {len(data)} bytes; at most {max_bytes} are allowed", code="media_too_large"
        )
    return data
