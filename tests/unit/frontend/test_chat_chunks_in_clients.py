"""The official client's own accumulator reads the chunks, however the engine packed the deltas."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from backend.request import FinishReason, Usage
from backend.wire import Delta, Event, ToolCallDelta
from openai_frontend.protocol.answer import Answer
from openai_frontend.protocol.chat import ChatFormat
from openai_frontend.protocol.formats import ReplyHead

DELTAS = (
    ToolCallDelta(0, "call-0", "f", ""),
    ToolCallDelta(0, arguments='{"a": '),
    ToolCallDelta(0, arguments='"b"}'),
    ToolCallDelta(1, "call-1", "g", ""),
    ToolCallDelta(1, arguments="{}"),
)
DONE = "tool_calls.function.arguments.done"


def packed(borders: set[int], is_last_with_reason: bool) -> list[Event]:
    """DELTAS cut at `borders`, and the finish in the last of these events or in one of its own."""
    cuts = [0, *sorted(borders), len(DELTAS)]
    events = [
        Event(seq=seq, delta=Delta(tool_calls=list(DELTAS[start:end])))
        for seq, (start, end) in enumerate(pairwise(cuts))
    ]
    if not is_last_with_reason:
        events.append(Event(seq=len(events)))
    events[-1].finish_reason = FinishReason.TOOL_CALLS
    events[-1].usage = Usage(prompt_tokens=4, completion_tokens=9)
    return events


def chunks_of(events: list[Event]) -> list[dict]:
    form = ChatFormat(ReplyHead("chatcmpl-1", "m", 0))
    answer = Answer()
    sent = b""
    for event in events:
        answer.track(event)
        sent += form.chunk(0, event, [answer], 0.0)
    return [json.loads(line.removeprefix("data: ")) for line in sent.decode().split("\n\n") if line]


@given(st.sets(st.integers(1, len(DELTAS) - 1)), st.booleans())
def test_every_call_is_told_to_be_done_and_is_whole(borders, is_last_with_reason):
    state = ChatCompletionStreamState()
    done = []
    for chunk in chunks_of(packed(borders, is_last_with_reason)):
        read = ChatCompletionChunk.model_validate(chunk)
        done += [event for event in state.handle_chunk(read) if event.type == DONE]
    assert [(event.index, event.name, event.arguments) for event in done] == [
        (0, "f", '{"a": "b"}'),
        (1, "g", "{}"),
    ]
    (choice,) = state.get_final_completion().choices
    assert [call.id for call in choice.message.tool_calls] == ["call-0", "call-1"]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("is_last_with_reason", [False, True])
def test_the_reason_has_a_chunk_of_its_own_and_a_call_one_entry_in_a_chunk(is_last_with_reason):
    _, calls, end = chunks_of(packed(set(), is_last_with_reason))
    assert calls["choices"][0]["finish_reason"] is None
    assert calls["choices"][0]["delta"]["tool_calls"] == [
        {
            "index": 0,
            "type": "function",
            "id": "call-0",
            "function": {"name": "f", "arguments": '{"a": "b"}'},
        },
        {
            "index": 1,
            "type": "function",
            "id": "call-1",
            "function": {"name": "g", "arguments": "{}"},
        },
    ]
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert end["choices"][0]["delta"] == {
        "content": "",
        "reasoning_content": "",
        "tool_calls": None,
    }
