"""The tags of ERNIE's answers, and finding them in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

THINK_START, THINK_END = "<think>", "</think>"
RESPONSE_START, RESPONSE_END = "<response>", "</response>"
CALL_START, CALL_END = "<tool_call>", "</tool_call>"


def find_tag(text: str, tags: Sequence[str]) -> tuple[str, str, str]:
    """Split `text` at its first tag: (text before, the tag, text after).

    Without a tag: (text that is certainly no part of one, "", the rest, which may begin one).
    Tags start with `<` and have no other `<`.
    """
    found = [(at, tag) for tag in tags if (at := text.find(tag)) >= 0]
    if found:
        at, tag = min(found)
        return text[:at], tag, text[at + len(tag) :]
    at = text.rfind("<")
    if at >= 0 and any(tag.startswith(text[at:]) for tag in tags):
        return text[:at], "", text[at:]
    return text, "", ""


class NewlineBuffer:
    """Holds back newlines until it is known whether they are text or layout around a tag."""

    def __init__(self) -> None:
        self._num_held = 0
        self._skip = False

    def push(self, text: str) -> str:
        """`text` with the held newlines in front, without those at its end."""
        if self._skip:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        if not body:
            self._num_held += len(text)
            return ""
        result = "\n" * self._num_held + body
        self._num_held = len(text) - len(body)
        self._skip = False
        return result

    def take(self) -> str:
        """The held newlines: they are text."""
        held, self._num_held = "\n" * self._num_held, 0
        return held

    def drop(self) -> None:
        """The held newlines are layout, and so are those that follow."""
        self._num_held = 0
        self._skip = True
