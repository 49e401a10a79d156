"""Weight-streaming products, thread by thread on the CPU: layouts, tails, stages, tickets."""

import subprocess

import pytest

# split, tiles: the tokens of a pass are 8 · tiles, the weight rows of a tile 128 / split
DENSE = [
    # gated split tiles tokens rows depth grid
    (0, 8, 1, 1, 24, 520, 2),
    (0, 8, 1, 8, 40, 1544, 2),
    (0, 4, 1, 5, 72, 808, 2),
    (0, 4, 4, 17, 72, 808, 1),
    (0, 2, 4, 32, 200, 264, 2),
    (0, 2, 8, 49, 136, 40, 1),
    (0, 1, 8, 64, 136, 200, 1),
    (0, 1, 16, 64, 136, 520, 1),
    (0, 4, 4, 9, 8, 8, 1),
    # all of a block's only item is asked for ahead: as many chunks as stages, fewer, one too many
    (0, 8, 1, 1, 24, 2560, 2),
    (0, 8, 1, 8, 24, 2056, 2),
    (0, 4, 1, 3, 40, 256, 2),
    (0, 8, 1, 2, 24, 2568, 2),
    # … with an item behind it, with a second pass
    (0, 4, 1, 1, 136, 1280, 2),
    (0, 8, 1, 11, 24, 520, 2),
    (1, 8, 1, 7, 16, 2560, 2),
    (1, 8, 1, 3, 40, 192, 1),
    (1, 4, 1, 8, 80, 648, 2),
    (1, 4, 4, 31, 56, 264, 2),
    (1, 2, 8, 33, 72, 192, 2),
]
EXPERTS = [
    # split tiles tokens E S Ev top_k m H grid skewed
    (4, 1, 1, 6, 2, 0, 2, 80, 192, 3, 0),
    (8, 1, 7, 6, 2, 0, 2, 80, 192, 3, 0),
    (4, 1, 8, 6, 2, 4, 2, 40, 192, 2, 0),
    (4, 1, 5, 6, 0, 0, 2, 80, 192, 5, 1),
    (2, 4, 32, 6, 2, 3, 2, 80, 192, 2, 1),
    # items of two, three and five chunks, which the stages hold ahead
    (4, 1, 8, 6, 2, 0, 2, 40, 512, 3, 0),
    (4, 1, 3, 6, 2, 3, 2, 40, 768, 3, 0),
    (4, 1, 1, 6, 2, 0, 2, 40, 1280, 3, 0),
    (4, 4, 21, 6, 2, 0, 2, 80, 192, 3, 0),
    (2, 8, 70, 6, 2, 0, 2, 40, 136, 2, 0),
    (1, 8, 90, 5, 1, 0, 2, 40, 200, 2, 1),
    (1, 16, 90, 5, 1, 0, 2, 40, 328, 2, 0),
]
ROUNDED = 4e-3  # bf16 results; a misplaced value gives about 1


def _errors(driver, kind, case):
    line = " ".join(map(str, (kind, *case)))
    run = subprocess.run([driver], input=line, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return [float(value) for value in run.stdout.split()]


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_dense_products_equal_float64(driver, case):
    (error,) = _errors(driver, "dense", case)
    assert error < (ROUNDED if case[0] else 1e-6)


@pytest.mark.parametrize("case", EXPERTS, ids=str)
def test_every_pair_goes_through_its_expert(driver, case):
    up_error, down_error = _errors(driver, "experts", case)
    assert up_error < ROUNDED
    assert down_error < ROUNDED
