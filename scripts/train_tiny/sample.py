"""One exchange to learn: a conversation, its media, and what the assistant says next."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.media.sampling import VideoLength

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded pixels uint8 [h, w, 3]. `encoded` is the JPEG file they came from, if any."""

    pixels: Pixels
    encoded: bytes | None = None


class Source(Protocol):
    """A whole film, of which a clip shows some frames."""

    length: VideoLength

    def paint(self, index: int) -> Image.Image: ...


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames uint8 [h, w, 3] that the frame sampler picks from `source`, not yet stamped.

    `times_s`: when each of them is shown.
    """

    frames: tuple[Pixels, ...]
    times_s: tuple[float, ...]
    source: Source


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]

    def text(self) -> str:
        call = {"name": self.name, "arguments": self.arguments}
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """`messages` are OpenAI messages; a picture or clip is a part whose URL is `media:<index>`.

    `answer` is the text or the tool call that is right, word for word; `reasoning` what leads to
    it. Both are written in `language`.
    """

    task: str
    language: str
    messages: tuple[dict[str, Any], ...]
    reasoning: str
    answer: str | ToolCall
    media: tuple[Picture | Clip, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def answer_text(self) -> str:
        return self.answer.text() if isinstance(self.answer, ToolCall) else self.answer

    def target_text(self) -> str:
        """What the model writes after the prompt, without the end-of-text token."""
        if not self.thinking:
            return self.answer_text()
        return f"\n{self.reasoning}\n</think>\n\n{self.answer_text()}"


def user(text: str, *media: Picture | Clip) -> dict[str, Any]:
    """A user message: media parts first, numbered from 0 in the sample, then the text."""
    if not media:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = [_media_part(index, item) for index, item in enumerate(media)]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    """An earlier answer."""
    return {"role": "assistant", "content": text}


def _media_part(index: int, item: Picture | Clip) -> dict[str, Any]:
    kind = "image_url" if isinstance(item, Picture) else "video_url"
    return {"type": kind, kind: {"url": f"media:{index}"}}
