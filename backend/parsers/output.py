"""The whole way from an answer's text to a delta."""

from __future__ import annotations

from backend.parsers.reasoning import ReasoningParser
from backend.parsers.tool_calls import ToolCallParser
from backend.wire import Delta


class OutputParser:
    """Tool calls are looked for in the content, never in the reasoning."""

    def __init__(self, reasoning: ReasoningParser, tools: ToolCallParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    @property
    def reasoning_end(self) -> int | None:
        """Characters of the text that belong to the reasoning; None while it is open."""
        return self._reasoning.reasoning_end

    @property
    def num_tool_calls(self) -> int:
        return 0 if self._tools is None else self._tools.num_calls

    def push(self, text: str) -> Delta:
        reasoning, content = self._reasoning.push(text)
        if self._tools is None:
            return Delta(reasoning, content)
        delta = self._tools.push(content)
        delta.reasoning = reasoning
        return delta

    def finish(self) -> Delta:
        """What was held back. The text ended here, whatever it promised."""
        reasoning, content = self._reasoning.finish()
        if self._tools is None:
            return Delta(reasoning, content)
        first, last = self._tools.push(content), self._tools.finish()
        return Delta(reasoning, first.content + last.content, [*first.tool_calls, *last.tool_calls])
