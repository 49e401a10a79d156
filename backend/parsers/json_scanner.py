"""Checks and re-spaces one JSON value while it arrives."""

from __future__ import annotations

import re

MAX_DEPTH = 64

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_SCALAR_CHARS = re.compile(r"[-+.0-9a-zA-Z]+")
_SPACE = " \t\r\n"
_HEX = "0123456789abcdefABCDEF"

# What may come next.
_VALUE, _FIRST_ITEM, _KEY, _FIRST_KEY, _COLON, _NEXT, _STRING, _ESCAPE, _HEX4, _SCALAR = range(10)


class JsonScanner:
    """Feeds on text; gives the value back with `", "` and `": "` between its parts.

    Strings and numbers stay as they are written, but for raw control characters in strings, which
    JSON forbids and models write: they are escaped. `is_done`: the value is complete. `failed`:
    this is no JSON, or deeper than MAX_DEPTH.
    """

    def __init__(self) -> None:
        self.is_done = False
        self.failed = False
        self._expect = _VALUE
        self._closers: list[str] = []
        self._string_is_key = False
        self._hex_left = 0
        self._scalar: list[str] = []
        self._output: list[str] = []

    def take(self) -> str:
        """Output since the last call."""
        text = "".join(self._output)
        self._output.clear()
        return text

    def feed(self, text: str, at: int = 0) -> int:
        """Read `text` from `at`. Returns where it stopped: at the end of `text`, after the value,
        or at the character that does not fit."""
        while at < len(text) and not self.is_done and not self.failed:
            if self._expect == _STRING:
                at = self._in_string(text, at)
            elif self._expect == _SCALAR:
                at = self._in_scalar(text, at)
            else:
                char = text[at]
                if self._expect == _ESCAPE:
                    self._after_backslash(char)
                elif self._expect == _HEX4:
                    self._in_hex(char)
                elif char not in _SPACE:
                    self._structure(char)
                    if self._expect == _SCALAR:
                        continue
                if not self.failed:
                    at += 1
        return at

    def _structure(self, char: str) -> None:
        expect = self._expect
        closes = expect in (_NEXT, _FIRST_ITEM, _FIRST_KEY)
        if closes and self._closers and char == self._closers[-1]:
            self._output.append(self._closers.pop())
            self._value_ended()
        elif expect == _NEXT and char == ",":
            self._output.append(", ")
            self._expect = _KEY if self._closers[-1] == "}" else _VALUE
        elif expect == _COLON and char == ":":
            self._output.append(": ")
            self._expect = _VALUE
        elif expect in (_KEY, _FIRST_KEY, _VALUE, _FIRST_ITEM) and char == '"':
            self._string_is_key = expect in (_KEY, _FIRST_KEY)
            self._output.append(char)
            self._expect = _STRING
        elif expect in (_VALUE, _FIRST_ITEM) and char in "{[" and len(self._closers) < MAX_DEPTH:
            self._closers.append("}" if char == "{" else "]")
            self._output.append(char)
            self._expect = _FIRST_KEY if char == "{" else _FIRST_ITEM
        elif expect in (_VALUE, _FIRST_ITEM) and _SCALAR_CHARS.match(char):
            self._expect = _SCALAR
        else:
            self.failed = True

    def _in_string(self, text: str, at: int) -> int:
        if match := _PLAIN.match(text, at):
            self._output.append(match[0])
            return match.end()
        char = text[at]
        if char == '"':
            self._output.append(char)
            if self._string_is_key:
                self._expect = _COLON
            else:
                self._value_ended()
        elif char == "\\":
            self._output.append(char)
            self._expect = _ESCAPE
        else:
            self._output.append({"\n": "\\n", "\t": "\\t"}.get(char, f"\\u{ord(char):04x}"))
        return at + 1

    def _after_backslash(self, char: str) -> None:
        if char not in '"\\/bfnrtu':
            self.failed = True
            return
        self._output.append(char)
        self._expect, self._hex_left = (_HEX4, 4) if char == "u" else (_STRING, 0)

    def _in_hex(self, char: str) -> None:
        if char not in _HEX:
            self.failed = True
            return
        self._output.append(char)
        self._hex_left -= 1
        if not self._hex_left:
            self._expect = _STRING

    def _in_scalar(self, text: str, at: int) -> int:
        if match := _SCALAR_CHARS.match(text, at):
            # Given out before it is known to be JSON: what is none must not be lost.
            self._output.append(match[0])
            self._scalar.append(match[0])
            return match.end()
        word = "".join(self._scalar)
        self._scalar.clear()
        if word in ("true", "false", "null") or _NUMBER.fullmatch(word):
            self._value_ended()
        else:
            self.failed = True
        return at

    def _value_ended(self) -> None:
        self._expect = _NEXT
        self.is_done = not self._closers
