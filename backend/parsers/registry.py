"""Parsers by the names that FastDeploy's flags use."""

from __future__ import annotations

from backend.errors import ConfigError
from backend.parsers.reasoning import PlainParser, ReasoningParser, ThinkParser, X1Parser
from backend.parsers.tool_calls import ToolCallParser

NONE = "none"
REASONING_PARSERS = ("ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1", NONE)
TOOL_CALL_PARSERS = ("ernie-45-vl-thinking", "ernie-x1", NONE)


def make_reasoning_parser(name: str, opens_reasoning: bool) -> ReasoningParser:
    """Raises ConfigError for a name that is not in REASONING_PARSERS."""
    _check("reasoning_parser", name, REASONING_PARSERS)
    if name == NONE:
        return PlainParser()
    return X1Parser(opens_reasoning) if name == "ernie-x1" else ThinkParser(opens_reasoning)


def make_tool_call_parser(name: str, max_calls: int = 0) -> ToolCallParser | None:
    """None for `none`. Raises ConfigError for a name that is not in TOOL_CALL_PARSERS."""
    _check("tool_call_parser", name, TOOL_CALL_PARSERS)
    return None if name == NONE else ToolCallParser(max_calls=max_calls)


def _check(setting: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(f"{setting} is {name!r}; known: {', '.join(known)}")
