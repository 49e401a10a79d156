"""What the generating endpoints differ in: how answers and stream chunks look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from backend.errors import ErrorInfo
from backend.wire import Event
from openai_frontend.protocol.answer import Answer

DATA = b"data: "
END = b"\n\n"
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ReplyHead:
    """The part of a reply that is known before generation. `created`: Unix seconds."""

    id: str
    model: str
    created: int
    system_fingerprint: str = ""
    service_tier: str | None = None
    choices_per_prompt: int = 1
    return_token_ids: bool = False
    include_usage: bool = False
    continuous_usage: bool = False

    def prefix(self, object_name: str) -> bytes:
        """The beginning of every stream chunk, up to its choices."""
        head: dict[str, str | int] = {
            "id": self.id,
            "object": object_name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }
        if self.service_tier is not None:
            head["service_tier"] = self.service_tier
        return DATA + encode(head)[:-1]


def server_event(name: str, body: bytes) -> bytes:
    """A named event, as Anthropic's API and OpenAI's responses have them."""
    return b"event: " + name.encode() + b"\n" + DATA + body + END


class Format(Protocol):
    """Stateless but for what `chunk` must know of earlier chunks of the same stream.

    `ping` may be sent at any time, `done` ends every stream, also one that failed.
    """

    @property
    def ping(self) -> bytes: ...

    @property
    def done(self) -> bytes: ...

    def failure(self, info: ErrorInfo) -> bytes:
        """What tells an error in a stream that has begun."""
        ...

    def chunk(self, index: int, event: Event, answers: Sequence[Answer], elapsed_s: float) -> bytes:
        """Stream bytes for an event of choice `index` (already in `answers`); may be empty."""
        ...

    def usage_chunk(self, answers: Sequence[Answer]) -> bytes: ...

    def body(self, answers: Sequence[Answer]) -> bytes: ...
