"""Generated text → reasoning, content and tool calls: state machines over text, O(n), no I/O.

Streamed and collected answers go through the same parsers: however the text is cut into pieces,
the concatenated deltas are the same.
"""

from backend.parsers.output import OutputParser
from backend.parsers.registry import (
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
    make_reasoning_parser,
    make_tool_call_parser,
)
from backend.parsers.stop import StopMatcher

__all__ = [
    "REASONING_PARSERS",
    "TOOL_CALL_PARSERS",
    "OutputParser",
    "StopMatcher",
    "make_reasoning_parser",
    "make_tool_call_parser",
]
