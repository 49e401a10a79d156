"""The whole way from an answer's text to a delta."""

from __future__ import annotations

from backend.parsers.reasoning import ReasoningParser
from backend.parsers.tool_calls import ToolCallParser
from backend.wire import Delta


class OutputParser:
    """Tool calls are looked for in the content, never in the reasoning.

    `layout_newlines`: up to so many newlines between reasoning and content are neither.
    """

    def __init__(
        self, reasoning: ReasoningParser, tools: ToolCallParser | None, layout_newlines: int = 0
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._layout_newlines = layout_newlines

    @property
    def reasoning_end(self) -> int | None:
        """Characters of the text that belong to the reasoning; None while it is open."""
        return self._reasoning.reasoning_end

    @property
    def num_tool_calls(self) -> int:
        return 0 if self._tools is None else self._tools.num_calls

    @property
    def is_done(self) -> bool:
        """The answer has all the tool calls that it may have."""
        return self._tools is not None and self._tools.is_done

    def push(self, text: str) -> Delta:
        reasoning, content = self._reasoning.push(text)
        content = self._without_layout(content)
        if self._tools is None:
            return Delta(reasoning, content)
        delta = self._tools.push(content)
        delta.reasoning = reasoning
        return delta

    def finish(self) -> Delta:
        """What was held back. The text ended here, whatever it promised."""
        reasoning, content = self._reasoning.finish()
        content = self._without_layout(content)
        if self._tools is None:
            return Delta(reasoning, content)
        first, last = self._tools.push(content), self._tools.finish()
        return Delta(reasoning, first.content + last.content, [*first.tool_calls, *last.tool_calls])

    def _without_layout(self, content: str) -> str:
        if not content or not self._layout_newlines or not self._reasoning.reasoning_end:
            return content
        num_newlines = len(content) - len(content.lstrip("\n"))
        num_dropped = min(num_newlines, self._layout_newlines)
        is_over = num_dropped < len(content)
        self._layout_newlines = 0 if is_over else self._layout_newlines - num_dropped
        return content[num_dropped:]
