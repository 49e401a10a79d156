"""Hopper's decode attention run on the CPU, its copies landing in any order."""

import subprocess

import pytest

DONE, NEIGHBOURS, HALVES = range(3)
ROUNDING = 5e-3  # of probabilities and outputs to bfloat16


def _errors(driver, turn, heads, block_size, blocks, contexts, before=None, log_rounds=0):
    """(outputs, newest keys and values); heads: (KV heads, query heads to each); before: lengths
    until the kernel before has ended, with old pages."""
    case = [blocks, log_rounds, turn, len(contexts), *heads, block_size, int(before is not None)]
    line = " ".join(map(str, [*case, *contexts, *(contexts if before is None else before)]))
    done = subprocess.run([driver], input=line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(map(float, done.stdout.split()))


@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS, HALVES])
def test_contexts_of_every_tail_are_exact(driver, turn):
    contexts = [1, 0, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200]
    outputs, newest = _errors(driver, turn, (1, 5), 64, 3, contexts)
    assert outputs < ROUNDING and newest < 0.02


@pytest.mark.parametrize("blocks", [1, 2, 5, 8])
def test_splits_are_joined_whichever_block_does_them(driver, blocks):
    outputs, newest = _errors(driver, NEIGHBOURS, (2, 5), 64, blocks, [1100, 0, 513])
    assert outputs < ROUNDING and newest < 0.02


@pytest.mark.parametrize("block_size", [16, 32, 48, 128])
def test_pages_of_other_sizes(driver, block_size):
    outputs, newest = _errors(driver, HALVES, (2, 3), block_size, 2, [130, 47, 600])
    assert outputs < ROUNDING and newest < 0.02


@pytest.mark.parametrize("log_rounds", [0, 1, 2])
def test_eight_heads_joined_in_rounds(driver, log_rounds):
    outputs, _ = _errors(driver, DONE, (1, 8), 64, 2, [700, 90], log_rounds=log_rounds)
    assert outputs < ROUNDING


@pytest.mark.parametrize("before", [[900, 64], [0, 0], [300, 900], [1000, 64], [64, 1000]])
def test_lengths_and_pages_that_change_while_the_kernel_before_runs(driver, before):
    for blocks in (1, 3):
        outputs, newest = _errors(driver, NEIGHBOURS, (1, 5), 64, blocks, [900, 64], before)
        assert outputs < ROUNDING and newest < 0.02
