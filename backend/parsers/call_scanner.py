"""Reads the JSON object of one tool call: {"name": …, "arguments": {…}}."""

from __future__ import annotations

import enum
import json

from backend.parsers.json_scanner import JsonScanner

_SPACE = " \t\r\n"


class _Expect(enum.Enum):
    OPEN = enum.auto()
    FIRST_KEY = enum.auto()
    KEY = enum.auto()
    KEY_TEXT = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    NEXT = enum.auto()
    END = enum.auto()


class CallScanner:
    """`name` and `take_arguments()` are there as soon as they are known; keys in any order, other
    keys are skipped. As FastDeploy does, it forgives a missing outermost brace on either side.

    `arguments` must be an object; a string that holds one is unwrapped, null means {}.
    `can_stream`: name known and the arguments are an object written as such.
    """

    def __init__(self) -> None:
        self.failed = False
        self.name: str | None = None
        self.can_stream = False
        self._expect = _Expect.OPEN
        self._key = ""
        self._value = JsonScanner()
        self._text: list[str] = []
        self._has_arguments = False
        self._arguments: list[str] = []

    @property
    def is_complete(self) -> bool:
        between_keys = self._expect in (_Expect.NEXT, _Expect.END)
        return between_keys and self.name is not None and self._has_arguments and not self.failed

    @property
    def is_ended(self) -> bool:
        return self._expect is _Expect.END

    def take_arguments(self) -> str:
        """Argument text since the last call, spaced like json.dumps."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, text: str, at: int) -> int:
        """Read `text` from `at`; returns where it stopped: at the end of `text`, at the end of the
        object, or at the character that does not fit (`failed`; also a `<` after a complete
        call, which the caller judges)."""
        while at < len(text) and not self.failed and not self.is_ended:
            if self._expect in (_Expect.KEY_TEXT, _Expect.VALUE):
                at = self._value.feed(text, at)
                self._value_grew()
                continue
            char = text[at]
            if char == "<" and self.is_complete:
                break
            if char in _SPACE or self._takes(char):
                at += 1
        return at

    def _takes(self, char: str) -> bool:
        """Move on by one character between values; False leaves it to be read again, or failed."""
        expect = self._expect
        if expect is _Expect.OPEN and char == "{":
            self._expect = _Expect.FIRST_KEY
        elif expect in (_Expect.OPEN, _Expect.FIRST_KEY, _Expect.KEY) and char == '"':
            self._begin(_Expect.KEY_TEXT)
            return False
        elif expect is _Expect.COLON and char == ":":
            self._begin(_Expect.VALUE)
        elif expect is _Expect.NEXT and char == ",":
            self._expect = _Expect.KEY
        elif self.is_complete and char == "}":
            self._expect = _Expect.END
        else:
            self.failed = True
        return not self.failed

    def _begin(self, expect: _Expect) -> None:
        self._expect = expect
        self._value = JsonScanner()
        self._text.clear()

    def _value_grew(self) -> None:
        piece = self._value.take()
        is_arguments = self._expect is _Expect.VALUE and self._key == "arguments"
        if is_arguments and (self.can_stream or (not self._text and piece.startswith("{"))):
            self.can_stream = True
            self._arguments.append(piece)
        elif piece:
            self._text.append(piece)
        self.failed = self._value.failed
        if not self._value.is_done:
            return
        if self._expect is _Expect.KEY_TEXT:
            self._key = json.loads("".join(self._text))
            self._expect = _Expect.COLON
            # A second value for either key would contradict what was already sent.
            self.failed = (self._key == "name" and self.name is not None) or (
                self._key == "arguments" and self._has_arguments
            )
            return
        self._expect = _Expect.NEXT
        if self._key == "name":
            self._read_name("".join(self._text))
        elif is_arguments:
            self._has_arguments = True
            if not self.can_stream:
                self._read_other_arguments("".join(self._text))

    def _read_name(self, text: str) -> None:
        # Strings alone are decoded: Python refuses numbers of thousands of digits by an exception.
        name = json.loads(text) if text.startswith('"') else None
        if name and _is_unicode(name):
            self.name = name
        else:
            self.failed = True

    def _read_other_arguments(self, text: str) -> None:
        value = json.loads(text) if text.startswith('"') else None
        if text == "null":
            self._arguments.append("{}")
        elif isinstance(value, str) and _is_unicode(value) and value.lstrip(_SPACE)[:1] == "{":
            inner = JsonScanner()
            end = inner.feed(value)
            self._arguments.append(inner.take())
            self.failed = not inner.is_done or bool(value[end:].strip(_SPACE))
        else:
            self.failed = True


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can write and UTF-8 cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
