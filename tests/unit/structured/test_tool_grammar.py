"""Calls that random models write under the grammar are calls that the parser reads."""

import json

import pytest

from backend.errors import InvalidRequestError
from backend.parsers import OutputParser, make_reasoning_parser, make_tool_call_parser
from backend.structured import tool_call_spec
from backend.wire import FunctionSpec, StructuredSpec, Tool

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Beijing", "上海"]}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    Tool(FunctionSpec("get_weather", parameters=WEATHER)),
    Tool(FunctionSpec('no "arguments" 好')),
    Tool(
        FunctionSpec("untyped", parameters={"properties": {"x": {"const": 1}}, "maxProperties": 0})
    ),
]


def parse(text):
    """(content, [(name, arguments)])"""
    parser = OutputParser(
        make_reasoning_parser("none", False), make_tool_call_parser("ernie-45-vl-thinking")
    )
    first, last = parser.push(text), parser.finish()
    calls = {}
    for delta in first.tool_calls + last.tool_calls:
        name, arguments = calls.get(delta.index, ("", ""))
        calls[delta.index] = (name or delta.name, arguments + delta.arguments)
    return first.content + last.content, list(calls.values())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("has_tags", [True, False])
def test_every_answer_is_calls_of_the_tools(write, structured, seed, has_tags):
    token_id = structured.special_token_id if has_tags else lambda name: None
    spec = tool_call_spec(TOOLS, token_id, max_calls=3)
    text, has_ended = write(spec, seed, max_tokens=2000)
    assert has_ended
    content, calls = parse(text)
    assert content == ""
    assert 1 <= len(calls) <= 3
    for name, arguments in calls:
        assert name in [tool.function.name for tool in TOOLS]
        value = json.loads(arguments)
        if name == "get_weather":
            assert value["city"] in ("Beijing", "上海")
            assert set(value) <= {"city", "days"}
        elif name != "untyped":
            assert value == {}


def test_one_call_ends_the_answer(write, structured):
    spec = tool_call_spec(TOOLS[1:2], structured.special_token_id, max_calls=1)
    text, has_ended = write(spec)
    assert has_ended
    expected = '<tool_call>\n{"name": "no \\"arguments\\" 好", "arguments": {}}\n</tool_call>'
    assert text.removesuffix("\n") == expected


@pytest.mark.parametrize("max_calls", [1, 16])
def test_an_answer_may_end_with_the_newline_that_models_write(structured, tokenizer, max_calls):
    spec = tool_call_spec(TOOLS[:1], structured.special_token_id, max_calls=max_calls)
    matcher = structured.compile(spec).result()
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Beijing"}}\n</tool_call>\n'
    for token_id in tokenizer.encode_template(call):
        matcher.consume(token_id)
    structured.start_masks([matcher])
    assert matcher.is_accepting
    assert matcher.is_complete or matcher.allowed()[list(tokenizer.eos_token_ids)].any()


def test_an_answer_in_the_asked_format_is_the_other_way(write, structured):
    answer = StructuredSpec("json_schema", '{"enum": [7]}')
    spec = tool_call_spec(TOOLS[1:2], structured.special_token_id, max_calls=1, otherwise=answer)
    beginnings = {write(spec, seed)[0][:5].strip() for seed in range(12)}
    assert beginnings == {"7", "<tool"}


def test_tags_are_tokens_where_the_vocabulary_has_them(structured, tokenizer):
    spec = tool_call_spec(TOOLS, structured.special_token_id)
    matcher = structured.compile(spec).result()
    assert matcher.allowed().nonzero()[0].tolist() == [tokenizer.token_id("<tool_call>")]


def test_a_strict_tool_must_be_enforceable(structured):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    for strict in (None, False):
        tool = Tool(FunctionSpec("f", parameters=schema, strict=strict))
        structured.check(tool_call_spec([tool], structured.special_token_id))
    tool = Tool(FunctionSpec("f", parameters=schema, strict=True))
    with pytest.raises(InvalidRequestError, match="not") as caught:
        structured.check(tool_call_spec([tool], structured.special_token_id))
    assert (caught.value.code, caught.value.param) == ("invalid_grammar", "tools")


def test_a_tools_schema_has_the_limits_of_any_schema(structured):
    deep = {"a": 1}
    for _ in range(70):
        deep = {"properties": {"a": deep}}
    for schema in (deep, {"properties": {f"p{n}": {} for n in range(10_000)}}):
        tool = Tool(FunctionSpec("f", parameters=schema))
        with pytest.raises(InvalidRequestError) as caught:
            tool_call_spec([TOOLS[0], tool], structured.special_token_id)
        assert caught.value.param == "tools[1].function.parameters"
