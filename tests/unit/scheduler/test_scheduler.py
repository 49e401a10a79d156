import pytest

from backend.errors import ConfigError, ContextLengthError, InternalError, OverloadedError
from tests.unit.scheduler.fakes import (
    FakeRunner,
    make_piece,
    make_request,
    make_scheduler,
    solo_output,
)


def chunks_of(output):
    return [(chunk.request.arrival, chunk.start, chunk.stop) for chunk in output.chunks]


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget():
    scheduler = make_scheduler(max_num_batched_tokens=16)
    scheduler.add(make_request(range(40)))
    runner = FakeRunner(scheduler)
    assert [chunks_of(runner.step()) for _ in range(4)] == [
        [(0, 0, 16)],
        [(0, 16, 32)],
        [(0, 32, 40)],
        [(0, 40, 41)],
    ]


def test_decodes_come_first_and_prefills_share_what_is_left_by_arrival():
    scheduler = make_scheduler(max_num_batched_tokens=16)
    runner = FakeRunner(scheduler)
    scheduler.add(make_request(range(4), arrival=0))
    runner.step()
    scheduler.add(make_request(range(10, 20), arrival=1))
    scheduler.add(make_request(range(30, 50), arrival=2))
    assert chunks_of(runner.step()) == [(0, 4, 5), (1, 0, 10), (2, 0, 5)]
    assert chunks_of(runner.step()) == [(0, 5, 6), (1, 10, 11), (2, 5, 19)]


def test_a_full_batch_of_decodes_leaves_the_earliest_prefill_a_token():
    scheduler = make_scheduler(num_blocks=64, max_num_seqs=4, max_num_batched_tokens=4)
    runner = FakeRunner(scheduler)
    for arrival in range(3):
        scheduler.add(make_request([arrival], max_tokens=40, arrival=arrival))
    scheduler.add(make_request(range(10, 20), arrival=3))
    runner.step()
    for _ in range(9):
        last = chunks_of(runner.step())[-1]
        assert last[0] == 3 and last[2] - last[1] == 1


def test_no_more_than_max_num_seqs_run():
    scheduler = make_scheduler(max_num_seqs=2)
    for arrival in range(3):
        scheduler.add(make_request([1], arrival=arrival))
    assert len(scheduler.schedule().chunks) == 2
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 1)


def test_a_cached_prefix_is_not_computed_again_but_the_last_token_is():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    first = make_request(range(8), arrival=0)
    scheduler.add(first)
    runner.run_until_done()
    same = make_request(range(8), arrival=1)
    longer = make_request(range(10), arrival=2)
    scheduler.add(same)
    scheduler.add(longer)
    output = runner.step()
    assert chunks_of(output) == [(1, 4, 8), (2, 8, 10)]
    assert (first.num_cached_tokens, same.num_cached_tokens, longer.num_cached_tokens) == (0, 4, 8)
    assert scheduler.num_prefix_hit_tokens == 12
    assert scheduler.num_prefix_queried_tokens == 26


def test_running_requests_share_a_prefix_and_own_the_rest():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    scheduler.add(make_request(range(9), max_tokens=9, arrival=0))
    runner.step()
    scheduler.add(make_request([*range(8), 50], max_tokens=9, arrival=1))
    runner.step()
    first, second = (set(r.block_table.block_ids.tolist()) for r in scheduler.running)
    assert len(first & second) == 2
    runner.run_until_done()


def test_generated_tokens_are_reused_by_the_next_turn():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    scheduler.add(make_request(range(6), max_tokens=7, arrival=0))
    runner.run_until_done()
    turn = make_request([*range(6), *solo_output(range(6), 7), 60, 61], arrival=1)
    scheduler.add(turn)
    runner.step()
    assert turn.num_cached_tokens == 12  # 6 + 7 tokens, the last never computed


