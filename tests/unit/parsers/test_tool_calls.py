from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.parsers.json_scanner import MAX_DEPTH, JsonScanner
from backend.parsers.tool_calls import STREAM_FROM, ToolCallParser
from tests.unit.parsers.answers import cuts_in_two, make_parser, parse

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip
arguments_values = st.dictionaries(st.text(max_size=4), json_values, max_size=4)


def cut(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in zip(borders, borders[1:])]  # noqa: B905, RUF007


def call_text(name: str, arguments: object, **style: object) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, **style)
    return f"<tool_call>\n{body}\n</tool_call>\n"


@settings(deadline=None)
@given(
    calls=st.lists(st.tuples(st.text(min_size=1), arguments_values), max_size=3),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    places=st.lists(st.integers(0), max_size=8),
)
def test_any_json_object_comes_through_with_json_dumps_spacing(
    calls: list[tuple[str, dict[str, object]]],
    ascii_only: bool,
    indent: int | None,
    places: list[int],
) -> None:
    style = {"ensure_ascii": ascii_only, "indent": indent}
    text = "".join(call_text(name, value, **style) for name, value in calls)
    collected = parse(make_parser("none", False, True), cut(text, places))
    assert collected.content == ""
    expected = [(name, json.dumps(value, ensure_ascii=ascii_only)) for name, value in calls]
    assert collected.calls == expected


FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<response>", "</response>", "<think>", "</think>", "\n", "{",
    "}", "[", "]", '"', ":", ",", "\\", '"name"', '"arguments"', '{"name": "f", "arguments": {',
    '"a": 1', "x", "<", " ", "tr", "1e", "\\u12", '"arguments": "{}"', "null",
    '<tool_call>{"name": "f", "arguments": {"k": "' + "y" * STREAM_FROM,
]  # fmt: skip
hostile = st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    text=hostile,
    name=st.sampled_from(["ernie-45-vl", "ernie-x1", "none"]),
    opens=st.booleans(),
    places=st.lists(st.integers(0), max_size=12),
)
def test_how_the_text_is_cut_never_matters(
    text: str, name: str, opens: bool, places: list[int]
) -> None:
    whole = parse(make_parser(name, opens, True), [text])
    assert parse(make_parser(name, opens, True), cut(text, places)) == whole
    assert parse(make_parser(name, opens, True), text) == whole


@settings(max_examples=300, deadline=None)
@given(text=hostile)
def test_nothing_the_model_wrote_is_lost(text: str) -> None:
    whole = parse(make_parser("none", False, True), [text])
    shown = whole.content + "".join(name + arguments for name, arguments in whole.calls)
    if whole.calls:
        assert shown.count("y") == text.count("y")
    else:
        assert whole.content == text


def long_call() -> str:
    return call_text("write", {"text": "x" * STREAM_FROM * 2})


def test_a_short_call_is_sent_whole_and_a_long_one_as_it_comes() -> None:
    def first_delta_at(text: str) -> int:
        parser = ToolCallParser()
        for i, char in enumerate(text):
            if parser.push(char).tool_calls:
                return i
        raise AssertionError("no call was sent")

    short = call_text("f", {"a": 1})
    assert first_delta_at(short) == short.index("</tool_call>") + len("</tool_call>") - 1
    assert first_delta_at(long_call()) < STREAM_FROM + 100


def test_what_breaks_after_it_was_begun_to_be_sent_is_argument_text() -> None:
    text = long_call().replace('"}}', '"oops}}') + "After."
    for pieces in ([text], text):
        collected = parse(make_parser("none", False, True), pieces)
        [(name, arguments)] = collected.calls
        assert name == "write"
        assert arguments.endswith('x"oops}}\n')
        with pytest.raises(ValueError, match="delimiter"):
            json.loads(arguments)
        assert collected.content == "After."


def test_a_long_call_cut_off_keeps_what_was_written() -> None:
    text = long_call()[:-20]
    for pieces in ([text], text):
        collected = parse(make_parser("none", False, True), pieces)
        assert collected.calls == [("write", '{"text": "' + "x" * (STREAM_FROM * 2 - 3))]
        assert collected.content == ""


