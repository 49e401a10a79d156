"""`data:` URIs: base64 in the URL itself."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from typing import Final

from backend.errors import MediaError

_SPACE: Final = re.compile(r"\s+")


def decode_data_uri(uri: str, max_bytes: int) -> bytes:
    """Bytes of `data:[type][;parameter]...;base64,DATA`. White space in DATA is passed over.

    The declared type decides nothing (clients write image/jpg, or nothing at all), but video/jpeg,
    a list of JPEG files, is refused: it evades limits that real containers are held to.

    Raises MediaError naming what is wrong: no comma, not base64, too large.
    """
    header, comma, payload = uri.partition(",")
    if not comma:
        raise MediaError("a data: URI needs a comma between its type and its data")
    media_type, *parameters = header[len("data:") :].strip().lower().split(";")
    if "base64" not in (parameter.strip() for parameter in parameters):
        raise MediaError("a data: URI must be base64: data:<type>;base64,<data>")
    if media_type.strip() == "video/jpeg":
        raise MediaError("data:video/jpeg (a list of pictures) is not a video; send a file")
    if "%" in payload:
        payload = urllib.parse.unquote(payload)
    payload = _SPACE.sub("", payload)
    size = len(payload) // 4 * 3
    if size > max_bytes + 2:
        raise MediaError(
            f"the data has about {size} bytes; at most {max_bytes} are allowed",
            code="media_too_large",
        )
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise MediaError("the data is not valid base64") from None
    if not data:
        raise MediaError("the data: URI holds no data")
    return data
