"""Stand-ins for user text while a Jinja template runs.

A checkpoint's template gets markers instead of user strings and puts them where the text belongs;
afterwards every marker becomes user text again. What the template compares or searches for
(`'</think>' in content`) can therefore not be forged.

Exact: concatenation, `trim` and friends (the text's outer whitespace stays outside the marker),
tests for emptiness and equality, `tojson` (the worker marks what it escaped), loops over objects
and lists. Not seen by the template: the text itself, so `upper`, `length`, `replace` or `split` of
user text have no effect on it. A template that cuts a marker apart is refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

from backend.errors import InternalError

OPEN, CLOSE = "\ue000", "\ue001"

# Words with a meaning for templates that walk through a tool's schema; harmless as they are.
_SCHEMA_WORDS = frozenset(
    (
        "type function name description parameters properties required items enum default "
        "anyOf oneOf allOf additionalProperties minimum maximum minItems maxItems title format "
        "object string number integer boolean array null arguments"
    ).split()
)


class Markers:
    """Equal texts get equal markers, so that a template can compare them."""

    def __init__(self) -> None:
        # Digits only: changes of case leave it alone.
        self._nonce = str(10**15 + secrets.randbelow(10**15))
        self._texts: list[str] = []
        self._indices: dict[str, int] = {}
        self._pattern = re.compile(f"{OPEN}{self._nonce}\\.([0-9]+)\\.([0-9]+){CLOSE}")

    def hide(self, text: str) -> str:
        """`text` with everything between its outer whitespace replaced by a marker."""
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        return text[:start] + self._marker(core) + text[start + len(core) :]

    def hide_json(self, value: Any) -> Any:
        """A JSON value with its strings and keys hidden, but for the words of JSON schema."""
        if isinstance(value, str):
            return value if value in _SCHEMA_WORDS or not value else self._marker(value)
        if isinstance(value, dict):
            return {self.hide_json(key): self.hide_json(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide_json(item) for item in value]
        return value

    def _marker(self, text: str) -> str:
        index = self._indices.setdefault(text, len(self._texts))
        if index == len(self._texts):
            self._texts.append(text)
        return f"{OPEN}{self._nonce}.{index}.0{CLOSE}"

    def reveal(self, rendered: str) -> Iterator[tuple[str, bool]]:
        """(text, is the template's own) in order. Raises InternalError for a broken marker."""
        end = 0
        for match in self._pattern.finditer(rendered):
            yield self._own(rendered[end : match.start()]), True
            text = self._texts[int(match[1])]
            for _ in range(int(match[2])):
                text = json.dumps(text, ensure_ascii=False)[1:-1]
            yield text, False
            end = match.end()
        yield self._own(rendered[end:]), True

    def _own(self, text: str) -> str:
        if OPEN in text or CLOSE in text or self._nonce in text:
            raise InternalError(
                "the checkpoint's chat template takes message texts apart, which is not supported; "
                "serve it with another chat_template",
                code="chat_template_failed",
            )
        return text
