from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config.serving import PostprocessorSettings
from backend.errors import InternalError, OverloadedError
from backend.postprocess import Postprocessor
from backend.postprocess.collector import DeltaCollector
from backend.postprocess.postprocessor import IDLE_LIMIT_S
from backend.request import FinishReason, Usage
from backend.tokenizer import Tokenizer
from backend.wire import (
    Delta,
    EngineOutput,
    Event,
    MediaReport,
    PostprocessSpec,
    PreparationReport,
    TokenLogprob,
)

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def postprocessor(models: Path, clock: Clock) -> Postprocessor:
    return Postprocessor(PostprocessorSettings(models / "ERNIE-VL-Thinking"), clock)


def outputs(
    ids: Sequence[int],
    spec: PostprocessSpec,
    sizes: Sequence[int] = (1,),
    finish: FinishReason = FinishReason.STOP,
    **last: Any,
) -> Iterator[EngineOutput]:
    """Outputs as an engine sends them: `sizes` tokens each, in turn; the last ends the stream."""
    rest = list(ids)
    seq = 0
    while len(rest) > (size := sizes[seq % len(sizes)]):
        now, rest = rest[:size], rest[size:]
        yield EngineOutput("key", seq, token_ids=now, post=spec if seq == 0 else None)
        seq += 1
    usage = Usage(prompt_tokens=7, completion_tokens=len(ids) + 1)
    last = {"usage": usage, "stop_token_id": 2, **last}
    yield EngineOutput(
        "key", seq, "id", rest, finish_reason=finish, post=spec if seq == 0 else None, **last
    )


def run(postprocessor: Postprocessor, stream: Iterator[EngineOutput]) -> list[Event]:
    events = [event for output in stream if (event := postprocessor.process(output)) is not None]
    assert [event.seq for event in events] == list(range(len(events)))
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    assert postprocessor.num_open_streams == 0
    return events


def whole(events: list[Event]) -> Delta:
    collector = DeltaCollector()
    for event in events:
        collector.add(event.delta)
    delta = collector.whole()
    for call in delta.tool_calls:
        call.id = None
    return delta


