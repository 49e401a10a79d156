"""Which parsers a checkpoint's answers go through.

A setting names a parser, or `none` (answers stay raw text), or is "" or `auto`: then the family of
the checkpoint decides (see `detect_family`):

| family | reasoning_parser | tool_call_parser |
|---|---|---|
| text | none | ernie-45-vl-thinking |
| VL | ernie-45-vl | ernie-45-vl-thinking |
| VL-Thinking | ernie-45-vl-thinking | ernie-45-vl-thinking |
| 21B-Thinking, X1 | ernie-x1 | ernie-x1 |

Tool calls are looked for in answers to requests that bring tools, in no others.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.chat_template import Family, detect_family
from backend.config.model import load_model_config
from backend.config.serving import PostprocessorSettings
from backend.parsers import (
    OutputParser,
    make_reasoning_parser,
    make_tool_call_parser,
)
from backend.wire import PostprocessSpec

_AUTO = ("", "auto")
_REASONING = {
    Family.TEXT: "none",
    Family.VL: "ernie-45-vl",
    Family.VL_THINKING: "ernie-45-vl-thinking",
    Family.X1: "ernie-x1",
}


@dataclass(frozen=True, slots=True)
class ParserChoice:
    reasoning: str
    tool_calls: str

    def make(self, spec: PostprocessSpec) -> OutputParser:
        """The parser of one answer."""
        reasoning = self.reasoning if spec.parse_output else "none"
        wants_calls = spec.parse_output and spec.has_tools
        # A grammar has written these calls, in the one format that there is.
        is_forced = spec.requires_call and self.tool_calls == "none"
        tool_calls = "ernie-45-vl-thinking" if is_forced else self.tool_calls
        return OutputParser(
            make_reasoning_parser(reasoning, spec.prompt_opens_reasoning),
            make_tool_call_parser(tool_calls, spec.max_tool_calls) if wants_calls else None,
            spec.layout_newlines,
        )


def choose_parsers(settings: PostprocessorSettings) -> ParserChoice:
    """Raises ConfigError for an unknown parser, CheckpointError for a folder without a model."""
    config = load_model_config(settings.model)
    family = detect_family(settings.model, config.is_multimodal, settings.reasoning_parser)
    reasoning, tool_calls = settings.reasoning_parser, settings.tool_call_parser
    if reasoning in _AUTO:
        reasoning = _REASONING[family]
    if tool_calls in _AUTO:
        tool_calls = "ernie-x1" if family is Family.X1 else "ernie-45-vl-thinking"
    make_reasoning_parser(reasoning, opens_reasoning=False)
    make_tool_call_parser(tool_calls)
    return ParserChoice(reasoning, tool_calls)
