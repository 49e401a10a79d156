"""Rows of a recorded batch say what a batch made anew would say; tables are sent as they grow."""

import random

import numpy as np
import pytest

from backend.runner import build_batch
from backend.runner.decode_rows import DecodeRows
from backend.scheduler import Chunk
from tests.unit.scheduler.fakes import BLOCK_SIZE, make_request

NUM_ROWS, MAX_BLOCKS = 8, 16


def _next_chunk(request, free_blocks):
    """One more token of a request, with a block for it."""
    if request.num_output_tokens or request.num_computed_tokens:
        request.output_ids.append(5)
    start = request.num_tokens - 1
    missing = request.block_table.num_missing(request.num_tokens)
    request.block_table.extend([free_blocks.pop() for _ in range(missing)])
    request.num_computed_tokens = start + 1
    return Chunk(request, start, start + 1, True)


@pytest.mark.parametrize("seed", range(20))
def test_random_lives_of_a_batch(seed):
    choose = random.Random(seed)
    rows = DecodeRows(NUM_ROWS, MAX_BLOCKS, BLOCK_SIZE)
    free_blocks = list(range(1, 4000))
    choose.shuffle(free_blocks)
    tables = np.zeros((NUM_ROWS, MAX_BLOCKS), dtype=np.int32)
    running = []
    for _ in range(60):
        for request in [request for request in running if choose.random() < 0.1]:
            running.remove(request)
            if choose.random() < 0.5:  # it has ended
                rows.forget(request)
        while len(running) < NUM_ROWS and (not running or choose.random() < 0.3):
            running.append(make_request(range(3, 4 + choose.randrange(12))))
        for request in running:
            if choose.random() < 0.1:  # preempted: it comes back with other blocks
                request.release()
                request.num_preemptions += 1
        choose.shuffle(running)
        running = [r for r in running if r.num_tokens < MAX_BLOCKS * BLOCK_SIZE] or running[:1]
        chunks = [_next_chunk(request, free_blocks) for request in running]

        filled = rows.fill(chunks, choose.randint(len(chunks), NUM_ROWS))

        for update in filled.updates:
            stop = update.start + len(update.block_ids)
            tables[update.row, update.start : stop] = update.block_ids
        by_request = {chunk.request: chunk for chunk in chunks}
        assert sorted(map(id, filled.requests)) == sorted(map(id, running))
        repeats = len(filled.slots) - len(chunks)
        expected_requests = [*filled.requests, *[filled.requests[0]] * repeats]
        expected = build_batch([by_request[r] for r in expected_requests], BLOCK_SIZE, None)
        np.testing.assert_array_equal(filled.positions, expected.positions)
        np.testing.assert_array_equal(filled.slots, expected.slot_mapping)
        np.testing.assert_array_equal(filled.context_lens, expected.context_lens)
        for row, request in enumerate(expected_requests):
            held = request.block_table.block_ids
            np.testing.assert_array_equal(tables[row, : len(held)], held)


def test_a_table_is_sent_once_and_grows_by_a_block():
    rows = DecodeRows(NUM_ROWS, MAX_BLOCKS, BLOCK_SIZE)
    request = make_request(range(3, 3 + BLOCK_SIZE))
    free_blocks = list(range(1, 20))
    sent = [
        [(update.start, len(update.block_ids)) for update in rows.fill([chunk], 1).updates]
        for chunk in (_next_chunk(request, free_blocks) for _ in range(BLOCK_SIZE + 2))
    ]
    assert sent[0] == [(0, 1)] and sent[1] == [(1, 1)]
    assert sent[2:-1] == [[]] * (BLOCK_SIZE - 1) and sent[-1] == [(2, 1)]
