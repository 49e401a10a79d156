"""Answers with a demanded, a limited or a constrained content."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.config.serving import PostprocessorSettings
from backend.postprocess import Postprocessor
from backend.postprocess.collector import DeltaCollector
from backend.request import FinishReason, Usage
from backend.tokenizer import Tokenizer
from backend.wire import EngineOutput, Event, PostprocessSpec

FIRST = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


@pytest.fixture
def make(models: Path):
    def _make(name: str = "ERNIE-VL", **parsers: str) -> Postprocessor:
        return Postprocessor(PostprocessorSettings(models / name, **parsers))

    return _make


def run(
    postprocessor: Postprocessor, ids: list[int], spec: PostprocessSpec, size: int = 1
) -> tuple[DeltaCollector, Event, int]:
    """(what the events bring together, the last one, how many tokens were sent before a stop)"""
    collector = DeltaCollector()
    num_sent, seq = 0, 0
    while num_sent < len(ids) and not postprocessor.wants_stop("key"):
        output = EngineOutput("key", seq, token_ids=ids[num_sent : num_sent + size])
        output.post = spec if seq == 0 else None
        num_sent, seq = num_sent + size, seq + 1
        event = postprocessor.process(output)
        if event is not None:
            collector.add(event.delta)
    usage = Usage(completion_tokens=len(ids) + 1)
    end = EngineOutput("key", seq, finish_reason=FinishReason.STOP, usage=usage)
    event = postprocessor.process(end)
    assert event is not None and postprocessor.num_open_streams == 0
    collector.add(event.delta)
    return collector, event, num_sent


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_ends_after_its_only_call(
    make, tokenizer: Tokenizer, stream: bool, size: int
) -> None:
    ids = tokenizer.encode_template(f"Text.\n{FIRST}")
    spec = PostprocessSpec(stream=stream, has_tools=True, max_tool_calls=1)
    more = [*ids, *tokenizer.encode_template(f"\n{SECOND}\nmore text")]
    collector, event, num_sent = run(make(), more, spec, size)
    whole = collector.whole()
    assert whole.content == "Text."
    assert [(call.name, call.arguments) for call in whole.tool_calls] == [("f", '{"a": 1}')]
    assert event.finish_reason is FinishReason.TOOL_CALLS
    assert event.usage is not None and event.usage.completion_tokens == len(ids)
    assert num_sent < len(ids) + size


def test_two_calls_may_be_the_limit_too(make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template(f"{FIRST}\n{SECOND}{FIRST}")
    collector, _, _ = run(make(), ids, PostprocessSpec(has_tools=True, max_tool_calls=2))
    assert [call.name for call in collector.whole().tool_calls] == ["f", "g"]


def test_what_only_looks_like_a_call_does_not_end_the_answer(make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template(f"<tool_call>no call</tool_call> and {FIRST} rest")
    collector, _, _ = run(make(), ids, PostprocessSpec(has_tools=True, max_tool_calls=1))
    whole = collector.whole()
    assert whole.content == "<tool_call>no call</tool_call> and "
    assert [call.name for call in whole.tool_calls] == ["f"]


def test_logprobs_of_swallowed_tokens_are_not_reported(make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template(FIRST)
    spec = PostprocessSpec(stream=False, has_tools=True, max_tool_calls=1, return_token_ids=True)
    _, event, _ = run(make(), [*ids, *tokenizer.encode_text(" rest")], spec, size=1000)
    assert event.token_ids == ids


def test_demanded_calls_are_parsed_without_a_configured_parser(make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template(FIRST)
    spec = PostprocessSpec(stream=False, has_tools=True, requires_call=True)
    _, event, _ = run(make(tool_call_parser="none"), ids, spec)
    assert [call.name for call in event.delta.tool_calls] == ["f"]
    assert event.finish_reason is FinishReason.TOOL_CALLS
    spec = PostprocessSpec(stream=False, has_tools=True)
    _, event, _ = run(make(tool_call_parser="none"), ids, spec)
    assert event.delta.content == FIRST


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 12), num_newlines=st.integers(0, 4))
def test_two_newlines_behind_the_thinking_are_layout(
    make, tokenizer: Tokenizer, size: int, num_newlines: int
) -> None:
    ids = tokenizer.encode_template("I think.\n</think>" + "\n" * num_newlines + "a\n\nb")
    spec = PostprocessSpec(prompt_opens_reasoning=True, layout_newlines=2)
    collector, event, _ = run(make(), ids, spec, size)
    whole = collector.whole()
    assert whole.reasoning == "I think.\n"
    assert whole.content == "\n" * max(0, num_newlines - 2) + "a\n\nb"
    assert event.usage is not None
    assert event.usage.reasoning_tokens == len(tokenizer.encode_template("I think.\n</think>"))


def test_without_a_reasoning_parser_nothing_is_taken_away(make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("\n\nI think</think>\n\nyes")
    spec = PostprocessSpec(stream=False, prompt_opens_reasoning=True, layout_newlines=2)
    _, event, _ = run(make(reasoning_parser="none"), ids, spec)
    assert event.delta.content == "\n\nI think</think>\n\nyes"
