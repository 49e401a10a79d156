import numpy as np
import pytest

from backend.errors import (
    ConfigError,
    ContextLengthError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestTooLargeError,
)
from backend.request import FinishReason
from tests.unit.engine import fake_model as fake
from tests.unit.engine.requests import (
    Prompt,
    Streams,
    ids_of,
    make_core,
    make_request,
    picture,
    run_one,
)

pytestmark = pytest.mark.usefixtures("each_runner")


def ends_with_eos():
    """A prompt whose greedy answer meets EOS after a few tokens."""
    for first in range(3, 80):
        tokens = fake.answer([first, 5], 40)
        if tokens[-1] == fake.EOS_ID and 3 <= len(tokens) <= 12:
            return [first, 5], tokens
    raise AssertionError("no such prompt")


def test_the_first_token_is_the_one_computed_by_hand():
    tokens, last = run_one([5, 7], max_tokens=1)
    assert tokens == [23]
    assert last.finish_reason is FinishReason.LENGTH


def test_an_answer_ends_with_the_stop_token_counted_and_not_shown():
    prompt, expected = ends_with_eos()
    tokens, last = run_one(prompt, max_tokens=50)
    assert tokens == expected[:-1]
    assert (last.finish_reason, last.stop_token_id) == (FinishReason.STOP, fake.EOS_ID)
    assert last.token_ids == []
    assert last.usage.completion_tokens == len(expected)
    assert last.usage.prompt_tokens == 2


def test_a_stop_token_as_the_last_allowed_one_is_a_stop():
    prompt, expected = ends_with_eos()
    tokens, last = run_one(prompt, max_tokens=len(expected))
    assert last.finish_reason is FinishReason.STOP
    tokens, last = run_one(prompt, max_tokens=len(expected) - 1)
    assert last.finish_reason is FinishReason.LENGTH
    assert tokens == expected[:-1]
    assert last.stop_token_id is None


def test_ignore_eos_goes_on_past_it():
    prompt, expected = ends_with_eos()
    tokens, last = run_one(prompt, max_tokens=len(expected) + 3, ignore_eos=True)
    assert tokens[: len(expected)] == expected
    assert (len(tokens), last.finish_reason) == (len(expected) + 3, FinishReason.LENGTH)


def test_stop_token_ids_end_an_answer_even_when_eos_is_ignored():
    prompt, expected = ends_with_eos()
    tokens, last = run_one(prompt, max_tokens=50, stop_token_ids=(expected[1],), ignore_eos=True)
    assert tokens == expected[:1]
    assert last.stop_token_id == expected[1]


def test_min_tokens_keeps_stop_tokens_away():
    prompt, expected = ends_with_eos()
    tokens, last = run_one(prompt, max_tokens=len(expected) + 4, min_tokens=len(expected))
    assert tokens[: len(expected) - 1] == expected[:-1]
    assert fake.EOS_ID not in tokens[: len(expected)]
    assert last.usage.completion_tokens >= len(expected)


def test_max_tokens_defaults_to_the_room_behind_the_prompt():
    core = make_core(max_model_len=20, max_num_batched_tokens=32)
    tokens, last = run_one([5] * 15, core, ignore_eos=True)
    assert (len(tokens), last.finish_reason) == (5, FinishReason.LENGTH)


def test_max_tokens_beyond_the_context_is_cut_to_it():
    tokens, last = run_one([5] * 15, make_core(max_model_len=20), max_tokens=99, ignore_eos=True)
    assert (len(tokens), last.finish_reason) == (5, FinishReason.LENGTH)


def test_a_prompt_of_all_but_one_token_of_the_context_gets_one_token():
    core = make_core(max_model_len=20, num_kv_blocks=5)
    tokens, last = run_one([5] * 19, core, ignore_eos=True)
    assert (len(tokens), last.finish_reason) == (1, FinishReason.LENGTH)


def test_a_prompt_as_long_as_the_context_is_refused_with_the_numbers():
    core = make_core(max_model_len=20)
    with pytest.raises(ContextLengthError, match=r"20 tokens; the context of 20 .* prompt of 19"):
        core.add(make_request(), ids_of([5] * 20), None, None)
    assert not core.has_work()


def test_logprobs_come_with_their_tokens():
    core = make_core()
    streams = Streams(core)
    streams.add("a", [5, 7], max_tokens=3, logprobs=2, ignore_eos=True)
    streams.run()
    logprobs = [entry for output in streams.outputs["a"] for entry in output.logprobs]
    assert [entry.token_id for entry in logprobs] == streams.tokens("a")
    # One logit of 10 against 100 of 0.
    assert logprobs[0].logprob == pytest.approx(10 - np.log(np.exp(10) + 100), abs=1e-5)
    assert logprobs[0].top[0] == (23, logprobs[0].logprob)


