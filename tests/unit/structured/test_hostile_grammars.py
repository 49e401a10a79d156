"""Grammars meant to harm: each is refused at once, with the field's name and without addresses."""

import json
import time

import pytest

from backend.errors import InvalidRequestError
from backend.wire import StructuredSpec


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def doubling(count, width=2):
    """Each rule is `width` times the next: terminals are put together at compile time."""
    rules = [f"R{n}: " + f"R{n + 1} " * width for n in range(count)]
    return "\n".join(["start: R0", *rules, f'R{count}: "x"'])


def optional(count, width):
    """The grammar that took a minute under the library's own limits."""
    rules = [f"r{n}: " + "|".join([f"r{n + 1}? r{n + 1}?"] * width) for n in range(count)]
    return "\n".join(["start: r0", *rules, f"r{count}: /x+/"])


BAD = {
    "deep nesting": ("json_schema", json.dumps(nested(40))),
    "brackets": ("json_schema", "[" * 30000),
    "20,000 enum values": ("json_schema", json.dumps({"enum": [f"v{n}" for n in range(20000)]})),
    "100,000 properties": (
        "json_schema",
        json.dumps({"properties": {f"p{n}": {} for n in range(100_000)}}),
    ),
    "remote reference": ("json_schema", '{"$ref": "http://127.0.0.1:1/x.json"}'),
    "file reference": ("json_schema", '{"$ref": "file:///etc/passwd"}'),
    "unknown type": ("json_schema", '{"type": "wat"}'),
    "type of a wrong type": ("json_schema", '{"type": 5}'),
    "properties of a wrong type": ("json_schema", '{"type": "object", "properties": "x"}'),
    "a list": ("json_schema", "[1]"),
    "not JSON": ("json_schema", "{'a': 1}"),
    "NaN": ("json_schema", '{"const": NaN}'),
    "not": ("json_schema", '{"not": {"type": "string"}}'),
    "nothing can satisfy it": ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}'),
    "no values": ("json_schema", '{"enum": []}'),
    "many unions at once": (
        "json_schema",
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(4)]}
                    for i in range(12)
                ]
            }
        ),
    ),
    "look-around": ("regex", "(?=a)b"),
    "backreference": ("regex", r"(a)\1"),
    "open bracket": ("regex", "["),
    "deep parentheses": ("regex", "(" * 5000 + "a" + ")" * 5000),
    "no expression": ("regex", ""),
    "no choices": ("choice", "[]"),
    "an empty choice": ("choice", '["a", ""]'),
    "a number": ("choice", "[1]"),
    "no grammar": ("grammar", "}{"),
    "no rules": ("grammar", ""),
    "an unknown rule": ("grammar", "start: missing"),
    "deep groups": ("grammar", "root ::= " + "(" * 7000 + '"a"' + ")" * 7000),
    "2,000 rules": ("grammar", doubling(1000)),
    "doubling terminals": ("grammar", doubling(200)),
    "wide terminals": ("grammar", doubling(10, 100)),
    "wider terminals": ("grammar", doubling(5, 800)),
    "optional alternatives": ("grammar", optional(4, 500)),
    "a rule without end": ("grammar", "start: a\na: b\nb: a"),
    "structures missing": ("structural_tag", '{"triggers": ["<"]}'),
    "no trigger": (
        "structural_tag",
        '{"structures": [{"begin": "<f>", "schema": {}}], "triggers": ["x"]}',
    ),
    "begin missing": ("structural_tag", '{"structures": [{}], "triggers": ["x"]}'),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_grammar_is_refused_at_once(structured, name):
    kind, text = BAD[name]
    started = time.process_time()
    with pytest.raises(InvalidRequestError) as caught:
        structured.check(StructuredSpec(kind, text, param="guided_field"))
    assert time.process_time() - started < 1.5
    error = caught.value
    assert error.code == "invalid_grammar"
    assert error.param.startswith("guided_field") and error.message.startswith("guided_field")
    assert len(error.message) < 400 and "0x" not in error.message


FINE = {
    "deep enough": ("json_schema", json.dumps(nested(20))),
    "recursion": (
        "json_schema",
        '{"$defs": {"n": {"type": "object", "properties": {"c": {"type": "array", '
        '"items": {"$ref": "#/$defs/n"}}}}}, "$ref": "#/$defs/n"}',
    ),
    "doubling unions": (
        "json_schema",
        json.dumps(
            {
                "$defs": {
                    **{f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(400)},
                    "d400": {"type": "string"},
                },
                "$ref": "#/$defs/d0",
            }
        ),
    ),
    "500 required": (
        "json_schema",
        json.dumps(
            {
                "type": "object",
                "properties": {f"p{n}": {"type": "string"} for n in range(500)},
                "required": [f"p{n}" for n in range(500)],
            }
        ),
    ),
    "long": ("json_schema", '{"type": "string", "maxLength": 1000000}'),
    "many items": (
        "json_schema",
        '{"type": "array", "minItems": 100000, "items": {"const": 1}}',
    ),
    "exponential for backtracking": ("regex", "(a|b)*a(a|b){60}"),
    "ambiguous": ("grammar", "start: r0\nr0: r1 r1\nr1: r2 r2\nr2: /x+/"),
    "forced text without end": (
        "grammar",
        "\n".join(["start: r0", *(f"r{n}: r{n + 1} r{n + 1}" for n in range(30)), "r30: /x+/"]),
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_an_expensive_grammar_stays_cheap(write, name):
    kind, text = FINE[name]
    started = time.process_time()
    write(StructuredSpec(kind, text), max_tokens=20)
    assert time.process_time() - started < 2.0


def test_lenient_leaves_out_what_cannot_be_enforced(write):
    text = '{"type": "array", "items": {"const": 1}, "maxItems": 2, "uniqueItems": true}'
    answer, has_ended = write(StructuredSpec("json_schema", text, lenient=True))
    assert has_ended and json.loads(answer) in ([], [1], [1, 1])


def test_a_schema_cannot_make_itself_lenient(structured):
    text = '{"not": {}, "x-guidance": {"lenient": true}}'
    with pytest.raises(InvalidRequestError):
        structured.check(StructuredSpec("json_schema", text))


def test_a_grammar_that_grows_too_complex_fails_alone(structured, tokenizer):
    grammar = optional(10, 50).replace("start: r0", 'start: "a" r0')
    matcher = structured.compile(StructuredSpec("grammar", grammar)).result()
    with pytest.raises(InvalidRequestError, match="too complex to follow after 1 token") as caught:
        matcher.consume(tokenizer.encode_text("a")[-1])
    assert caught.value.code == "grammar_error"