def test_without_prefix_caching_nothing_is_reused():
    scheduler = make_scheduler(enable_prefix_caching=False)
    runner = FakeRunner(scheduler)
    for arrival in range(2):
        request = make_request(range(12), arrival=arrival)
        scheduler.add(request)
        runner.run_until_done()
        assert request.num_cached_tokens == 0
    assert scheduler.pool.num_cached_blocks == 0


def test_another_picture_behind_the_same_tokens_is_not_reused():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    for arrival, digest in enumerate([b"1" * 32, b"2" * 32, b"1" * 32]):
        request = make_request([7] * 14, arrival=arrival, media=[make_piece(5, 4, digest)])
        scheduler.add(request)
        runner.run_until_done()
        assert request.num_cached_tokens == [0, 4, 12][arrival]


def test_running_out_of_blocks_preempts_the_latest_and_output_stays_the_same():
    scheduler = make_scheduler(num_blocks=8, max_num_waiting=8)
    runner = FakeRunner(scheduler)
    requests = [make_request(range(10 * n, 10 * n + 7), max_tokens=14, arrival=n) for n in range(3)]
    for request in requests:
        scheduler.add(request)
    runner.run_until_done()
    assert scheduler.num_preemptions > 0
    assert requests[0].num_preemptions == 0
    for n, request in enumerate(requests):
        assert request.output_ids == solo_output(range(10 * n, 10 * n + 7), 14)


def test_a_preempted_request_goes_before_those_that_wait():
    scheduler = make_scheduler(num_blocks=6, max_num_seqs=2)
    runner = FakeRunner(scheduler)
    for n in range(3):
        scheduler.add(make_request(range(10 * n, 10 * n + 7), max_tokens=14, arrival=n))
    while not scheduler.num_preemptions:
        output = runner.step()
    assert output.num_preempted == 1
    assert [request.arrival for request in scheduler.waiting] == [1, 2]
    assert [request.arrival for request in scheduler.running] == [0]


def test_a_smaller_priority_overtakes_all_that_wait_and_nothing_that_runs():
    scheduler = make_scheduler(max_num_seqs=1)
    runner = FakeRunner(scheduler)
    for arrival, priority in enumerate([5, 0, 0, -1, 5, -(2**31)]):
        scheduler.add(make_request([arrival], max_tokens=2, arrival=arrival, priority=priority))
        runner.step() if arrival == 0 else None
    ended = []
    while len(scheduler):
        chunks = runner.step().chunks
        ended += [c.request.arrival for c in chunks if c.request not in scheduler.running]
    assert ended == [0, 5, 3, 1, 2, 4]


def test_the_largest_priority_is_preempted_first_however_early_it_came():
    scheduler = make_scheduler(num_blocks=9, max_num_seqs=3)
    runner = FakeRunner(scheduler)
    requests = [
        make_request(range(10 * n, 10 * n + 7), max_tokens=14, arrival=n, priority=priority)
        for n, priority in enumerate([1, 0, 0])
    ]
    for request in requests:
        scheduler.add(request)
        runner.step()
    while not scheduler.num_preemptions:
        runner.step()
    assert [request.arrival for request in scheduler.running] == [1, 2]
    runner.run_until_done()
    assert requests[1].num_preemptions == 0
    for n, request in enumerate(requests):
        assert request.output_ids == solo_output(range(10 * n, 10 * n + 7), 14)


def test_a_prefix_is_shared_among_equal_salts_only():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    found = []
    for arrival, salt in enumerate(["", "a", "b", "a", "", "b"]):
        request = make_request(range(12), arrival=arrival, salt=salt)
        scheduler.add(request)
        runner.run_until_done()
        found.append(request.num_cached_tokens)
    assert found == [0, 0, 0, 8, 8, 8]


def test_a_preempted_request_reuses_its_own_blocks_and_reports_only_its_first_hit():
    scheduler = make_scheduler(num_blocks=12, max_num_seqs=2)
    runner = FakeRunner(scheduler)
    scheduler.add(make_request(range(16), max_tokens=24, arrival=0))
    late = make_request(range(30, 44), max_tokens=14, arrival=1)
    scheduler.add(late)
    while not late.num_preemptions:
        runner.step()
    while late not in scheduler.running:
        output = runner.step()
    assert chunks_of(output)[-1][1] > 0
    assert late.num_cached_tokens == 0


