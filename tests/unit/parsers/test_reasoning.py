from __future__ import annotations

import pytest

from backend.errors import ConfigError
from backend.parsers import make_reasoning_parser, make_tool_call_parser
from tests.unit.parsers.answers import make_parser


def test_each_piece_comes_out_at_once_unless_it_may_begin_a_tag() -> None:
    parser = make_parser("ernie-45-vl", True, False)
    deltas = [parser.push(piece) for piece in ("Hm", ". <", "b", "</thi", "nk>", "\n\nSo")]
    assert [d.reasoning for d in deltas] == ["Hm", ". ", "<b", "", "", ""]
    assert [d.content for d in deltas] == ["", "", "", "", "", "\n\nSo"]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("opens", "text", "end"),
    [
        (True, "Hm.</think>So.", 11),
        (True, "Hm.", None),
        (False, "So. It is.", 0),
        (False, "\n<think>Hm.</think>So.", 19),
        (False, "\n<think>Hm.", None),
    ],
)
def test_where_the_reasoning_ends(opens: bool, text: str, end: int | None, size: int) -> None:
    for name in ("ernie-45-vl", "ernie-x1"):
        parser = make_parser(name, opens, False)
        for at in range(0, len(text), size):
            parser.push(text[at : at + size])
        assert parser.reasoning_end == end


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="reasoning_parser is 'qwen3'; known: ernie-45-vl, "):
        make_reasoning_parser("qwen3", True)
    with pytest.raises(ConfigError, match="tool_call_parser is 'ernie-45-vl'; known: "):
        make_tool_call_parser("ernie-45-vl")
    assert make_tool_call_parser("none") is None
