"""The prefill products' work list, run on the CPU: every tile of every group exactly once."""

import random
import subprocess

import pytest

TILE_ROWS = {1: 64, 2: 128}  # by cluster size, as the kernels use them


def _walk(driver, cluster, cases):
    """For each (column_tiles, group sizes) the tiles computed, as the driver prints them."""
    lines = []
    for column_tiles, sizes in cases:
        offsets = [7]
        for size in sizes:
            offsets.append(offsets[-1] + size)
        lines.append(" ".join(map(str, [column_tiles, len(sizes), *offsets])))
    output = subprocess.run(
        [driver, str(cluster)], input="\n".join(lines), capture_output=True, text=True, check=True
    ).stdout
    walks = output.split("end\n")[:-1]
    assert len(walks) == len(cases)
    return [[tuple(map(int, line.split())) for line in walk.splitlines()] for walk in walks]


def _cases(seed):
    rng = random.Random(seed)
    cases = [(1, [0]), (1, [1]), (3, [0, 0, 5, 0]), (12, [4096] + [0] * 65), (12, [192] * 66)]
    heights = [0, 1, 63, 64, 65, 128, 129, 300, 2500]
    for _ in range(60):
        sizes = rng.choices(heights, k=rng.randint(1, 9))

        cases.append((rng.randint(1, 14), sizes))
    return cases


@pytest.mark.parametrize("cluster", [1, 2])
def test_every_tile_is_computed_exactly_once(driver, cluster):
    height = TILE_ROWS[cluster]
    cases = _cases(cluster)
    for (column_tiles, sizes), walk in zip(cases, _walk(driver, cluster, cases), strict=True):
        expected, first = [], 7
        for group, size in enumerate(sizes):
            for row in range(0, size, height):
                expected += [(group, first + row, size - row, c) for c in range(column_tiles)]
            first += size
        real = [tile[:4] for tile in walk if tile[3] < column_tiles]
        assert sorted(real) == expected


def test_padding_is_one_column_at_most_and_only_for_odd_numbers_of_both(driver):
    cases = _cases(3)
    for (column_tiles, sizes), walk in zip(cases, _walk(driver, 2, cases), strict=True):
        padding = [tile for tile in walk if tile[3] >= column_tiles]
        odd_rows = sum(-(-size // 128) % 2 for size in sizes)
        assert len(padding) == (odd_rows if column_tiles % 2 else 0)
        assert all(tile[3] == column_tiles for tile in padding)


def test_the_two_blocks_of_a_cluster_lie_one_above_the_other_or_side_by_side(driver):
    for walk in _walk(driver, 2, _cases(4)):
        by_rank = [{tile[5]: tile for tile in walk if tile[6] == rank} for rank in (0, 1)]
        assert by_rank[0].keys() == by_rank[1].keys() == set(range(len(by_rank[0])))
        for item, first in by_rank[0].items():
            second = by_rank[1][item]
            assert first[0] == second[0] and first[4] == second[4]
            if first[4]:
                assert second[1] == first[1] + 128 and second[2] > 0 and second[3] == first[3]
            else:
                assert second[1] == first[1] and second[3] == first[3] + 1