def test_outputs_are_left_for_the_sender_to_number():
    streams = Streams(make_core())
    streams.add("a", [5, 7], max_tokens=3, ignore_eos=True)
    streams.run()
    assert {output.seq for output in streams.outputs["a"]} == {0}
    assert [output.usage is not None for output in streams.outputs["a"]] == [False, False, True]


def test_many_requests_at_once_get_what_each_gets_alone():
    streams = Streams(make_core())
    prompts = {f"r{n}": [3 + n, 50, n] * (1 + n % 5) for n in range(12)}
    for key, prompt in prompts.items():
        streams.add(key, prompt, max_tokens=6, ignore_eos=True)
    streams.run()
    for key, prompt in prompts.items():
        assert streams.tokens(key) == fake.answer(prompt, 6, stop_ids=())


def test_seeded_requests_get_the_same_tokens_alone_and_in_a_crowd():
    settings = {"temperature": 5.0, "seed": 7, "max_tokens": 12, "ignore_eos": True}
    alone, _ = run_one([5, 7], **settings)
    streams = Streams(make_core(num_kv_blocks=12, max_model_len=40))
    for n in range(6):
        streams.add(f"other{n}", [n + 3] * 9, temperature=5.0, max_tokens=20, ignore_eos=True)
    streams.add("a", [5, 7], **settings)
    streams.run()
    assert streams.tokens("a") == alone
    assert streams.core.stats()["preemptions_total"] > 0


def test_a_preempted_request_recomputes_its_output_in_chunks_and_goes_on():
    core = make_core(
        num_kv_blocks=12,
        max_model_len=44,
        max_num_seqs=3,
        max_num_batched_tokens=5,
        enable_prefix_caching=False,
    )
    streams = Streams(core)
    for n in range(3):
        streams.add(str(n), [5 + n, 7], max_tokens=36, ignore_eos=True)
    streams.run()
    assert core.stats()["preemptions_total"] > 0
    for n in range(3):
        assert streams.tokens(str(n)) == fake.answer([5 + n, 7], 36, stop_ids=())


def test_requests_without_a_seed_differ_by_stream_and_engine_seed():
    def sample(key, **settings):
        streams = Streams(make_core(**settings))
        streams.add(key, [5, 7], temperature=9.0, max_tokens=20, ignore_eos=True)
        return streams.run().tokens(key)

    assert sample("a") == sample("a")
    assert sample("a") != sample("b")
    assert sample("a") != sample("a", seed=1)


def test_a_cached_prompt_is_reported_and_answers_the_same():
    core = make_core()
    prompt = list(range(3, 23))
    first, last = run_one(prompt, core, max_tokens=4, ignore_eos=True)
    assert last.usage.cached_tokens == 0
    second, last = run_one(prompt, core, max_tokens=4, ignore_eos=True)
    assert (second, last.usage.cached_tokens) == (first, 16)
    assert core.stats()["cached_tokens_total"] == 16


def test_another_salt_finds_nothing_cached_and_answers_the_same():
    core = make_core()
    prompt = [*range(20, 37)]
    answers = [run_one(prompt, core, max_tokens=5, cache_salt=salt) for salt in "xyx"]
    assert [last.usage.cached_tokens for _, last in answers] == [0, 0, 16]
    assert answers[0][0] == answers[1][0] == answers[2][0]


def test_times_follow_one_another_and_count_the_wait_for_a_seat():
    streams = Streams(make_core(max_num_seqs=1))
    for key in ("first", "second"):
        streams.add(key, [5, 7], max_tokens=3, ignore_eos=True)
    streams.run()
    first, second = (streams.last(key).usage.times for key in ("first", "second"))
    for times in (first, second):
        assert min(times.queue_s, times.prefill_s, times.decode_s) > 0
    rounding = 3e-6
    assert second.queue_s >= first.prefill_s + first.decode_s - rounding
    assert first.queue_s < second.queue_s


def test_a_stream_that_got_no_token_has_no_times():
    streams = Streams(make_core(max_num_batched_tokens=4))
    streams.add("a", [*range(20, 40)])
    streams.step()
    streams.core.stop_stream("a")
    streams.run()
    assert streams.last("a").usage.times is None


def test_a_smaller_priority_is_answered_before_those_that_wait():
    streams = Streams(make_core(max_num_seqs=1))
    for key, priority in (("runs", 0), ("waits", 0), ("patient", 3), ("urgent", -3)):
        streams.add(key, [5, 7], max_tokens=3, ignore_eos=True, priority=priority)
        if key == "runs":
            streams.step()
    streams.run()
    assert list(streams.outputs) == ["runs", "urgent", "waits", "patient"]