def test_admission_leaves_running_requests_a_block_each_to_grow_into():
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request(range(4), max_tokens=8, arrival=0))
    scheduler.add(make_request(range(10, 22), max_tokens=2, arrival=1))
    FakeRunner(scheduler).step()
    assert len(scheduler.waiting) == 1  # 3 blocks are free, but 3 + 1 are asked for


def test_a_request_that_fits_exactly_runs_alone():
    scheduler = make_scheduler(num_blocks=3)
    request = make_request(range(7), max_tokens=6)  # the 13th token is never computed
    scheduler.add(request)
    FakeRunner(scheduler).run_until_done()
    assert request.output_ids == solo_output(range(7), 6)


def test_a_request_that_can_never_fit_is_refused_with_the_numbers():
    scheduler = make_scheduler(num_blocks=3)
    with pytest.raises(ContextLengthError, match=r"14 tokens need 4 KV blocks .* engine has 3"):
        scheduler.add(make_request(range(8), max_tokens=6))
    assert len(scheduler) == 0


def test_a_full_queue_is_refused_and_says_when_to_come_back():
    scheduler = make_scheduler(max_num_seqs=2, max_num_waiting=1)
    for arrival in range(3):
        scheduler.add(make_request([1], arrival=arrival))
    with pytest.raises(OverloadedError, match="at most 1 may wait") as error:
        scheduler.add(make_request([1], arrival=3))
    assert error.value.retry_after_s == 2.0
    FakeRunner(scheduler).run_until_done()
    scheduler.add(make_request([1], arrival=4))


def test_an_unbounded_queue_refuses_nobody():
    scheduler = make_scheduler(max_num_seqs=1, max_num_waiting=-1)
    for arrival in range(50):
        scheduler.add(make_request([1], arrival=arrival))
    assert len(scheduler) == 50


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 6])
def test_finishing_at_any_point_frees_blocks_at_once(num_steps):
    scheduler = make_scheduler(max_num_batched_tokens=8)
    runner = FakeRunner(scheduler)
    request = make_request(range(20), max_tokens=30)
    scheduler.add(request)
    for _ in range(num_steps):
        runner.step()
    scheduler.finish(request)
    scheduler.check_integrity()
    assert scheduler.pool.num_held_blocks == 0
    assert len(scheduler) == 0


def test_suspect_content_leaves_the_prefix_cache():
    scheduler = make_scheduler()
    runner = FakeRunner(scheduler)
    request = make_request(range(12))
    scheduler.add(request)
    runner.step()
    scheduler.finish(request, keep_cached=False)
    assert scheduler.pool.num_cached_blocks == 0
    scheduler.check_integrity()


@pytest.mark.parametrize(
    "limits, flag",
    [
        ({"max_num_seqs": 0}, "--max-num-seqs is 0"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "--max-num-batched-tokens 8 is below"),
        ({"max_num_waiting": -2}, "--scheduler-max-size is -2"),
    ],
)
def test_impossible_limits_name_their_flag(limits, flag):
    with pytest.raises(ConfigError, match=flag):
        make_scheduler(**limits)


def test_integrity_check_finds_requests_out_of_order():
    scheduler = make_scheduler()
    for arrival in (1, 0):
        scheduler.waiting.append(make_request([1], arrival=arrival))
    with pytest.raises(InternalError, match=r"waiting requests are out of order: \[\(0, 1\)"):
        scheduler.check_integrity()


def test_integrity_check_finds_a_waiting_request_that_holds_blocks():
    scheduler = make_scheduler()
    request = make_request([1])
    scheduler.add(request)
    request.block_table.extend([0])
    with pytest.raises(InternalError, match="waiting requests hold"):
        scheduler.check_integrity()
