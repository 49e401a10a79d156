"""What grammars admit: always the right answers, whatever a model would rather say."""

import json
import re
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import InvalidRequestError
from backend.structured.output import MAX_CACHED
from backend.wire import StructuredSpec
from tests.unit.structured.schemas import is_valid, schemas

EMPTY_OBJECT = {"type": "object", "properties": {}, "additionalProperties": False}


def schema_spec(schema):
    return StructuredSpec("json_schema", json.dumps(schema), param="guided_json")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schema=schemas, seed=st.integers(0, 1000))
def test_random_answers_to_random_schemas_are_valid(write, schema, seed):
    text, has_ended = write(schema_spec(schema), seed)
    assert has_ended
    assert is_valid(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(5))
def test_any_json_object(write, seed):
    text, has_ended = write(StructuredSpec("json_object"), seed, max_tokens=3000)
    assert not has_ended or isinstance(json.loads(text), dict)
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize(
    "pattern", [r"\d{3}-[a-z]/x", r"^(ja|nein)$", "a\nb", r"a\nb", '"quoted"/', r"[^a-z\d]{2}é"]
)
def test_a_regex_matches_the_whole_answer(write, pattern):
    for seed in range(4):
        text, has_ended = write(StructuredSpec("regex", pattern), seed)
        assert has_ended
        assert re.fullmatch(pattern, text, re.ASCII)


def test_choices_come_as_they_are(write):
    choices = ["yes", 'n"o', "a\nb", "你好", "<think>", "\\"]
    spec = StructuredSpec("choice", json.dumps(choices))
    assert {write(spec, seed)[0] for seed in range(60)} == set(choices)


def test_five_thousand_choices(write):
    choices = [f"c{n}" for n in range(5000)]
    text, has_ended = write(StructuredSpec("choice", json.dumps(choices)))
    assert has_ended and text in choices


@pytest.mark.parametrize("grammar", ['root ::= "a" | "b" root', 'start: "b"* "a"'])
def test_grammars_in_both_dialects(write, grammar):
    for seed in range(5):
        text, has_ended = write(StructuredSpec("grammar", grammar), seed)
        assert has_ended and re.fullmatch("b*a", text)


@pytest.mark.parametrize("begin", ["<fn>", "<tool_call>\nf:"])
def test_a_structural_tag_constrains_what_follows_its_trigger(structured, tokenizer, begin):
    tag = {
        "structures": [{"begin": begin, "schema": EMPTY_OBJECT, "end": "</tool_call>"}],
        "triggers": [begin[:3] if begin == "<fn>" else "<tool_call>"],
    }
    spec = StructuredSpec("structural_tag", json.dumps(tag))
    matcher = structured.compile(spec).result()
    for token_id in tokenizer.encode_text("free text 你好, "):
        matcher.consume(token_id)
    assert matcher.is_accepting
    for token_id in tokenizer.encode_template(begin):
        matcher.consume(token_id)
    matcher.compute_mask()
    assert not matcher.is_accepting
    assert not matcher.allowed()[tokenizer.encode_text("a")[0]]
    for token_id in tokenizer.encode_template("{}</tool_call>"):
        matcher.consume(token_id)
    assert matcher.is_accepting


def test_special_tokens_are_no_text_of_any_answer(structured, tokenizer):
    matcher = structured.compile(StructuredSpec("regex", r"(.|\n)*")).result()
    special = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)]
    allowed = matcher.allowed()
    assert set(np.flatnonzero(allowed[special])) == {
        special.index(i) for i in tokenizer.eos_token_ids
    }
    assert not allowed[special].all() and allowed.sum() > 300


def test_copies_of_a_cached_grammar_are_independent(structured, tokenizer):
    spec = StructuredSpec("regex", "ab|cd")
    first, second = structured.compile(spec).result(), structured.compile(spec).result()
    first.consume(tokenizer.encode_text("a")[-1])
    first.compute_mask()
    assert second.allowed()[tokenizer.encode_text("c")[-1]]
    assert not first.allowed()[tokenizer.encode_text("c")[-1]]


def test_a_token_that_does_not_fit_is_this_requests_error(structured, tokenizer):
    matcher = structured.compile(StructuredSpec("regex", "ab")).result()
    with pytest.raises(InvalidRequestError, match="cannot follow its grammar") as caught:
        matcher.consume(tokenizer.encode_text("z")[-1])
    assert caught.value.code == "grammar_error"


def test_a_mask_that_does_not_come_is_this_requests_error(structured, monkeypatch):
    monkeypatch.setattr("backend.structured.matcher.MASK_TIMEOUT_S", 0.01)
    matcher = structured.compile(StructuredSpec("regex", "ab")).result()
    matcher.pending = Future()
    with pytest.raises(InvalidRequestError, match="too complex") as caught:
        matcher.allowed()
    assert caught.value.code == "grammar_error"


def test_a_grammar_that_does_not_compile_in_time_is_refused(structured, monkeypatch):
    monkeypatch.setattr("backend.structured.output.COMPILE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(structured, "compile", lambda spec: Future())
    with pytest.raises(InvalidRequestError, match="takes more than") as caught:
        structured.check(StructuredSpec("regex", "ab", param="guided_regex"))
    assert (caught.value.code, caught.value.param) == ("invalid_grammar", "guided_regex")


def test_the_cache_is_bounded(structured):
    for n in range(MAX_CACHED + 20):
        structured.check(StructuredSpec("regex", f"x{n}"))
    assert len(structured._cache) == MAX_CACHED
    assert structured._cached_bytes == sum(len(spec.text) for spec in structured._cache)