@pytest.mark.parametrize("num_steps", range(6))
def test_a_stopped_stream_frees_its_blocks_at_once_and_gets_its_last_output(num_steps):
    core = make_core(max_num_batched_tokens=4)
    streams = Streams(core)
    streams.add("a", [5] * 10, max_tokens=50, ignore_eos=True)
    for _ in range(num_steps):
        streams.step()
    assert core.stop_stream("a")
    assert core.stats()["kv_blocks_held"] == 0
    assert core.has_work()
    streams.run()
    last = streams.last("a")
    assert last.finish_reason is FinishReason.ABORT
    assert last.usage.prompt_tokens == 10
    assert last.usage.completion_tokens == len(streams.tokens("a"))


def test_stopping_by_request_id_ends_all_its_streams_and_no_other():
    core = make_core()
    streams = Streams(core)
    streams.add("a", [5], request_id="same", max_tokens=9, ignore_eos=True)
    streams.add("b", [6], request_id="same", max_tokens=9, ignore_eos=True)
    streams.add("c", [7], request_id="other", max_tokens=9, ignore_eos=True)
    streams.step()
    assert core.stop("same") == 2
    streams.run()
    assert [streams.last(key).finish_reason for key in "abc"] == [
        FinishReason.ABORT,
        FinishReason.ABORT,
        FinishReason.LENGTH,
    ]


def test_stopping_twice_after_the_end_or_what_never_was_has_no_effect():
    core = make_core()
    streams = Streams(core)
    streams.add("a", [5], max_tokens=2, ignore_eos=True)
    assert core.stop_stream("a")
    assert not core.stop_stream("a")
    assert core.stop("id-a") == core.stop("unknown") == 0
    streams.run()
    streams.add("b", [5], max_tokens=2, ignore_eos=True)
    streams.run()
    assert not core.stop_stream("b")
    assert len(streams.outputs["a"]) == 1


def test_a_stream_key_in_use_is_refused_and_its_owner_goes_on():
    streams = Streams(make_core())
    streams.add("a", [5, 7], max_tokens=3, ignore_eos=True)
    with pytest.raises(InvalidRequestError, match="'a' is in use"):
        streams.add("a", [5, 7])
    assert streams.run().tokens("a") == fake.answer([5, 7], 3, stop_ids=())
    streams.outputs.clear()
    streams.add("a", [5, 7], max_tokens=3, ignore_eos=True)  # free again
    assert len(streams.run().tokens("a")) == 3


def test_a_burst_beyond_the_queue_is_refused_and_the_rest_is_served():
    streams = Streams(make_core(max_num_seqs=2, max_num_waiting=3))
    num_refused = 0
    for n in range(50):
        try:
            streams.add(f"r{n}", [5, n], max_tokens=3, ignore_eos=True)
        except OverloadedError as error:
            assert error.retry_after_s == 3.0
            num_refused += 1
    assert num_refused == 45
    streams.run()
    for n in range(5):
        assert streams.tokens(f"r{n}") == fake.answer([5, n], 3, stop_ids=())


def test_nan_logits_fail_their_request_alone_and_leave_nothing_behind():
    core = make_core(num_kv_blocks=24, max_model_len=48)
    streams = Streams(core)
    streams.add("good", [5, 7], max_tokens=20, ignore_eos=True)
    streams.step()
    streams.add("bad", [*range(3, 16), fake.NAN_ID], max_tokens=20)
    streams.add("short", [9], max_tokens=2, ignore_eos=True)
    streams.run()
    assert streams.last("bad").error.code == "numerical_error"
    assert streams.last("bad").error.status == 500
    assert streams.last("bad").usage.prompt_tokens == 14
    assert streams.tokens("good") == fake.answer([5, 7], 20, stop_ids=())
    assert streams.tokens("short") == fake.answer([9], 2, stop_ids=())
    # Its blocks serve others now, which read the slots behind their own tokens too.
    for n in range(8):
        key = f"later{n}"
        streams.add(key, [n + 3] * 9, max_tokens=12, ignore_eos=True)
        assert streams.run().tokens(key) == fake.answer([n + 3] * 9, 12, stop_ids=())
    # Nor does the prefix cache remember what led to it.
    streams.add("again", [*range(3, 16), 17], max_tokens=2, ignore_eos=True)
    assert streams.run().last("again").usage.cached_tokens == 0


