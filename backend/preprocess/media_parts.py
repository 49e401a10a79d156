"""The media that a conversation refers to, counted and checked before anything is fetched."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from backend.errors import ConfigError, InvalidRequestError, MediaError
from backend.media.options import ProcessorOptions
from backend.wire import ContentPart, Kind, MediaURL, Message

LIMIT_FLAG: Final = "--limit-mm-per-prompt"
DEFAULT_LIMITS: Final[dict[Kind, int]] = {"image": 10, "video": 3}
"""FastDeploy's documents start servers with these; its own default of one each was never checked
for OpenAI-style messages."""

MAX_MESSAGES: Final = 2048
MAX_PARTS: Final = 256
MAX_TEXT_BYTES: Final = 4 * 2**20
MAX_UUID_LENGTH: Final = 256
LOW_DETAIL_PIXELS: Final = 512 * 512
_DETAILS: Final = ("auto", "low", "high", "original")

_KINDS: Final[dict[str, Kind]] = {
    "image_url": "image",
    "image": "image",
    "video_url": "video",
    "video": "video",
}


@dataclass(frozen=True, slots=True)
class MediaSource:
    """One media part. `where` is its place in the request, `number` counts its kind from 1.

    `uuid`: the client's name of it. With a `url` it is given that name; without, the name is all
    that there is.
    """

    kind: Kind
    url: str
    options: ProcessorOptions
    where: str
    number: int
    uuid: str | None = None

    def named(self, error: MediaError) -> MediaError:
        """The same error, saying which item it is about."""
        return type(error)(
            f"{self.where} ({self.kind} {self.number}): {error.message}",
            param=self.where,
            code=error.code,
        )


def parse_limits(values: Mapping[str, Any]) -> dict[Kind, int]:
    """Limits per prompt from the flag's value, over the defaults. Raises ConfigError.

    `audio` is accepted, since FastDeploy's users write it, and means nothing here.
    """
    limits = dict(DEFAULT_LIMITS)
    for key, value in values.items():
        if key not in (*get_args(Kind), "audio"):
            raise ConfigError(f"{LIMIT_FLAG}: unknown key {key!r}; known: image, video, audio")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{LIMIT_FLAG}: {key} is {value!r}; expected a number from 0")
        if key != "audio":
            limits[cast(Kind, key)] = value
    return limits


def collect_media(
    messages: Sequence[Message], options: ProcessorOptions, limits: Mapping[Kind, int]
) -> list[MediaSource]:
    """All media parts, in the order of messages and parts.

    Raises InvalidRequestError naming the part, or the count and the limit it exceeds.
    """
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequestError(
            f"messages holds {len(messages)} messages; at most {MAX_MESSAGES} are allowed",
            param="messages",
        )
    sources: list[MediaSource] = []
    counts: Counter[Kind] = Counter()
    for i, message in enumerate(messages):
        where = f"messages[{i}].content"
        content = message.content
        if content is None:
            continue
        if isinstance(content, str):
            _check_text(content, where)
            continue
        parts = [content] if isinstance(content, ContentPart) else content
        if len(parts) > MAX_PARTS:
            raise InvalidRequestError(
                f"{where} holds {len(parts)} parts; at most {MAX_PARTS} are allowed", param=where
            )
        for j, part in enumerate(parts):
            kind = _KINDS.get(part.type)
            if kind is None:
                _check_text(part.text or "", f"{where}[{j}].text")
                continue
            counts[kind] += 1
            sources.append(_source(part, kind, f"{where}[{j}]", options, counts[kind]))
    for kind, count in counts.items():
        if count > limits[kind]:
            raise MediaError(
                f"the messages hold {count} {kind}s; at most {limits[kind]} are allowed "
                f"({LIMIT_FLAG})",
                param="messages",
                code="too_many_media",
            )
    return sources


def _source(
    part: ContentPart, kind: Kind, where: str, options: ProcessorOptions, number: int
) -> MediaSource:
    field = f"{where}.{kind}_url"
    value = part.image_url if kind == "image" else part.video_url
    media = MediaURL(url=value) if isinstance(value, str) else value or MediaURL()
    if part.uuid is not None and not 0 < len(part.uuid) <= MAX_UUID_LENGTH:
        raise InvalidRequestError(
            f"{where}.uuid has {len(part.uuid)} characters; it must have 1 to {MAX_UUID_LENGTH}",
            param=f"{where}.uuid",
        )
    if not media.url and part.uuid is None:
        raise InvalidRequestError(
            f"{field}.url is missing, and there is no uuid of one that was sent before",
            param=field,
        )
    if kind == "video":
        options = options.override_video(media, field)
    else:
        options = _with_detail(options, media.detail, field)
    return MediaSource(kind, media.url, options, where, number, part.uuid)


def _with_detail(options: ProcessorOptions, detail: str | None, field: str) -> ProcessorOptions:
    """`low` bounds a picture as OpenAI does; all others mean the usual size."""
    if detail not in (None, *_DETAILS):
        raise InvalidRequestError(
            f"{field}.detail is {detail[:64]!r}; it must be one of {', '.join(_DETAILS)}",
            param=f"{field}.detail",
        )
    if detail != "low":
        return options
    most = min(options.image_max_pixels, LOW_DETAIL_PIXELS)
    least = min(options.image_min_pixels, most)
    return dataclasses.replace(options, image_min_pixels=least, image_max_pixels=most)


def _check_text(text: str, where: str) -> None:
    # Characters first: counting bytes of every short text would cost more than the check is worth.
    if len(text) * 4 > MAX_TEXT_BYTES and len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise InvalidRequestError(
            f"{where} has more than the {MAX_TEXT_BYTES} bytes allowed", param=where
        )