def test_a_streamed_answer(postprocessor: Postprocessor, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("Hm 你😀.\n</think>\n\nSo.")
    events = run(postprocessor, outputs(ids, PostprocessSpec(prompt_opens_reasoning=True)))
    assert all(event.delta for event in events[:-1])
    delta = whole(events)
    assert (delta.reasoning, delta.content) == ("Hm 你😀.\n", "\n\nSo.")
    last = events[-1]
    assert last.finish_reason is FinishReason.STOP
    assert last.stop_reason is None
    end = ids.index(tokenizer.token_id("</think>"))
    assert last.usage == Usage(
        prompt_tokens=7, completion_tokens=len(ids) + 1, reasoning_tokens=end + 1
    )


TEXTS = [
    "Hm.\n</think>\n\nSo 😀.",
    f"Hm.\n</think>\n\n{CALL}{CALL}",
    f"Hm.</think>Look:\n{CALL}Done",
    "never ends <",
    "</think>",
    "",
    "a</think>x STOP y",
    "STO</think>P STOP",
    '</think><tool_call>{"name": "f", "arg',
]


@settings(max_examples=150, deadline=None)
@given(
    text=st.sampled_from(TEXTS) | st.text(max_size=12),
    junk=st.lists(st.integers(3, 300), max_size=4),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    stop=st.sampled_from([(), ("STOP",), ("P S", "</think>"), (" ", "x")]),
    include=st.booleans(),
    opens=st.booleans(),
)
def test_streamed_in_any_way_and_collected_are_the_same(
    models: Path,
    tokenizer: Tokenizer,
    text: str,
    junk: list[int],
    sizes: list[int],
    stop: tuple[str, ...],
    include: bool,
    opens: bool,
) -> None:
    postprocessor = Postprocessor(PostprocessorSettings(models / "ERNIE-VL-Thinking"))
    ids = tokenizer.encode_template(text) + junk

    def answer(stream: bool, sizes: Sequence[int]) -> tuple[Delta, Any, list[int]]:
        spec = PostprocessSpec(
            stream=stream,
            stop=stop,
            include_stop_str_in_output=include,
            prompt_opens_reasoning=opens,
            has_tools=True,
            return_token_ids=True,
        )
        events = run(postprocessor, outputs(ids, spec, sizes))
        assert stream or len(events) == 1
        last = events[-1]
        sent = [i for event in events for i in event.token_ids or []]
        return whole(events), (last.finish_reason, last.stop_reason, last.usage), sent

    one_by_one = answer(True, [1])
    assert answer(True, sizes) == one_by_one
    assert answer(False, sizes) == one_by_one
    assert answer(False, [10**6]) == one_by_one


def test_a_stop_string_ends_the_stream_and_the_engine_is_told(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_template("you are well, how are you? more and more")
    stream = outputs(ids, PostprocessSpec(stop=("well, how",)), finish=FinishReason.ABORT)
    events: list[Event] = []
    num_wanted = 0
    for output in stream:
        if not postprocessor.wants_stop("key"):
            num_wanted += len(output.token_ids)
        event = postprocessor.process(output)
        events += [event] if event else []
    assert whole(events).content == "you are "
    last = events[-1]
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, "well, how")
    assert tokenizer.decode(ids[:num_wanted]).endswith("well, how")
    assert last.usage == Usage(prompt_tokens=7, completion_tokens=num_wanted)
    assert not postprocessor.wants_stop("key")
    assert postprocessor.num_open_streams == 0


def test_the_beginning_of_a_stop_string_at_the_end_is_text(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("how are")
    for stream in (True, False):
        spec = PostprocessSpec(stream=stream, stop=("are you",))
        assert whole(run(postprocessor, outputs(ids, spec))).content == "how are"


def test_an_error_after_a_stop_string_does_not_spoil_the_answer(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    [first, *_] = outputs(tokenizer.encode_text("aXb"), PostprocessSpec(stop=("X",)), [100])
    first.finish_reason = None
    event = postprocessor.process(first)
    assert event is not None and event.delta.content == "a"
    error = InternalError("late").info()
    event = postprocessor.process(EngineOutput("key", 1, error=error))
    assert event is not None and event.error is None
    assert event.finish_reason is FinishReason.STOP


def test_parsed_calls_make_the_finish_reason(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_template(f"</think>\n\n{CALL}")
    spec = PostprocessSpec(prompt_opens_reasoning=True, has_tools=True)
    for finish, expected in (
        (FinishReason.STOP, FinishReason.TOOL_CALLS),
        (FinishReason.LENGTH, FinishReason.LENGTH),
        (FinishReason.ABORT, FinishReason.ABORT),
    ):
        events = run(postprocessor, outputs(ids, spec, finish=finish))
        assert events[-1].finish_reason is expected
        [call] = whole(events).tool_calls
        assert (call.name, call.arguments) == ("f", '{"a": 1}')
        assert whole(events).content == ""


def test_a_collected_answer_is_one_event_with_whole_calls(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_template(f"Hm.</think>{CALL}{CALL}")
    spec = PostprocessSpec(stream=False, prompt_opens_reasoning=True, has_tools=True)
    [event] = run(postprocessor, outputs(ids, spec, [3]))
    assert event.delta.reasoning == "Hm."
    assert [(c.index, c.name, c.arguments) for c in event.delta.tool_calls] == [
        (0, "f", '{"a": 1}'),
        (1, "f", '{"a": 1}'),
    ]
    assert all(call.id for call in event.delta.tool_calls)


def test_reasoning_that_never_ends_counts_every_token(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("how are you")
    spec = PostprocessSpec(prompt_opens_reasoning=True)
    events = run(postprocessor, outputs(ids, spec, finish=FinishReason.LENGTH))
    assert events[-1].usage is not None
    assert events[-1].usage.reasoning_tokens == len(ids)


def test_tags_that_are_no_tokens_are_counted_by_the_token_that_completes_them(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    before = tokenizer.encode_text("Hm</think>")
    ids = before + tokenizer.encode_text("So.")
    events = run(postprocessor, outputs(ids, PostprocessSpec(prompt_opens_reasoning=True)))
    assert whole(events).content == "So."
    assert events[-1].usage is not None
    assert events[-1].usage.reasoning_tokens == len(before)


def test_completions_are_not_parsed_and_may_echo_the_prompt(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_template(f"a</think>{CALL}")
    for stream in (True, False):
        spec = PostprocessSpec(stream=stream, parse_output=False, has_tools=True, echo_text="Once ")
        events = run(postprocessor, outputs(ids, spec))
        assert whole(events) == Delta("", f"Once a</think>{CALL}")
        assert events[-1].finish_reason is FinishReason.STOP
        assert events[-1].usage is not None
        assert events[-1].usage.reasoning_tokens == 0


def test_special_tokens_are_hidden_or_shown_as_asked(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_template("<think>a</think>b<|im_end|>")
    for skip, content in ((True, "b"), (False, "b<|im_end|>")):
        events = run(postprocessor, outputs(ids, PostprocessSpec(skip_special_tokens=skip)))
        assert (whole(events).reasoning, whole(events).content) == ("a", content)


def test_token_ids_and_logprobs_of_held_back_text_are_not_lost(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = [*tokenizer.encode_text("a😀"), 2]
    spec = PostprocessSpec(return_token_ids=True, prompt_token_ids=(5, 6))
    stream = list(outputs(ids, spec))
    for output in stream:
        output.logprobs = [TokenLogprob(i, -0.5, ((i, -0.5), (2, -1.5))) for i in output.token_ids]
    events = run(postprocessor, iter(stream))
    assert [event.delta.content for event in events] == ["a", "😀", ""]
    assert [event.token_ids for event in events] == [ids[:1], ids[1:5], ids[5:]]
    assert [event.prompt_token_ids for event in events] == [[5, 6], None, None]
    logprobs = [item for event in events for item in event.logprobs or []]
    assert [item.token_id for item in logprobs] == ids
    assert (logprobs[0].token, logprobs[0].bytes) == ("a", (97,))
    assert (logprobs[1].token, logprobs[1].bytes) == ("\ufffd", (0xF0,))
    assert logprobs[0].top[1].token == "</s>"
    assert logprobs[0].top[1].logprob == -1.5


@pytest.mark.parametrize("stream", [True, False])
def test_the_preprocessors_report_goes_with_the_first_event(
    postprocessor: Postprocessor, tokenizer: Tokenizer, stream: bool
) -> None:
    report = PreparationReport(0.5, (MediaReport("image", 10, 784, 1, decode_s=0.1),))
    spec = PostprocessSpec(stream=stream, report=report)
    events = run(postprocessor, outputs(tokenizer.encode_text("abc"), spec))
    assert [event.report for event in events] == [report, *([None] * (len(events) - 1))]
    assert len(events) > 1 if stream else len(events) == 1


def test_no_token_ids_unless_asked_for(postprocessor: Postprocessor, tokenizer: Tokenizer) -> None:
    for event in run(postprocessor, outputs(tokenizer.encode_text("ab"), PostprocessSpec())):
        assert event.token_ids is event.prompt_token_ids is event.logprobs is None


def test_a_stop_token_of_the_request_is_the_stop_reason_and_eos_is_not(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("a")
    for token_id, reason in ((2, None), (1022, None), (300, 300), (None, None)):
        events = run(postprocessor, outputs(ids, PostprocessSpec(), stop_token_id=token_id))
        assert events[-1].stop_reason == reason


def test_an_answer_without_tokens_has_one_event(postprocessor: Postprocessor) -> None:
    [event] = run(postprocessor, outputs([], PostprocessSpec(prompt_opens_reasoning=True)))
    assert not event.delta
    assert event.finish_reason is FinishReason.STOP


def test_a_failure_before_the_first_token_passes_through(postprocessor: Postprocessor) -> None:
    error = OverloadedError("full", retry_after_s=1.0).info()
    for spec in (None, PostprocessSpec(stream=False)):
        event = postprocessor.process(EngineOutput("key", 0, error=error, post=spec))
        assert event == Event(seq=0, error=error)
        assert postprocessor.num_open_streams == 0


def test_a_failure_in_the_middle_ends_the_stream(
    postprocessor: Postprocessor, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("ab")
    postprocessor.process(EngineOutput("key", 0, token_ids=ids, post=PostprocessSpec()))
    error = InternalError("broken").info()
    assert postprocessor.process(EngineOutput("key", 1, error=error)) == Event(1, error=error)
    assert postprocessor.num_open_streams == 0


def test_a_stream_without_its_beginning_is_one_error(postprocessor: Postprocessor) -> None:
    event = postprocessor.process(EngineOutput("key", 3, "the-id", [5]))
    assert event is not None and event.error is not None
    assert event.error.status == 500
    assert "'the-id'" in event.error.message
    assert postprocessor.wants_stop("key")
    assert postprocessor.process(EngineOutput("key", 4, "the-id", [5])) is None
    last = EngineOutput("key", 5, "the-id", finish_reason=FinishReason.ABORT)
    assert postprocessor.process(last) is None
    assert postprocessor.num_open_streams == 0


def test_streams_do_not_mix(postprocessor: Postprocessor, tokenizer: Tokenizer) -> None:
    for key in "ab":
        first = EngineOutput(
            key, 0, token_ids=tokenizer.encode_text(key), post=PostprocessSpec(stop=("X",))
        )
        event = postprocessor.process(first)
        assert event is not None and event.delta.content == key
    postprocessor.process(EngineOutput("a", 1, token_ids=tokenizer.encode_text("X")))
    assert postprocessor.wants_stop("a")
    assert not postprocessor.wants_stop("b")
    assert not postprocessor.wants_stop("never seen")
    assert postprocessor.num_open_streams == 2


def test_streams_idle_for_long_are_dropped(
    postprocessor: Postprocessor, clock: Clock, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode_text("a")
    for key in ("old", "new"):
        postprocessor.process(EngineOutput(key, 0, token_ids=ids, post=PostprocessSpec()))
    clock.now_s = IDLE_LIMIT_S - 1
    postprocessor.process(EngineOutput("new", 1, token_ids=ids))
    assert postprocessor.num_open_streams == 2
    clock.now_s += 100
    postprocessor.process(EngineOutput("new", 2, token_ids=ids))
    assert postprocessor.num_open_streams == 1
