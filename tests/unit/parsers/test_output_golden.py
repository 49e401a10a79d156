"""Golden transcripts: what an answer is split into, streamed in any way or collected."""

from __future__ import annotations

import pytest

from tests.unit.parsers.answers import Collected, cuts_in_two, make_parser, parse

VL, VLT, X1, NONE = "ernie-45-vl", "ernie-45-vl-thinking", "ernie-x1", "none"
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, 2]}}\n</tool_call>\n'
F = ("f", '{"a": [1, 2]}')
BAD = '<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>'

# parser, prompt opened the reasoning, request has tools, text → reasoning, content, calls
GOLDEN: dict[str, tuple[str, bool, bool, str, Collected]] = {
    "reasoning and answer": (
        VL,
        True,
        False,
        "\nHm.\n</think>\n\nSo.",
        Collected("\nHm.\n", "\n\nSo."),
    ),
    "thinking switched off": (VL, False, False, "So.", Collected("", "So.")),
    "thinking never ends": (VL, True, False, "\nHm. <b>", Collected("\nHm. <b>")),
    "ends inside the tag": (VL, True, False, "Hm.</thi", Collected("Hm.</thi")),
    "a second end tag is text": (
        VL,
        True,
        False,
        "a</think>b</think>c",
        Collected("a", "b</think>c"),
    ),
    "nothing at all": (VL, True, False, "", Collected()),
    "nothing but the end": (VL, True, False, "</think>", Collected()),
    "the model opens it itself": (
        VL,
        False,
        False,
        "\n<think>\nHm.</think>So.",
        Collected("\nHm.", "So."),
    ),
    "almost a start tag": (VL, False, False, "\n <thin air>", Collected("", "\n <thin air>")),
    "a start tag far from the start": (
        VL,
        False,
        False,
        "\n" * 17 + "<think>a</think>b",
        Collected("", "\n" * 17 + "<think>a</think>b"),
    ),
    "only newlines": (VL, False, False, "\n\n", Collected("", "\n\n")),
    "lone angle brackets": (VL, True, False, "a < b <</think>< c <", Collected("a < b <", "< c <")),
    "no parser": (NONE, True, False, "a</think>b", Collected("", "a</think>b")),
    "thinking model, answer": (
        VLT,
        True,
        True,
        "Hm.\n</think>\n\nSo.\n",
        Collected("Hm.\n", "\n\nSo.\n"),
    ),
    "thinking model, call": (
        VLT,
        True,
        True,
        f"Hm.\n</think>\n\n{CALL}",
        Collected("Hm.\n", "", [F]),
    ),
    "call without tools is text": (VLT, True, False, f"Hm.</think>{CALL}", Collected("Hm.", CALL)),
    "call while thinking is thought": (VLT, True, True, f"Hm. {CALL}", Collected(f"Hm. {CALL}")),
    "text before a call": (VLT, False, True, f"Look:\n\n{CALL}", Collected("", "Look:", [F])),
    "text after a call": (VLT, False, True, f"{CALL}\nDone.\n", Collected("", "Done.\n", [F])),
    "text between calls": (VLT, False, True, f"A\n{CALL}B\n{CALL}C", Collected("", "ABC", [F, F])),
    "three calls": (VLT, False, True, CALL * 3, Collected("", "", [F, F, F])),
    "call without its end tag": (VLT, False, True, CALL[:-14], Collected("", "", [F])),
    "next call ends the one before": (
        VLT,
        False,
        True,
        CALL.replace("</tool_call>", "") * 2,
        Collected("", "", [F, F]),
    ),
    "call cut off": (VLT, False, True, f"A\n{CALL[:30]}", Collected("", f"A\n{CALL[:30]}")),
    "call cut off in its tag": (VLT, False, True, "A\n<tool_c", Collected("", "A\n<tool_c")),
    "end tag cut off": (VLT, False, True, CALL[:-5], Collected("", "", [F])),
    "braces and tags in strings": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","arguments":{"s":"}{\\"</tool_call>\\\\"}}</tool_call>',
        Collected("", "", [("f", '{"s": "}{\\"</tool_call>\\\\"}')]),
    ),
    "arguments first": (
        VLT,
        False,
        True,
        '<tool_call>{"arguments":{"a":[1,2]},"name":"f"}</tool_call>',
        Collected("", "", [F]),
    ),
    "other keys": (
        VLT,
        False,
        True,
        '<tool_call>{"id":{"x":[1]},"name":"f","arguments":{"a":[1,2]}}</tool_call>',
        Collected("", "", [F]),
    ),
    "spacing, escapes and raw newlines": (
        VLT,
        False,
        True,
        '<tool_call>{ "name" :"f" ,"arguments":{"k" :"\\u4f60好\n\t" , "e":{ },"l":[ ],'
        '"n":-1.50e+3,"t":true ,"z":null}}</tool_call>',
        Collected(
            "",
            "",
            [
                (
                    "f",
                    '{"k": "\\u4f60好\\n\\t", "e": {}, "l": [], '
                    '"n": -1.50e+3, "t": true, "z": null}',
                )
            ],
        ),
    ),
    "arguments in a string": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","arguments":"{\\"a\\":[1,2]}"}</tool_call>',
        Collected("", "", [F]),
    ),
    "arguments are null": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","arguments":null}</tool_call>',
        Collected("", "", [("f", "{}")]),
    ),
    "outer braces missing": (
        VLT,
        False,
        True,
        '<tool_call>\n"name": "f", "arguments": {"a": [1,2]}\n</tool_call>',
        Collected("", "", [F]),
    ),
    "arguments are a list": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","arguments":[1]}</tool_call>',
        Collected("", '<tool_call>{"name":"f","arguments":[1]}</tool_call>'),
    ),
    "arguments are missing": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f"}</tool_call>',
        Collected("", '<tool_call>{"name":"f"}</tool_call>'),
    ),
    "no name": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"","arguments":{}}</tool_call>',
        Collected("", '<tool_call>{"name":"","arguments":{}}</tool_call>'),
    ),
    "two names": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","name":"g","arguments":{}}</tool_call>',
        Collected("", '<tool_call>{"name":"f","name":"g","arguments":{}}</tool_call>'),
    ),
    "half a surrogate pair as name": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"\\ud800","arguments":{}}</tool_call>',
        Collected("", '<tool_call>{"name":"\\ud800","arguments":{}}</tool_call>'),
    ),
    "text behind the object": (
        VLT,
        False,
        True,
        '<tool_call>{"name":"f","arguments":{}} ok</tool_call>',
        Collected("", '<tool_call>{"name":"f","arguments":{}} ok</tool_call>'),
    ),
    "no JSON": (VLT, False, True, f"A\n\n{BAD}\nB\n", Collected("", f"A\n\n{BAD}\nB\n")),
    "no JSON, then a call": (VLT, False, True, f"{BAD}\n{CALL}", Collected("", BAD, [F])),
    "tag twice": (VLT, False, True, f"<tool_call>\n{CALL}", Collected("", "<tool_call>", [F])),
    "x1 answer": (
        X1,
        True,
        True,
        "Hm.\n</think>\n\n<response>\nSo.\n</response>\n",
        Collected("Hm.\n", "\nSo.\n"),
    ),
    "x1 call": (X1, True, True, f"Hm.</think>\n\n{CALL}{CALL}", Collected("Hm.", "", [F, F])),
    "x1 answer and call": (
        X1,
        True,
        True,
        f"Hm.</think><response>So.</response>\n{CALL}",
        Collected("Hm.", "So.", [F]),
    ),
    "x1 answer never closed": (
        X1,
        True,
        True,
        "</think><response>So.</res",
        Collected("", "So.</res"),
    ),
    "x1 without tags": (
        X1,
        True,
        True,
        "Hm.</think>\n\nSo\n\nit is.\n",
        Collected("Hm.", "So\n\nit is.\n"),
    ),
    "x1 text around the answer": (
        X1,
        True,
        True,
        "</think>A\n<response>B</response>\nC",
        Collected("", "ABC"),
    ),
    "x1 never ends thinking": (X1, True, True, "<response>a", Collected("<response>a")),
    "x1 tags inside a call": (
        X1,
        True,
        True,
        '</think><tool_call>{"name":"f","arguments":{"a":"<response>\\n"}}</tool_call>',
        Collected("", "", [("f", '{"a": "<response>\\n"}')]),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_collected(name: str) -> None:
    reasoning, opens, has_tools, text, expected = GOLDEN[name]
    assert parse(make_parser(reasoning, opens, has_tools), [text]) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_streamed_character_by_character(name: str) -> None:
    reasoning, opens, has_tools, text, expected = GOLDEN[name]
    assert parse(make_parser(reasoning, opens, has_tools), text) == expected


@pytest.mark.parametrize("name", GOLDEN)
def test_cut_in_two_anywhere(name: str) -> None:
    reasoning, opens, has_tools, text, expected = GOLDEN[name]
    for pieces in cuts_in_two(text):
        assert parse(make_parser(reasoning, opens, has_tools), pieces) == expected
