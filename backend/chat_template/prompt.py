"""A prompt as segments: text of the template, text of users, places for media."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from backend.tokenizer import Tokenizer
from backend.wire import Kind


@dataclass(frozen=True, slots=True)
class ControlText:
    """Trusted text of the template; names of special tokens in it mean those tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class UserText:
    """Text from the request: names of special tokens in it are letters like any other."""

    text: str


@dataclass(frozen=True, slots=True)
class MediaPlaceholder:
    """Where a picture's or video's tokens go.

    `index` counts the media parts of all messages from 0, in the order of messages and parts,
    pictures and videos together.
    """

    kind: Kind
    index: int


Segment: TypeAlias = ControlText | UserText | MediaPlaceholder


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """`opens_reasoning`: the prompt ends inside a thinking section, the answer starts there."""

    segments: tuple[Segment, ...]
    opens_reasoning: bool

    @property
    def text(self) -> str:
        """For people to read: user text and template text look alike in it."""
        return "".join(
            f"<|{segment.kind}@placeholder|>"
            if isinstance(segment, MediaPlaceholder)
            else segment.text
            for segment in self.segments
        )

    def tokenize(self, tokenizer: Tokenizer) -> list[list[int] | MediaPlaceholder]:
        """Runs of token ids (never empty) and the placeholders between them, in order.

        Text on the two sides of a placeholder is encoded apart, as in training.
        """
        pieces: list[list[int] | MediaPlaceholder] = []
        parts: list[tuple[str, bool]] = []
        for segment in self.segments:
            if not isinstance(segment, MediaPlaceholder):
                parts.append((segment.text, isinstance(segment, ControlText)))
                continue
            pieces += [tokenizer.encode_parts(parts), segment]
            parts = []
        pieces.append(tokenizer.encode_parts(parts))
        return [piece for piece in pieces if piece]


class PromptBuilder:
    """Collects segments; neighbours of one kind become one segment, empty ones are left out."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def control(self, text: str) -> None:
        last = self._segments[-1] if self._segments else None
        if isinstance(last, ControlText):
            self._segments[-1] = ControlText(last.text + text)
        elif text:
            self._segments.append(ControlText(text))

    def user(self, text: str) -> None:
        last = self._segments[-1] if self._segments else None
        if isinstance(last, UserText):
            self._segments[-1] = UserText(last.text + text)
        elif text:
            self._segments.append(UserText(text))

    def media(self, kind: Kind, index: int) -> None:
        self._segments.append(MediaPlaceholder(kind, index))

    def build(self, opens_reasoning: bool) -> RenderedPrompt:
        return RenderedPrompt(tuple(self._segments), opens_reasoning)
