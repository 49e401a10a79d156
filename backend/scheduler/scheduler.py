"""The one scheduling policy."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from backend.errors import ConfigError, ContextLengthError, InternalError, OverloadedError
from backend.kv_cache import BlockPool
from backend.scheduler.output import Chunk, SchedulerOutput
from backend.scheduler.request import Request


@dataclass(frozen=True)
class SchedulerLimits:
    """`max_num_batched_tokens`: one step, prefill and decode together. `max_num_waiting`: requests
    beyond the `max_num_seqs` that can run at once, -1 for any number.

    Raises ConfigError that names the flags.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_waiting: int
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise ConfigError(f"--max-num-seqs is {self.max_num_seqs}; it must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"--max-num-batched-tokens {self.max_num_batched_tokens} is below --max-num-seqs "
                f"{self.max_num_seqs}: a step could not give every sequence one token"
            )
        if self.max_num_waiting < -1:
            raise ConfigError(
                f"--scheduler-max-size is {self.max_num_waiting}; it must be at least 0, or -1 "
                "for no limit"
            )


class Scheduler:
    """By priority, then first come, first served, under one token budget a step.

    A step is filled in this order:
      1. decodes: one token for each;
      2. prefills that have begun, by rank, in chunks as large as the budget left;
      3. the head of the waiting queue, while there is a seat, budget, and room for all its tokens
         plus one block for each running request to grow into.
    A request gets blocks for all its known tokens when it is admitted, so only decodes ever run out
    of blocks. Then the running request of the last rank is preempted: it loses its blocks, keeps
    its output, and goes back to the queue. Nothing is admitted in a step that preempts.

    Invariants
      - `running` and `waiting` are sorted by rank: (priority, arrival). A waiting request is
        overtaken only by those of a smaller priority, at the price that a large one at the head
        makes those behind it wait. It does not push out what runs; it goes first when there is
        room. Where all priorities are equal, everything running arrived before everything waiting.
      - The first of `running` is never preempted and every request fits the pool alone (checked by
        `add`), so it goes on in every step; when nothing runs, the head of the queue is admitted.
        So something always ends, and among equal priorities nothing starves. A request starves
        while ones of smaller priority keep coming.
      - Decodes cannot starve prefills: a prefill occupies a seat, so at most max_num_seqs - 1
        others decode, and the budget is at least max_num_seqs. The first prefill gets a token in
        every step.
    """

    def __init__(self, pool: BlockPool, block_size: int, limits: SchedulerLimits) -> None:
        self.pool = pool
        self.limits = limits
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0
        self.num_prefix_queried_tokens = 0
        self.num_prefix_hit_tokens = 0
        self._block_size = block_size

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def check_room(self, num_coming: int = 0) -> None:
        """Raises OverloadedError, with a time to come back, when the queue is full, or will be with
        the `num_coming` requests that were promised a place."""
        limits = self.limits
        is_bounded = limits.max_num_waiting >= 0
        if is_bounded and len(self) + num_coming >= limits.max_num_seqs + limits.max_num_waiting:
            raise OverloadedError(
                f"{len(self.running)} requests run and {len(self.waiting)} wait; at most "
                f"{limits.max_num_waiting} may wait",
                retry_after_s=float(min(60, math.ceil(len(self) / limits.max_num_seqs))),
            )

    def add(self, request: Request) -> None:
        """Queue a request by its rank.

        Raises OverloadedError when the queue is full, ContextLengthError when the request could
        not run even alone.
        """
        # The last token generated is never computed, so it needs no room.
        num_blocks = -(-(request.max_num_tokens - 1) // self._block_size)
        if num_blocks > self.pool.num_blocks:
            raise ContextLengthError(
                f"prompt and output of {request.max_num_tokens} tokens need {num_blocks} KV blocks "
                f"of {self._block_size} tokens; the engine has {self.pool.num_blocks}"
            )
        self.check_room()
        insort(self.waiting, request, key=_rank)

    def schedule(self) -> SchedulerOutput:
        """Choose the tokens of the next step and give them blocks.

        The chunks hold at most max_num_batched_tokens tokens of at most max_num_seqs requests.
        There is at least one, unless all that is left are tokens that are being computed.
        """
        num_preempted = self._make_room_for_decodes()
        chunks = [_chunk(request, 1) for request in self.running if _can_decode(request)]
        budget = self.limits.max_num_batched_tokens - len(chunks)
        for request in self._prefills(may_admit=not num_preempted):
            chunks.append(_chunk(request, budget))
            budget -= chunks[-1].num_tokens
            if budget == 0:
                break
        return SchedulerOutput(tuple(chunks), num_preempted)

    def start(self, chunk: Chunk) -> None:
        """A chunk is being computed. The next schedule may already count on it."""
        chunk.request.num_computed_tokens = chunk.stop
        if chunk.is_last:
            chunk.request.expect_token()

    def settle(self, chunk: Chunk, token_id: int | None) -> None:
        """A started chunk was computed; `token_id` was sampled if it `is_last`, else None."""
        request = chunk.request
        if token_id is not None:
            request.settle_token(token_id)
        # A request that was preempted meanwhile has no blocks any more.
        if self.limits.enable_prefix_caching and request.num_computed_tokens >= chunk.stop:
            self._publish(chunk)

    def commit(self, chunk: Chunk, token_id: int | None) -> None:
        """`start` and `settle` in one, for a chunk that is already computed."""
        self.start(chunk)
        self.settle(chunk, token_id)

    def finish(self, request: Request, *, keep_cached: bool = True) -> None:
        """Take a request out, whatever its state, and free its blocks at once.

        `keep_cached` False also takes its content out of the prefix cache: it may be wrong.
        """
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        block_ids = request.release()
        if not keep_cached:
            self.pool.forget(block_ids)
        self.pool.free(block_ids)

    def _publish(self, chunk: Chunk) -> None:
        """Blocks that the chunk filled may be shared."""
        request = chunk.request
        num_published = chunk.start // self._block_size
        num_full = chunk.stop // self._block_size
        if num_full > num_published:
            hashes = request.block_hashes(num_full)
            for block in range(num_published, num_full):
                self.pool.publish(int(request.block_table.block_ids[block]), hashes[block])

    def check_integrity(self) -> None:
        """Raises InternalError with the numbers when blocks or queues break an invariant."""
        self.pool.check_integrity(request.block_table.block_ids for request in self.running)
        for name, queue in (("running", self.running), ("waiting", self.waiting)):
            ranks = [request.rank for request in queue]
            if ranks != sorted(ranks):
                raise InternalError(f"{name} requests are out of order: {ranks}")
        holders = [request.stream_key for request in self.waiting if len(request.block_table)]
        if holders:
            raise InternalError(f"{len(holders)} waiting requests hold KV blocks: {holders[0]}")

    def _make_room_for_decodes(self) -> int:
        """Give each decode a block for its next token; preempt from the end until they fit."""
        num_preempted = 0
        for request in list(self.running):
            if not _can_decode(request):
                continue
            missing = request.block_table.num_missing(request.num_tokens)
            while missing > self.pool.num_free_blocks:
                num_preempted += 1
                if self._preempt_last() is request:
                    return num_preempted
            request.block_table.extend(self.pool.allocate(missing))
        return num_preempted

    def _preempt_last(self) -> Request:
        request = self.running.pop()
        self.pool.free(request.release())
        insort(self.waiting, request, key=_rank)
        request.num_preemptions += 1
        self.num_preemptions += 1
        return request

    def _prefills(self, may_admit: bool) -> Iterator[Request]:
        """Requests in prefill by rank; waiting ones are admitted when they are asked for."""
        yield from [request for request in self.running if not request.is_decoding]
        while may_admit and self.waiting and len(self.running) < self.limits.max_num_seqs:
            if not self._try_admit(self.waiting[0]):
                return
            request = self.waiting.popleft()
            insort(self.running, request, key=_rank)
            yield request

    def _try_admit(self, request: Request) -> bool:
        """Give a waiting request the cached blocks of its prefix and new ones for the rest."""
        shared = self._cached_prefix(request)
        num_new = request.block_table.num_missing(request.num_tokens) - len(shared)
        self.pool.acquire(shared)
        if num_new + len(self.running) > self.pool.num_free_blocks and self.running:
            self.pool.free(shared)
            return False
        request.block_table.extend(shared + self.pool.allocate(num_new))
        request.num_computed_tokens = len(shared) * self._block_size
        if request.num_cached_tokens is None:
            request.seated_at = time.monotonic()
            request.num_cached_tokens = request.num_computed_tokens
            self.num_prefix_queried_tokens += request.num_prompt_tokens
            self.num_prefix_hit_tokens += request.num_cached_tokens
        return True

    def _cached_prefix(self, request: Request) -> list[int]:
        """Blocks known by their content; never all of the tokens: the last one gives logits."""
        if not self.limits.enable_prefix_caching:
            return []
        return self.pool.match(request.block_hashes((request.num_tokens - 1) // self._block_size))


def _rank(request: Request) -> tuple[int, int]:
    return request.rank


def _can_decode(request: Request) -> bool:
    return request.is_decoding and not request.is_full


def _chunk(request: Request, budget: int) -> Chunk:
    start = request.num_computed_tokens
    num_tokens = min(budget, request.num_uncomputed_tokens)
    return Chunk(request, start, start + num_tokens, num_tokens == request.num_uncomputed_tokens)
