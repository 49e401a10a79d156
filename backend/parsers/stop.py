"""Stop strings, matched on text, across token borders: an Aho-Corasick automaton."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """Passes text on until the first stop string is complete; O(1) per character.

    Text that may be the beginning of a stop string is held back. Of several stop strings that end
    at the same place the longest counts. `matched` is the stop string found; what follows it is
    swallowed.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool = False) -> None:
        self._include = include_in_output
        self._held = ""
        self._node = 0
        self.matched: str | None = None
        # Per node: children by character, fallback node, depth, longest stop that ends there.
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self._depth = [0]
        self._match = [""]
        for stop in stops:
            self._insert(stop)
        self._link()

    def push(self, text: str) -> str:
        if self.matched is not None:
            return ""
        text, num_known = self._held + text, len(self._held)
        for i in range(num_known, len(text)):
            self._node = self._next(self._node, text[i])
            if match := self._match[self._node]:
                self.matched = match
                self._held = ""
                return text[: i + 1 if self._include else i + 1 - len(match)]
        safe = len(text) - self._depth[self._node]
        self._held = text[safe:]
        return text[:safe]

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _next(self, node: int, char: str) -> int:
        while node and char not in self._children[node]:
            node = self._fallback[node]
        return self._children[node].get(char, 0)

    def _insert(self, stop: str) -> None:
        node = 0
        for char in stop:
            child = self._children[node].get(char)
            if child is None:
                child = len(self._children)
                self._children[node][char] = child
                self._children.append({})
                self._fallback.append(0)
                self._depth.append(self._depth[node] + 1)
                self._match.append("")
            node = child
        self._match[node] = stop

    def _link(self) -> None:
        queue = deque(self._children[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._children[node].items():
                queue.append(child)
                self._fallback[child] = self._next(self._fallback[node], char)
                self._match[child] = self._match[child] or self._match[self._fallback[child]]
