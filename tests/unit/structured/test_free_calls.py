"""Text stays free and calls in it obey: under tool_choice auto with strict functions."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import InvalidRequestError
from backend.parsers import OutputParser, make_reasoning_parser, make_tool_call_parser
from backend.structured import free_calls_spec
from backend.wire import FunctionSpec, Tool
from tests.unit.structured.schemas import is_valid, schemas

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Beijing", "上海"]}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
STRICT = Tool(FunctionSpec("get_weather", parameters=WEATHER, strict=True))
LOOSE = Tool(FunctionSpec("search", parameters=WEATHER))


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


@pytest.fixture
def accepts(structured, tokenizer):
    """Whether an answer of exactly this text can be written, tags as tokens, and may end."""

    def _accepts(spec, text):
        matcher = structured.compile(spec).result()
        for token_id in tokenizer.encode_template(text):
            matcher.compute_mask()
            if not matcher.allowed()[token_id]:
                return False
            matcher.consume(token_id)
        return matcher.is_accepting

    return _accepts


@pytest.fixture
def write_calls(structured, tokenizer):
    """A random answer that begins a call wherever it may; it ends some time after."""

    def _write(spec, seed, opening, num_tokens=60):
        matcher = structured.compile(spec).result()
        choose = np.random.default_rng(seed)
        queue = list(opening)
        ids = []
        while not matcher.is_complete and len(ids) < 3000:
            allowed = np.flatnonzero(matcher.allowed())
            eos = [i for i in tokenizer.eos_token_ids if i in allowed]
            if eos and len(ids) > num_tokens:
                break
            others = [int(i) for i in allowed if i not in tokenizer.eos_token_ids]
            token_id = queue.pop(0) if queue else int(choose.choice(others))
            assert token_id in others
            if token_id == opening[-1] and not queue:
                opening = opening[-1:]
            ids.append(token_id)
            matcher.consume(token_id)
            structured.start_masks([matcher])
            if len(ids) in (20, 40) and opening[0] in np.flatnonzero(matcher.allowed()):
                queue = list(opening)
        return tokenizer.decode(ids, False)

    return _write


@pytest.mark.parametrize("text", ["", "Hi", "\n\nIt rains.\n", "a < b > c", "{}", "</tool", "天气"])
@pytest.mark.parametrize("is_single", [False, True])
def test_text_without_calls_is_free(accepts, structured, text, is_single):
    spec = free_calls_spec([STRICT], structured.special_token_id, is_single=is_single)
    assert accepts(spec, text)


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Beijing"}}\n</tool_call>'


@pytest.mark.parametrize("has_tags", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, True),
        ("\n\n" + CALL + "\n", True),
        ("I look.\n" + CALL, True),
        (CALL + "\n" + CALL, True),
        (CALL + " and more text", True),
        (CALL.replace("Beijing", "Paris"), False),
        (CALL.replace("get_weather", "other"), False),
        (CALL.replace('"city": "Beijing"', '"city": "Beijing", "x": 1'), False),
        (CALL.replace('{"city": "Beijing"}', "{}"), False),
        (CALL.replace("\n</tool_call>", ""), False),
        ("text <tool_call> more", False),
    ],
)
def test_a_call_obeys_from_its_tag_on(accepts, structured, has_tags, text, expected):
    token_id = structured.special_token_id if has_tags else lambda name: None
    spec = free_calls_spec([STRICT], token_id)
    if has_tags:
        assert accepts(spec, text) is expected
    else:
        assert _accepts_text(structured, spec, text) is expected


def _accepts_text(structured, spec, text):
    """As for a vocabulary in which the tags are ordinary text."""
    matcher = structured.compile(spec).result()
    for token_id in structured.vocabulary.encode_text(text):
        matcher.compute_mask()
        if not matcher.allowed()[token_id]:
            return False
        matcher.consume(token_id)
    return matcher.is_accepting


def test_a_function_that_is_not_strict_takes_any_object(accepts, structured):
    spec = free_calls_spec([STRICT, LOOSE], structured.special_token_id)
    loose = CALL.replace("get_weather", "search")
    assert accepts(spec, loose.replace("Beijing", "Paris"))
    assert accepts(spec, loose.replace('{"city": "Beijing"}', "{}"))
    assert not accepts(spec, loose.replace('{"city": "Beijing"}', "[]"))


def test_at_most_one_call_where_only_one_is_allowed(accepts, structured):
    spec = free_calls_spec([STRICT], structured.special_token_id, is_single=True)
    assert accepts(spec, "text" + CALL) and accepts(spec, CALL + "\n")
    assert not accepts(spec, CALL + "\n" + CALL)


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<response>", "</response>"])
def test_the_models_own_tags_are_part_of_the_text(accepts, structured, tokenizer, tag):
    known = {
        name: i for name in (tag, "<tool_call>", "</tool_call>")
        if (i := structured.special_token_id(name)) is not None
    }  # fmt: skip
    spec = free_calls_spec([STRICT], known.get)
    assert accepts(spec, f"\n{tag}\nmore")
    assert accepts(spec, f"{tag}{CALL}{tag}")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("has_tags", [True, False])
def test_a_random_answers_calls_are_calls_of_the_tools(
    write_calls, structured, tokenizer, seed, has_tags
):
    token_id = structured.special_token_id if has_tags else lambda name: None
    spec = free_calls_spec([STRICT, LOOSE], token_id)
    opening = (
        [tokenizer.token_id("<tool_call>")] if has_tags else tokenizer.encode_text("<tool_call>")
    )
    _, calls = parse(write_calls(spec, seed, opening))
    assert calls
    for name, arguments in calls:
        value = json.loads(arguments)
        assert name in ("get_weather", "search") and isinstance(value, dict)
        if name == "get_weather":
            assert value["city"] in ("Beijing", "上海")


@given(schema=schemas, seed=st.integers(0, 2**16))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_schema_holds(write_calls, structured, tokenizer, schema, seed):
    whole = {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
    }
    tool = Tool(FunctionSpec("f", parameters=whole, strict=True))
    spec = free_calls_spec([tool], structured.special_token_id, is_single=True)
    text = write_calls(spec, seed, [tokenizer.token_id("<tool_call>")], num_tokens=0)
    _, calls = parse(text)
    for _, arguments in calls:
        assert is_valid(json.loads(arguments), {**whole})


def test_what_cannot_be_enforced_is_refused_for_a_strict_function(structured):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    loose = Tool(FunctionSpec("g", parameters=schema))
    structured.check(free_calls_spec([STRICT, loose], structured.special_token_id))
    strict = Tool(FunctionSpec("f", parameters=schema, strict=True))
    with pytest.raises(InvalidRequestError) as caught:
        structured.check(free_calls_spec([strict], structured.special_token_id))
    assert caught.value.code == "invalid_grammar"
