"""Finds tool calls in the content: `<tool_call>` JSON `</tool_call>`, any number of them.

Text around calls stays content, without the newlines next to a call. A call is sent when it is
complete; one whose arguments grow long is sent as they come (`STREAM_FROM` characters on). What
turns out not to be a call is content, tags included, so nothing the model wrote is lost; if that
turns out after the call was begun to be sent, the rest is sent as argument text, which then is no
JSON, as it was written.

Argument text is the model's, re-spaced like json.dumps: the same streamed and collected.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable

from backend.parsers.call_scanner import CallScanner
from backend.parsers.tags import CALL_END, CALL_START, NewlineBuffer, find_tag
from backend.wire import Delta, ToolCallDelta

STREAM_FROM = 1024
_SPACE = " \t\r\n"


def make_call_id() -> str:
    return f"chatcmpl-tool-{uuid.uuid4().hex}"


class _State(enum.Enum):
    TEXT = enum.auto()
    CALL = enum.auto()
    CLOSING = enum.auto()
    BROKEN = enum.auto()
    DONE = enum.auto()


class ToolCallParser:
    """`num_calls`: calls sent so far. After `max_calls` of them (0: any number) what follows is
    swallowed."""

    def __init__(self, make_id: Callable[[], str] = make_call_id, max_calls: int = 0) -> None:
        self._make_id = make_id
        self._max_calls = max_calls
        self.num_calls = 0
        self._state = _State.TEXT
        self._held = ""
        self._newlines = NewlineBuffer()
        self._call = CallScanner()
        self._raw: list[str] = []
        self._arguments: list[str] = []
        self._is_sent = False
        self._delta = Delta()

    @property
    def is_done(self) -> bool:
        """As many calls as allowed have come, the last of them whole."""
        return self._state is _State.DONE

    def push(self, content: str) -> Delta:
        text, self._held = self._held + content, ""
        while text:
            rest = self._step(text)
            if rest is None:
                break
            text = rest
        return self._take()

    def finish(self) -> Delta:
        held, self._held = self._held, ""
        if self.is_done:
            return self._take()
        if self._state is _State.BROKEN:
            self._send_arguments(held)
        elif self._state is not _State.TEXT and self._call.is_complete:
            self._send_call()
        elif self._state is not _State.TEXT and not self._is_sent:
            self._send_as_content()
        if self._state is _State.TEXT:
            self._delta.content += self._newlines.push(held) + self._newlines.take()
        return self._take()

    def _take(self) -> Delta:
        delta, self._delta = self._delta, Delta()
        return delta

    def _step(self, text: str) -> str | None:
        """Read some of `text`; returns what is left of it, None to wait for more."""
        if self._state is _State.TEXT:
            return self._read_text(text)
        if self._state is _State.CALL:
            return self._read_call(text)
        if self._state is _State.CLOSING:
            return self._read_closing(text)
        if self.is_done:
            return None
        return self._read_broken(text)

    def _read_text(self, text: str) -> str | None:
        before, tag, rest = find_tag(text, (CALL_START,))
        self._delta.content += self._newlines.push(before)
        if not tag:
            self._held = rest
            return None
        self._begin_call()
        return rest

    def _begin_call(self) -> None:
        self._state = _State.CALL
        self._call = CallScanner()
        self._raw = [CALL_START]
        self._arguments.clear()
        self._is_sent = False

    def _read_call(self, text: str) -> str:
        end = self._call.feed(text, 0)
        if not self._is_sent:
            self._raw.append(text[:end])
        if arguments := self._call.take_arguments():
            self._arguments.append(arguments)
        # Judged before a failure: what is sent must not depend on how the text was cut.
        if self._is_sent or self._is_long():
            self._send_call()
        if self._call.failed and self._is_sent:
            self._state = _State.BROKEN
        elif self._call.failed:
            self._send_as_content()
        elif self._call.is_ended or end < len(text):
            self._state = _State.CLOSING
        return text[end:]

    def _is_long(self) -> bool:
        if self._call.name is None or not self._call.can_stream:
            return False
        # Joined so that the next look is short: each character is counted once.
        self._arguments = ["".join(self._arguments)]
        return len(self._arguments[0]) >= STREAM_FROM

    def _read_closing(self, text: str) -> str | None:
        rest = text.lstrip(_SPACE)
        if not self._is_sent:
            self._raw.append(text[: len(text) - len(rest)])
        if rest.startswith((CALL_END, CALL_START)):
            self._send_call()
            return self._end_call(rest.removeprefix(CALL_END))
        if CALL_END.startswith(rest) or CALL_START.startswith(rest):
            self._held = rest
            return None
        if self._is_sent:
            return self._end_call(rest)
        self._send_as_content()
        return rest

    def _read_broken(self, text: str) -> str | None:
        before, tag, rest = find_tag(text, (CALL_END,))
        self._send_arguments(before)
        if tag:
            return self._end_call(rest)
        self._held = rest
        return None

    def _end_call(self, rest: str) -> str:
        is_last = 0 < self._max_calls <= self.num_calls
        self._state = _State.DONE if is_last else _State.TEXT
        self._newlines.drop()
        return rest

    def _send_as_content(self) -> None:
        text = self._newlines.take() + "".join(self._raw)
        self._raw.clear()
        self._state = _State.TEXT
        self._newlines = NewlineBuffer()
        self._delta.content += self._newlines.push(text)

    def _send_call(self) -> None:
        """Send what is known of the call: first its name, then argument text."""
        if not self._is_sent:
            self._is_sent = True
            self._raw.clear()
            call = ToolCallDelta(self.num_calls, id=self._make_id(), name=self._call.name)
            self._delta.tool_calls.append(call)
            self.num_calls += 1
            self._newlines.drop()
        self._send_arguments("".join(self._arguments))
        self._arguments.clear()

    def _send_arguments(self, text: str) -> None:
        if text:
            self._delta.tool_calls.append(ToolCallDelta(self.num_calls - 1, arguments=text))
