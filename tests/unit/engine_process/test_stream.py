from hypothesis import given
from hypothesis import strategies as st

from backend.engine.stream import Stream, aborted_output, error_output, merge
from backend.errors import ErrorInfo
from backend.request import FinishReason, Usage
from backend.wire import EngineOutput, EngineRequest, PostprocessSpec, TokenLogprob


def make_outputs(token_ids, with_logprobs=False):
    """One output per token; the last one ends the stream."""
    outputs = [
        EngineOutput(
            stream_key="k",
            seq=0,
            token_ids=[token_id],
            logprobs=[TokenLogprob(token_id, -1.0)] if with_logprobs else None,
        )
        for token_id in token_ids
    ]
    outputs[-1].finish_reason = FinishReason.STOP
    outputs[-1].stop_token_id = 2
    outputs[-1].usage = Usage(prompt_tokens=3, completion_tokens=len(token_ids))
    return outputs


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=30),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.booleans(),
)
def test_however_outputs_merge_the_stream_is_the_same(token_ids, sends, with_logprobs):
    stream = Stream(EngineRequest(stream_key="k", request_id="id", post=PostprocessSpec()), None)
    sent = []
    for output, send in zip(make_outputs(token_ids, with_logprobs), sends, strict=False):
        stream.add(output)
        if send or output.is_last:
            sent.append(stream.take())
    assert [token for output in sent for token in output.token_ids] == token_ids
    assert [output.seq for output in sent] == list(range(len(sent)))
    assert [output.is_last for output in sent] == [False] * (len(sent) - 1) + [True]
    assert sent[-1].usage == Usage(prompt_tokens=3, completion_tokens=len(token_ids))
    assert sent[-1].stop_token_id == 2
    assert (sent[0].request_id, sent[0].post) == ("id", PostprocessSpec())
    assert all((output.request_id, output.post) == ("", None) for output in sent[1:])
    if with_logprobs:
        ids = [entry.token_id for output in sent for entry in output.logprobs]
        assert ids == token_ids


def test_an_error_keeps_the_tokens_before_it():
    first = EngineOutput(stream_key="k", seq=0, token_ids=[1, 2])
    info = ErrorInfo(status=503, type="server_error", code="engine_restarting", message="m")
    merge(first, error_output("k", info))
    assert (first.token_ids, first.error, first.is_last) == ([1, 2], info, True)


def test_a_collected_stream_is_sendable_only_when_complete():
    stream = Stream(EngineRequest(collect=True), None)
    assert not stream.is_sendable
    for output in make_outputs([1, 2, 3]):
        stream.add(output)
        assert stream.is_sendable == output.is_last
    assert stream.take().token_ids == [1, 2, 3]


def test_triton_is_not_asked_about_a_request_it_has_forgotten(responder):
    stream = Stream(EngineRequest(stream_key="k"), responder)
    responder.cancelled = True
    assert stream.is_cancelled()
    stream.send(make_outputs([1])[0])
    assert not stream.is_cancelled()
    assert responder.num_asked == 1


def test_a_stream_stopped_before_it_began_ends_with_abort():
    output = aborted_output("k", 7)
    assert output.finish_reason is FinishReason.ABORT
    assert output.usage == Usage(prompt_tokens=7)
