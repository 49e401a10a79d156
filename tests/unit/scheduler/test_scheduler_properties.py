"""Random lives of random requests: nothing is lost, wrongly shared, starved or over budget."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backend.errors import ContextLengthError, OverloadedError
from tests.unit.scheduler.fakes import (
    BLOCK_SIZE,
    FakeRunner,
    make_piece,
    make_request,
    make_scheduler,
    solo_output,
)

MAX_NUM_WAITING = 4
LENGTHS = (1, 3, 4, 5, 8, 12, 15, 16, 21)
# Offset and content; two prompts of one family are then equal up to, not in, their first picture.
PICTURES = (None, None, (0, b"1" * 32), (0, b"2" * 32), (1, b"1" * 32), (6, b"1" * 32))


PRIORITIES = (0, 0, 0, -1, 1, 2**31 - 1)


def rank(request):
    return request.priority, request.arrival


class Life:
    """A scheduler, a runner, and all requests that ever came."""

    def __init__(self, num_blocks, max_num_seqs, spare_budget, caching):
        self.scheduler = make_scheduler(
            num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_seqs + spare_budget,
            max_num_waiting=MAX_NUM_WAITING,
            enable_prefix_caching=caching,
        )
        self.runner = FakeRunner(self.scheduler)
        self.requests = []
        self.aborted = set()

    @property
    def live(self):
        return [*self.scheduler.running, *self.scheduler.waiting]

    def add(self, family, length, max_tokens, picture, priority):
        media = []
        if picture is not None and picture[0] + 4 <= length:
            media = [make_piece(picture[0], 4, picture[1])]
        prompt = [family * 50 + n for n in range(length)]
        request = make_request(prompt, max_tokens, len(self.requests), media, priority)
        num_blocks_needed = -(-(length + max_tokens - 1) // BLOCK_SIZE)
        try:
            self.scheduler.add(request)
        except ContextLengthError:
            assert num_blocks_needed > self.scheduler.pool.num_blocks
        except OverloadedError:
            assert len(self.live) >= self.scheduler.limits.max_num_seqs + MAX_NUM_WAITING
        else:
            assert num_blocks_needed <= self.scheduler.pool.num_blocks
            self.requests.append(request)

    def step(self):
        scheduler = self.scheduler
        seated, queue = list(scheduler.running), list(scheduler.waiting)
        first = min(seated or queue, key=rank)
        num_preemptions = {request: request.num_preemptions for request in seated}
        output = self.runner.step()
        limits = self.scheduler.limits
        assert 1 <= output.num_tokens <= limits.max_num_batched_tokens
        assert len(output.chunks) <= limits.max_num_seqs
        assert all(chunk.num_tokens > 0 for chunk in output.chunks)
        assert any(chunk.request is first for chunk in output.chunks), "no progress"
        preempted = [r for r in seated if r.num_preemptions > num_preemptions[r]]
        assert len(preempted) == output.num_preempted
        assert preempted == sorted(seated, key=rank)[len(seated) - len(preempted) :]
        admitted = [chunk.request for chunk in output.chunks if chunk.request in queue]
        assert admitted == sorted(queue, key=rank)[: len(admitted)], "somebody was overtaken"
        assert not (preempted and admitted)

    def abort(self, request):
        self.scheduler.finish(request)
        self.aborted.add(request)
        assert len(request.block_table) == 0

    def end(self):
        self.runner.run_until_done()
        self.scheduler.check_integrity()
        pool = self.scheduler.pool
        assert pool.num_held_blocks == 0
        assert pool.num_free_blocks == pool.num_blocks
        for request in self.requests:
            if request not in self.aborted:
                assert request.output_ids == solo_output(request.prompt_ids, request.max_tokens)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(4, 14),
        max_num_seqs=st.integers(1, 5),
        spare_budget=st.integers(0, 12),
        caching=st.booleans(),
    )
    def start(self, **kwargs):
        self.life = Life(**kwargs)

    @rule(
        family=st.integers(0, 1),
        length=st.sampled_from(LENGTHS),
        max_tokens=st.integers(1, 12),
        picture=st.sampled_from(PICTURES),
        priority=st.sampled_from(PRIORITIES),
    )
    def add(self, **kwargs):
        self.life.add(**kwargs)

    @precondition(lambda self: self.life.live)
    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            if self.life.live:
                self.life.step()

    @precondition(lambda self: self.life.live)
    @rule(data=st.data())
    def abort(self, data):
        index = data.draw(st.integers(0, len(self.life.live) - 1), label="which")
        self.life.abort(self.life.live[index])

    @invariant()
    def everything_adds_up(self):
        if hasattr(self, "life"):
            self.life.scheduler.check_integrity()

    def teardown(self):
        if hasattr(self, "life"):
            self.life.end()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("seed", range(40))
def test_a_long_busy_life_keeps_every_promise(seed):
    """Hypothesis looks for short counterexamples; crowds and evictions need long lives."""
    choose = random.Random(seed)
    life = Life(
        num_blocks=choose.randint(6, 10),
        max_num_seqs=choose.randint(2, 5),
        spare_budget=choose.randint(0, 12),
        caching=seed % 4 != 0,
    )
    for _ in range(350):
        action = choose.random()
        if action < 0.35:
            life.add(
                choose.randint(0, 1),
                choose.choice(LENGTHS),
                choose.randint(1, 16),
                choose.choice(PICTURES),
                choose.choice(PRIORITIES),
            )
        elif action < 0.4 and life.live:
            life.abort(choose.choice(life.live))
        elif life.live:
            life.step()
        life.scheduler.check_integrity()
    life.end()
    assert life.scheduler.num_preemptions > 0
    assert (life.scheduler.num_prefix_hit_tokens > 0) == (seed % 4 != 0)
