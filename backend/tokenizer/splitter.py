"""Cuts a text at the token names it contains, longest name first, left to right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class TokenSplitter:
    """Finds whole-token names in a text in time O(text x different name lengths)."""

    def __init__(self, names: Mapping[str, int]) -> None:
        self._names = dict(names)
        lengths: dict[str, set[int]] = {}
        for name in names:
            lengths.setdefault(name[0], set()).add(len(name))
        self._lengths = {first: sorted(sizes, reverse=True) for first, sizes in lengths.items()}
        firsts = "".join(re.escape(first) for first in lengths)
        self._start = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def split(self, text: str) -> Iterator[str | int]:
        """Yield plain pieces of `text` (never empty) and, for each name found, its token id."""
        plain_from = 0
        search_from = 0
        while (match := self._start.search(text, search_from)) is not None:
            at = match.start()
            name = self._name_at(text, at)
            if name is None:
                search_from = at + 1
                continue
            if plain_from < at:
                yield text[plain_from:at]
            yield self._names[name]
            plain_from = search_from = at + len(name)
        if plain_from < len(text):
            yield text[plain_from:]

    def _name_at(self, text: str, at: int) -> str | None:
        for length in self._lengths[text[at]]:
            candidate = text[at : at + length]
            if candidate in self._names:
                return candidate
        return None
