"""Deltas put together: what a client of a stream would have in the end."""

from __future__ import annotations

from backend.wire import Delta, ToolCallDelta


class DeltaCollector:
    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._arguments: list[list[str]] = []

    def add(self, delta: Delta) -> None:
        self._reasoning.append(delta.reasoning)
        self._content.append(delta.content)
        for call in delta.tool_calls:
            if call.index == len(self._calls):
                self._calls.append(call)
                self._arguments.append([])
            self._arguments[call.index].append(call.arguments)

    def whole(self) -> Delta:
        """One delta with all of it; calls are whole."""
        calls = [
            ToolCallDelta(call.index, call.id, call.name, "".join(arguments))
            for call, arguments in zip(self._calls, self._arguments, strict=True)
        ]
        return Delta("".join(self._reasoning), "".join(self._content), calls)