@pytest.mark.parametrize(
    ("end", "written"),
    [
        ('"b": NaN, "c": 1}}\n</tool_call>', '"b": NaN, "c": 1}}\n'),
        ('"b": [1, True]}}\n</tool_call>', '"b": [1, True]}}\n'),
        ('"b": 12', '"b": 12'),
        ('"b": [1, tr', '"b": [1, tr'),
    ],
)
def test_a_word_that_is_no_json_stays_in_the_arguments_of_a_long_call(
    end: str, written: str
) -> None:
    text = long_call().replace('"}}\n</tool_call>\n', '", ' + end)
    for pieces in ([text], text, *cuts_in_two(text[-40:])):
        start = [text[:-40]] if isinstance(pieces, tuple) else []
        collected = parse(make_parser("none", False, True), [*start, *pieces])
        [(name, arguments)] = collected.calls
        assert name == "write"
        assert arguments.endswith('x", ' + written)
        assert collected.content == ""


def test_a_name_that_is_a_number_of_any_length_makes_no_call() -> None:
    text = '<tool_call>\n{"name": ' + "7" * 5000 + ', "arguments": {}}\n</tool_call>'
    assert parse(make_parser("none", False, True), [text]).content == text


@pytest.mark.parametrize("name", ["ernie-45-vl", "ernie-x1"])
def test_tags_within_a_calls_strings_are_text_like_any_other(name: str) -> None:
    page = "a</tool_call>\n\n<response>\nb\n</response>\n<tool_call><think>"
    text = call_text("write", {"page": page}) + "\n" + call_text("f", {})
    for pieces in ([text], text, *cuts_in_two(text)):
        collected = parse(make_parser(name, False, True), pieces)
        assert collected.calls == [("write", json.dumps({"page": page})), ("f", "{}")]
        assert collected.content == ""


def test_a_call_that_is_no_json_ends_at_its_tag_for_x1_too() -> None:
    text = "<tool_call>\nf(\n</tool_call>\n<response>\nDone.\n</response>\n"
    for pieces in ([text], text):
        content = parse(make_parser("ernie-x1", False, True), pieces).content
        assert content == "<tool_call>\nf(\n</tool_call>\nDone.\n"


def test_call_ids_look_like_fastdeploy_s_and_differ() -> None:
    parser = ToolCallParser()
    calls = [c for c in parser.push(call_text("f", {}) * 2).tool_calls if c.id]
    assert len({call.id for call in calls}) == 2
    for call in calls:
        assert re.fullmatch(r"chatcmpl-tool-[0-9a-f]{32}", call.id)
    assert parser.num_calls == 2


def test_name_and_arguments_are_two_deltas() -> None:
    first, second = ToolCallParser().push(call_text("f", {"a": 1})).tool_calls
    assert (first.index, first.name, first.arguments) == (0, "f", "")
    assert (second.index, second.name, second.id, second.arguments) == (0, None, None, '{"a": 1}')


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": ' + '{"a": ' * 150_000,
        '{"name": "f", "arguments": {"a": "' + "\\n" * 500_000,
        '{"name": "f", "arguments": {"a": [' + "1, " * 300_000,
        "<tool_call>" * 100_000,
        "<" * 1_000_000,
        "\n" * 1_000_000,
        '{"name": "f", "arguments": {}}' + " " * 1_000_000,
    ],
    ids=["brackets", "escapes", "numbers", "tags", "angles", "newlines", "spaces"],
)
def test_a_megabyte_of_anything_takes_linear_time(text: str) -> None:
    text = "<tool_call>" + text
    pieces = [text[i : i + 50] for i in range(0, len(text), 50)]
    started = time.process_time()
    parse(make_parser("ernie-x1", False, True), pieces)
    assert time.process_time() - started < 20


def scan(text: str) -> tuple[str, bool, bool]:
    scanner = JsonScanner()
    scanner.feed(text)
    return scanner.take(), scanner.is_done, scanner.failed


@settings(deadline=None)
@given(text=st.lists(st.sampled_from([*'{}[]",:\\ 01.-e', "true", "null", "é"])).map("".join))
def test_the_scanner_accepts_what_json_accepts(text: str) -> None:
    text = f"[{text}]"
    try:
        expected = json.loads(text, strict=False)
    except ValueError:
        expected = None
    output, is_done, _ = scan(text)
    if expected is not None:
        assert is_done
        assert json.loads(output) == expected
    elif is_done:
        end = JsonScanner().feed(text)
        assert end < len(text)  # a shorter value stands at the front


def test_depth_is_limited() -> None:
    assert scan("[" * MAX_DEPTH + "]" * MAX_DEPTH)[1]
    assert scan("[" * (MAX_DEPTH + 1))[2]
