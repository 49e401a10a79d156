"""Decode attention of every shape runs on the CPU, at head size 128; warps go at their own pace."""

import subprocess

import pytest

DONE, NEIGHBOURS, HALVES = range(3)
ROUNDING = 5e-3  # of probabilities and outputs to bfloat16; a misplaced value gives about 1


def _check(
    driver, turn, heads, block_size, contexts, before=None, blocks=3, rounds=1, most_splits=8
):
    """heads: (KV heads, query heads to each); before: lengths until the kernel before has ended,
    with old pages; rounds: in which a block's outputs are joined."""
    case = [blocks, rounds, most_splits, turn, len(contexts), *heads, block_size]
    case += [int(before is not None), *contexts, *(contexts if before is None else before)]
    line = " ".join(map(str, case))
    run = subprocess.run([driver], input=line, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    outputs, newest = map(float, run.stdout.split())
    assert outputs < ROUNDING
    assert newest < 0.02


@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS, HALVES])
def test_contexts_of_every_tail_are_exact(driver, turn):
    _check(driver, turn, (1, 5), 64, [1, 0, 15, 16, 17, 47, 48, 49, 63, 64, 65, 200])


@pytest.mark.parametrize("blocks", [1, 2, 5, 8])
def test_splits_are_joined_whichever_block_does_them(driver, blocks):
    _check(driver, NEIGHBOURS, (2, 5), 64, [1100, 0, 513], blocks=blocks)


def test_a_context_has_no_more_splits_than_are_allowed(driver):
    _check(driver, HALVES, (1, 2), 64, [1500, 600], most_splits=2)


def test_a_warp_with_more_tiles_than_lanes(driver):
    _check(driver, NEIGHBOURS, (1, 2), 64, [4500], blocks=1, most_splits=1)


@pytest.mark.parametrize("block_size", [16, 32, 48, 128])
def test_pages_of_other_sizes(driver, block_size):
    _check(driver, HALVES, (2, 3), block_size, [130, 47, 600], blocks=2)


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_sixteen_heads_joined_in_rounds(driver, rounds):
    _check(driver, DONE, (1, 16), 64, [700, 90], blocks=2, rounds=rounds)


@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS])
@pytest.mark.parametrize("before", [[900, 64], [0, 0], [300, 900], [1000, 64], [64, 1000]])
def test_lengths_and_pages_that_change_while_the_kernel_before_runs(driver, turn, before):
    for blocks in (1, 3):
        _check(driver, turn, (1, 5), 64, [900, 64], before, blocks=blocks)


def test_more_sequences_than_a_warp_has_lanes(driver):
    _check(driver, NEIGHBOURS, (2, 4), 16, [length % 70 for length in range(40)], blocks=7)
