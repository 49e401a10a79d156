"""Runs answers through a parser, cut in any way, and collects what comes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backend.parsers import OutputParser, make_reasoning_parser
from backend.parsers.tool_calls import ToolCallParser
from backend.wire import Delta


@dataclass
class Collected:
    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        self.reasoning += delta.reasoning
        self.content += delta.content
        for call in delta.tool_calls:
            if call.name is not None:
                assert call.index == len(self.calls)
                assert call.id is not None
                self.calls.append((call.name, call.arguments))
            else:
                assert call.index == len(self.calls) - 1
                assert call.id is None
                assert call.arguments
                name, arguments = self.calls[-1]
                self.calls[-1] = (name, arguments + call.arguments)


def make_parser(reasoning: str, opens: bool, has_tools: bool) -> OutputParser:
    numbers = itertools.count()
    tools = ToolCallParser(lambda: f"id-{next(numbers)}") if has_tools else None
    return OutputParser(make_reasoning_parser(reasoning, opens), tools)


def parse(parser: OutputParser, pieces: Iterable[str]) -> Collected:
    collected = Collected()
    for piece in pieces:
        collected.add(parser.push(piece))
    collected.add(parser.finish())
    return collected


def cuts_in_two(text: str) -> Iterator[tuple[str, str]]:
    for at in range(len(text) + 1):
        yield text[:at], text[at:]
