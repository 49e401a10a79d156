from __future__ import annotations

from pathlib import Path

import pytest

from backend.config.serving import PostprocessorSettings
from backend.errors import ConfigError
from backend.postprocess.parser_choice import ParserChoice, choose_parsers
from backend.wire import Delta, PostprocessSpec


@pytest.mark.parametrize(
    ("folder", "reasoning", "tools", "expected"),
    [
        ("ERNIE-4.5-21B", "", "", ("none", "ernie-45-vl-thinking")),
        ("ERNIE-4.5-21B-Thinking", "", "auto", ("ernie-x1", "ernie-x1")),
        ("ERNIE-4.5-21B", "ernie-x1", "", ("ernie-x1", "ernie-x1")),
        ("ERNIE-VL", "", "", ("ernie-45-vl", "ernie-45-vl-thinking")),
        ("ERNIE-VL-Thinking", "", "", ("ernie-45-vl-thinking", "ernie-45-vl-thinking")),
        ("ERNIE-VL-Thinking", "none", "none", ("none", "none")),
        ("ERNIE-VL-Thinking", "ernie-45-vl", "", ("ernie-45-vl", "ernie-45-vl-thinking")),
    ],
)
def test_settings_or_the_family_decide(
    models: Path, folder: str, reasoning: str, tools: str, expected: tuple[str, str]
) -> None:
    settings = PostprocessorSettings(models / folder, reasoning, tools)
    assert choose_parsers(settings) == ParserChoice(*expected)


def test_unknown_names_are_refused_at_start(models: Path) -> None:
    with pytest.raises(ConfigError, match="reasoning_parser is 'qwen3'"):
        choose_parsers(PostprocessorSettings(models / "ERNIE-VL", "qwen3"))
    with pytest.raises(ConfigError, match="tool_call_parser is 'hermes'"):
        choose_parsers(PostprocessorSettings(models / "ERNIE-VL", "", "hermes"))


CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    ("spec", "reasoning", "content", "num_calls"),
    [
        (PostprocessSpec(prompt_opens_reasoning=True, has_tools=True), "a", "", 1),
        (PostprocessSpec(prompt_opens_reasoning=True), "a", CALL, 0),
        (PostprocessSpec(has_tools=True), "", "a</think>", 1),
        (PostprocessSpec(parse_output=False, has_tools=True), "", f"a</think>{CALL}", 0),
    ],
)
def test_the_request_decides_what_is_parsed(
    spec: PostprocessSpec, reasoning: str, content: str, num_calls: int
) -> None:
    parser = ParserChoice("ernie-45-vl", "ernie-45-vl-thinking").make(spec)
    delta = parser.push(f"a</think>{CALL}")
    end: Delta = parser.finish()
    assert (delta.reasoning + end.reasoning, delta.content + end.content) == (reasoning, content)
    assert parser.num_tool_calls == num_calls
