"""Few sequences' decode attention runs on the CPU: clusters of blocks that go at their own pace."""

import subprocess

import pytest

DONE, NEIGHBOURS, HALVES = range(3)
ROUNDING = 5e-3  # of probabilities and outputs to bfloat16; a misplaced value gives about 1


def _check(driver, turn, heads, block_size, contexts, before=None, clusters=2, most_splits=1):
    """heads: (KV heads, query heads to each); before: lengths until the kernel before has ended,
    with old pages."""
    old_pages = int(before is not None)
    case = [clusters, most_splits, turn, len(contexts), *heads, block_size, old_pages]
    line = " ".join(map(str, [*case, *contexts, *(contexts if before is None else before)]))
    run = subprocess.run([driver], input=line, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    outputs, newest = map(float, run.stdout.split())
    assert outputs < ROUNDING
    assert newest < 0.02


@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS, HALVES])
def test_contexts_of_every_tail_are_exact(driver, turn):
    _check(driver, turn, (1, 5), 64, [1, 0, 15, 16, 17, 31, 33, 127, 128, 129, 200], clusters=11)


@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS, HALVES])
def test_warps_with_several_tiles(driver, turn):
    _check(driver, turn, (1, 2), 64, [1024, 513], clusters=2)


@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_more_items_than_clusters(driver, clusters):
    contexts = [60, 0, 129, 16, 0, 1, 33, 250]
    _check(driver, NEIGHBOURS, (2, 3), 64, contexts, clusters=clusters)


@pytest.mark.parametrize("clusters", [1, 2, 5, 8])
def test_splits_are_joined_whichever_cluster_does_them(driver, clusters):
    contexts = [1100, 0, 1537]
    _check(driver, HALVES, (1, 5), 64, contexts, clusters=clusters, most_splits=4)


def test_a_context_is_one_split_where_no_more_are_allowed(driver):
    _check(driver, DONE, (1, 1), 64, [1400], clusters=2)


@pytest.mark.parametrize("block_size", [16, 32, 48, 64])
def test_pages_of_every_size(driver, block_size):
    _check(driver, HALVES, (2, 3), block_size, [130, 47], clusters=3)


@pytest.mark.parametrize("ratio", [1, 5, 8])
@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS])
def test_query_heads_to_a_kv_head(driver, ratio, turn):
    _check(driver, turn, (2, ratio), 64, [90, 7, 140], clusters=3)


@pytest.mark.parametrize(
    "before",
    [[1200, 64, 33], [0, 0, 0], [300, 900, 5], [1200, 64, 0], [64, 1200, 40], [1190, 65, 33]],
)
@pytest.mark.parametrize("turn", [DONE, NEIGHBOURS])
def test_lengths_and_pages_that_change_while_the_kernel_before_runs(driver, turn, before):
    _check(driver, turn, (1, 3), 32, [1200, 64, 33], before, clusters=3, most_splits=2)
