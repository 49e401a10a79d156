"""Answers of a running server to held-out samples, over its OpenAI-compatible endpoint."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from .judging import Case, Reply, parse_call
from .sample import Clip, Picture, Sample

_TIMEOUT_S = 600


class ServerAnswerer:
    """`url` such as `http://127.0.0.1:8180`."""

    def __init__(self, url: str) -> None:
        self._endpoint = url.rstrip("/") + "/v1/chat/completions"

    def answers(self, cases: Sequence[Case], concurrency: int) -> Iterator[tuple[Case, Reply]]:
        with ThreadPoolExecutor(concurrency) as threads:
            yield from zip(cases, threads.map(self._ask, cases), strict=True)

    def _ask(self, case: Case) -> Reply:
        body = json.dumps(request_body(case.sample), ensure_ascii=False).encode()
        request = urllib.request.Request(  # noqa: S310 - the operator names the server
            self._endpoint, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            message = json.load(response)["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        call = None
        if calls:
            call = parse_call(
                json.dumps(
                    {
                        "name": calls[0]["function"]["name"],
                        "arguments": json.loads(calls[0]["function"]["arguments"]),
                    }
                )
            )
        reasoning = message.get("reasoning_content") or ""
        return Reply(reasoning.strip(), (message.get("content") or "").strip(), call)


def request_body(sample: Sample) -> dict[str, Any]:
    """The chat request of a sample: greedy, media as data URIs."""
    body: dict[str, Any] = {
        "messages": [_with_media(message, sample) for message in sample.messages],
        "temperature": 0,
        "max_tokens": 400,
        "metadata": {"enable_thinking": sample.thinking},
    }
    if sample.tools:
        body["tools"] = list(sample.tools)
    return body


def _with_media(message: dict[str, Any], sample: Sample) -> dict[str, Any]:
    if not isinstance(message["content"], list):
        return message
    parts = []
    for part in message["content"]:
        kind = part["type"]
        if kind != "text":
            index = int(part[kind]["url"].removeprefix("media:"))
            part = {"type": kind, kind: {"url": data_uri(sample.media[index])}}
        parts.append(part)
    return {**message, "content": parts}


def data_uri(media: Picture | Clip) -> str:
    """PNG, the JPEG it was, or an MP4 of the whole film."""
    if isinstance(media, Clip):
        kind, data = "video/mp4", film_file(media)
    elif media.encoded is not None:
        kind, data = "image/jpeg", media.encoded
    else:
        buffer = io.BytesIO()
        Image.fromarray(media.pixels).save(buffer, "PNG")
        kind, data = "image/png", buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def film_file(clip: Clip) -> bytes:
    """An MP4 with every frame of the clip's film."""
    import av

    length = clip.source.length
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        first = clip.source.paint(0)
        stream = container.add_stream("h264", rate=round(length.fps))
        # 4:2:0 needs even sides; the painted sizes are.
        stream.width, stream.height = first.width // 2 * 2, first.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for index in range(length.num_frames):
            pixels = np.asarray(clip.source.paint(index))[: stream.height, : stream.width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
