"""Splits an answer into reasoning and content.

| parser | reasoning | content |
|---|---|---|
| `ernie-45-vl`, `ernie-45-vl-thinking` | up to the first `</think>` | the rest |
| `ernie-x1` | the same | what stands in `<response>…</response>`, and text without tags |
| none | nothing | everything |

All as the model wrote it: answers that follow `</think>` begin with its blank line.

The answer starts inside the reasoning when the prompt opened it, else with a `<think>` of its own
(only newlines and spaces may stand before it). Reasoning that is never closed is all reasoning.
"""

from __future__ import annotations

import enum
from typing import Protocol

from backend.parsers.call_scanner import CallScanner
from backend.parsers.tags import (
    CALL_END,
    CALL_START,
    RESPONSE_END,
    RESPONSE_START,
    THINK_END,
    THINK_START,
    NewlineBuffer,
    find_tag,
)

_MAX_LEADING_SPACE = 16


class ReasoningParser(Protocol):
    """`reasoning_end`: how many characters of the answer the reasoning takes, `</think>` included;
    0 when there is none, None while that is open."""

    @property
    def reasoning_end(self) -> int | None: ...

    def push(self, text: str) -> tuple[str, str]:
        """(reasoning, content) that `text` adds; reasoning always comes first."""

    def finish(self) -> tuple[str, str]:
        """What was held back."""


class PlainParser:
    """No split at all."""

    reasoning_end: int | None = 0

    def push(self, text: str) -> tuple[str, str]:
        return "", text

    def finish(self) -> tuple[str, str]:
        return "", ""


class _State(enum.Enum):
    UNDECIDED = enum.auto()
    REASONING = enum.auto()
    CONTENT = enum.auto()


class ThinkParser:
    """Everything up to `</think>`, then everything after it."""

    def __init__(self, opens_reasoning: bool) -> None:
        self._state = _State.REASONING if opens_reasoning else _State.UNDECIDED
        self._held = ""
        self._num_pushed = 0
        self.reasoning_end: int | None = None

    def push(self, text: str) -> tuple[str, str]:
        if self._state is _State.CONTENT:
            return "", text
        self._num_pushed += len(text)
        text, self._held = self._held + text, ""
        if self._state is _State.UNDECIDED:
            start = text.lstrip("\n ")
            if len(text) - len(start) > _MAX_LEADING_SPACE:
                start = text  # too far in: whatever comes, it does not open the reasoning
            if start.startswith(THINK_START):
                self._state = _State.REASONING
                text = start[len(THINK_START) :]
            elif THINK_START.startswith(start):
                self._held = text
                return "", ""
            else:
                self._state, self.reasoning_end = _State.CONTENT, 0
                return "", text
        reasoning, tag, rest = find_tag(text, (THINK_END,))
        if not tag:
            self._held = rest
            return reasoning, ""
        self._state = _State.CONTENT
        self.reasoning_end = self._num_pushed - len(rest)
        return reasoning, rest

    def finish(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        if self._state is _State.REASONING:
            return held, ""
        if self._state is _State.UNDECIDED:
            self._state, self.reasoning_end = _State.CONTENT, 0
        return "", held


class X1Parser:
    """`ernie-x1`: the answer proper stands in `<response>` tags.

    Newlines around the tags are layout. Text outside of them, which the format does not foresee,
    is content too: nothing that the model wrote is lost. Tool calls pass through as they are.
    """

    def __init__(self, opens_reasoning: bool) -> None:
        self._think = ThinkParser(opens_reasoning)
        self._end_tag = ""
        self._held = ""
        self._newlines = NewlineBuffer()
        self._newlines.drop()
        self._call: CallScanner | None = None

    @property
    def reasoning_end(self) -> int | None:
        return self._think.reasoning_end

    def push(self, text: str) -> tuple[str, str]:
        reasoning, content = self._think.push(text)
        return reasoning, self._unwrap(content)

    def finish(self) -> tuple[str, str]:
        reasoning, content = self._think.finish()
        content = self._unwrap(content)
        held, self._held = self._held, ""
        return reasoning, content + (held if self._end_tag else self._outside(held, is_last=True))

    def _unwrap(self, text: str) -> str:
        text, self._held = self._held + text, ""
        result: list[str] = []
        while text:
            if self._call is not None:
                # Tags within its strings are no tags.
                end = self._call.feed(text, 0)
                self._call.take_arguments()
                result.append(text[:end])
                text = text[end:]
                if text:
                    self._call = None
                continue
            tags = (self._end_tag,) if self._end_tag else (RESPONSE_START, CALL_START)
            before, tag, text = find_tag(text, tags)
            result.append(before if self._end_tag else self._outside(before))
            if not tag:
                self._held = text
                break
            if tag in (CALL_START, CALL_END):
                result.append(tag)
                self._call = CallScanner() if tag == CALL_START else None
            self._end_tag = {RESPONSE_START: RESPONSE_END, CALL_START: CALL_END}.get(tag, "")
            self._newlines.drop()
        return "".join(result)

    def _outside(self, text: str, is_last: bool = False) -> str:
        text = self._newlines.push(text)
        return text + self._newlines.take() if is_last else text
