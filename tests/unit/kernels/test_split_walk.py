"""Decode attention's walk over splits, run on the CPU: every split once, equal work for blocks."""

import random
import subprocess

TILE, OVERHEAD = 32, 4
LOG_MOST, LOG_WHOLE, LOG_LEAST = 6, 9, 8


def _walk(driver, cases):
    """For each (KV heads, blocks, contexts) what the driver prints: block, sequence, KV head,
    split, splits, first key, last key + 1, tiles of every split that is done."""
    lines = [
        " ".join(map(str, [LOG_MOST, LOG_WHOLE, LOG_LEAST, nkv, blocks, len(contexts), *contexts]))
        for nkv, blocks, contexts in cases
    ]
    output = subprocess.run(
        [driver], input="\n".join(lines), capture_output=True, text=True, check=True
    ).stdout
    walks = output.split("end\n")[:-1]
    assert len(walks) == len(cases)
    return [[tuple(map(int, line.split())) for line in walk.splitlines()] for walk in walks]


def _expected(nkv, contexts):
    """(sequence, KV head, split, splits, first key, last key + 1) of all splits in order."""
    for sequence, context in enumerate(contexts):
        keys = 2**LOG_WHOLE
        if context > keys:
            keys = 2**LOG_LEAST
            while keys << LOG_MOST < context:
                keys *= 2
        splits = max(1, -(-context // keys))
        for head in range(nkv):
            for split in range(splits):
                yield sequence, head, split, splits, split * keys, min(context, (split + 1) * keys)


def _cases(seed):
    rng = random.Random(seed)
    edges = [0, 1, 63, 64, 65, 511, 512, 513, 8192, 131072]
    for sequences in (1, 2, 31, 32, 33, 70, 300):
        for blocks in (1, 4, 132):
            top = rng.choice([300, 2000, 9000])
            contexts = [
                rng.choice(edges) if rng.random() < 0.3 else rng.randint(0, top)
                for _ in range(sequences)
            ]
            yield rng.choice([1, 2, 4, 8]), blocks, contexts


def test_every_split_is_done_exactly_once_and_in_order(driver):
    cases = list(_cases(1))
    for (nkv, _, contexts), walk in zip(cases, _walk(driver, cases), strict=True):
        assert [row[1:7] for row in walk] == list(_expected(nkv, contexts))
        assert [row[0] for row in walk] == sorted(row[0] for row in walk)
        assert all(tiles == -(-(end - begin) // TILE) for *_, begin, end, tiles in walk)


def test_no_block_does_more_than_its_share_and_one_split(driver):
    cases = list(_cases(2))
    for (_, blocks, _), walk in zip(cases, _walk(driver, cases), strict=True):
        work, longest = [0] * blocks, 0
        for block, *_, tiles in walk:
            work[block] += tiles + OVERHEAD
            longest = max(longest, tiles + OVERHEAD)
        assert max(work) <= sum(work) / blocks + longest


def test_as_many_splits_as_blocks_go_to_as_many_blocks(driver):
    cases = [(4, 132, [8192]), (4, 264, [131072]), (4, 132, [300] * 33), (2, 132, [131072])]
    for (_, blocks, _), walk in zip(cases, _walk(driver, cases), strict=True):
        assert blocks - 8 <= len(walk) <= blocks
        assert len({row[0] for row in walk}) == len(walk)