def test_nan_does_not_reach_a_neighbour_through_the_padding_of_its_block_table():
    streams = Streams(make_core())
    streams.add("bad", [fake.NAN_ID], max_tokens=2)
    streams.add("long", [5] * 9, max_tokens=3, ignore_eos=True)
    streams.add("short", [7], max_tokens=3, ignore_eos=True)
    streams.run()
    assert streams.last("bad").error.code == "numerical_error"
    assert streams.tokens("long") == fake.answer([5] * 9, 3, stop_ids=())
    assert streams.tokens("short") == fake.answer([7], 3, stop_ids=())


class UnmendableModel(fake.FakeModel):
    """Fails when it is to fill blocks: batches of token 0 alone."""

    def forward(self, batch, kv_cache):
        if not np.any(batch.token_ids):
            raise RuntimeError("device lost")
        return super().forward(batch, kv_cache)


def test_blocks_with_nan_that_cannot_be_overwritten_end_the_engine():
    core = make_core(UnmendableModel())
    streams = Streams(core)
    streams.add("good", [5, 7], max_tokens=20, ignore_eos=True)
    streams.add("bad", [fake.NAN_ID], max_tokens=2)
    with pytest.raises(InternalError, match="1 KV blocks that may hold NaN"):
        streams.run()


def test_a_failing_forward_pass_fails_its_batch_and_the_engine_goes_on():
    core = make_core()
    streams = Streams(core)
    streams.add("first", [5, 7], max_tokens=5)
    streams.add("crash", [fake.CRASH_ID], max_tokens=5)
    streams.run()
    for key in ("first", "crash"):
        error = streams.last(key).error
        assert (error.status, error.code) == (500, "internal_error")
        assert "0x" not in error.message
    assert core.stats()["requests_failed_total"] == 2
    tokens, _ = run_one([5, 7], core, max_tokens=5, ignore_eos=True)
    assert tokens == fake.answer([5, 7], 5, stop_ids=())


def test_a_picture_that_cannot_be_encoded_fails_its_request_alone():
    streams = Streams(make_core())
    grid, rows = picture(2, 4)
    rows[0, 0] = fake.BAD_PIXEL
    streams.add("good", [5, 7], max_tokens=5, ignore_eos=True)
    streams.add("bad", Prompt(5, (grid, rows), 6), max_tokens=5)
    streams.run()
    assert streams.last("bad").error.message == "a picture or video could not be encoded"
    assert streams.tokens("good") == fake.answer([5, 7], 5, stop_ids=())


def test_accounts_close_after_every_kind_of_end():
    core = make_core()
    streams = Streams(core)
    streams.add("done", [5], max_tokens=2, ignore_eos=True)
    streams.add("nan", [fake.NAN_ID], max_tokens=2)
    streams.add("stopped", Prompt(5, picture(2, 2)), max_tokens=9, ignore_eos=True)
    core.stop_stream("stopped")
    streams.run()
    stats = core.stats()
    assert stats["requests_added_total"] == 3
    assert (
        stats["requests_finished_total"],
        stats["requests_aborted_total"],
        stats["requests_failed_total"],
    ) == (1, 1, 1)
    assert stats["running"] == stats["waiting"] == stats["kv_blocks_held"] == 0
    assert stats["pixel_bytes"] == 0
    assert stats["kv_blocks_free"] + stats["kv_blocks_cached"] == stats["kv_blocks_total"]


def test_integrity_check_finds_a_block_that_nobody_owns():
    core = make_core()
    core._pool.allocate(1)
    with pytest.raises(InternalError, match="wrong reference count"):
        core.check_integrity()


def test_stats_are_flat_and_count_tokens():
    core = make_core()
    run_one([5, 7], core, max_tokens=5, ignore_eos=True)
    stats = core.stats()
    assert all(isinstance(value, (int, float, str)) for value in stats.values())
    assert (stats["prompt_tokens_total"], stats["generation_tokens_total"]) == (2, 5)
    assert stats["max_model_len"] == 128


def test_pixels_beyond_the_memory_bound_are_refused():
    row_bytes = fake.PATCH_DIM
    core = make_core(media_memory_gib=40 * row_bytes / 2**30)
    streams = Streams(core)
    with pytest.raises(RequestTooLargeError, match=f"has room for {40 * row_bytes}"):
        streams.add("huge", Prompt(picture(4, 12)))
    streams.add("a", Prompt(picture(4, 8)), max_tokens=2, ignore_eos=True)
    with pytest.raises(OverloadedError, match="pixels do not fit"):
        streams.add("b", Prompt(picture(4, 4)), max_tokens=2)
    streams.run()
    streams.add("b", Prompt(picture(4, 4)), max_tokens=2, ignore_eos=True)
    streams.run()


def test_a_cache_that_cannot_hold_one_request_names_the_flags():
    with pytest.raises(ConfigError, match=r"--max-model-len 128 does not fit.*--kv-cache-gib"):
        make_core(num_kv_blocks=31)
