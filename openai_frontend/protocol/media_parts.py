"""Moves base64 media out of the JSON: `data:` URLs become bytes and the URL becomes `media:N`.

http(s) and file URLs stay: the preprocessor fetches them. The bytes are decoded but not looked at
here; whether they are a usable picture is the preprocessor's question.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import Iterator, Sequence

from backend.errors import MediaError
from backend.wire import MEDIA_URL_PREFIX, ContentPart, MediaURL, Message

MAX_MEDIA_ITEMS = 256
_HEADER = re.compile(r"data:(?:([\w.+-]+)/([\w.+-]+))?((?:;[^;,]*)*),", re.ASCII | re.I)
_MAX_HEADER = 256
_WHITESPACE = str.maketrans("", "", " \t\r\n")


def extract_media(messages: Sequence[Message]) -> list[bytes]:
    """The media of all messages, in order; their parts' URLs are replaced in place.

    Raises MediaError naming the message and the part.
    """
    media: list[bytes] = []
    for where, part, kind in _media_parts(messages):
        url = part.image_url if kind == "image" else part.video_url
        text = url.url if isinstance(url, MediaURL) else url
        if text is None:
            continue
        scheme = text[:8].lower()
        if scheme.startswith(MEDIA_URL_PREFIX):
            raise MediaError(
                f"{where}: the URL scheme {MEDIA_URL_PREFIX!r} is not for clients", param=where
            )
        if not scheme.startswith("data:"):
            continue
        if len(media) >= MAX_MEDIA_ITEMS:
            raise MediaError(
                f"{where}: more than {MAX_MEDIA_ITEMS} pictures and videos", param=where
            )
        reference = f"{MEDIA_URL_PREFIX}{len(media)}"
        media.append(_decode(text, kind, where))
        if isinstance(url, MediaURL):
            url.url = reference
        elif kind == "image":
            part.image_url = reference
        else:
            part.video_url = reference
    return media


def _media_parts(messages: Sequence[Message]) -> Iterator[tuple[str, ContentPart, str]]:
    for number, message in enumerate(messages):
        content = message.content
        parts = content if isinstance(content, list) else [content]
        for index, part in enumerate(parts):
            if not isinstance(part, ContentPart):
                continue
            where = f"messages[{number}].content[{index}]"
            if part.image_url is not None:
                yield where, part, "image"
            if part.video_url is not None:
                yield where, part, "video"


def _decode(url: str, kind: str, where: str) -> bytes:
    header = _HEADER.match(url[:_MAX_HEADER])
    if header is None or ";base64" not in header[3].lower():
        raise MediaError(
            f"{where}: a data URL must read data:{kind}/FORMAT;base64,BASE64", param=where
        )
    major, minor = (header[1] or kind).lower(), (header[2] or "").lower()
    if major not in (kind, "application"):
        raise MediaError(f"{where}: {kind}_url holds {major}/{minor}", param=where)
    if kind == "video" and minor == "jpeg":
        raise MediaError(
            f"{where}: a list of JPEG frames is not a video; send a video file", param=where
        )
    try:
        data = _decode_base64(url[header.end() :])
    except (binascii.Error, ValueError):
        raise MediaError(f"{where}: the data URL's base64 is broken", param=where) from None
    if not data:
        raise MediaError(f"{where}: the data URL is empty", param=where)
    return data


def _decode_base64(text: str) -> bytes:
    """Forgiving as browsers are: line breaks, percent-encoding and missing padding are fine, other
    signs are not."""
    if "%" in text:
        text = urllib.parse.unquote(text)
    if not text.isascii():
        raise ValueError("base64 is ASCII")
    text = text.translate(_WHITESPACE) if any(sign in text for sign in "\n\r\t ") else text
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
