"""Requests as clients write them, and the media in them."""

import base64
import io

import msgspec
import numpy as np
from PIL import Image

from backend import wire


def as_request(**body) -> wire.GenerateRequest:
    return wire.decode(msgspec.json.encode(body), wire.GenerateRequest)


def user(*content) -> list[dict]:
    """One user message; texts and parts."""
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return [{"role": "user", "content": parts}]


def picture(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def video(url: str, **options) -> dict:
    return {"type": "video_url", "video_url": {"url": url, **options}}


def png(height: int = 56, width: int = 84, seed: int = 0) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes, media_type: str = "image/jpg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
