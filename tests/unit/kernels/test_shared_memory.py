"""Kernels take no more shared memory than the devices they are for give a block."""

import subprocess

import pytest

A100, H100 = 163 * 1024, 227 * 1024


def _ask(driver, lines):
    given = "".join(" ".join(map(str, line)) + "\n" for line in lines)
    run = subprocess.run([driver], input=given, capture_output=True, text=True, check=True)
    return [tuple(map(int, line.split())) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(("limit", "multiprocessors"), [(A100, 108), (H100, 132)])
@pytest.mark.parametrize("weight_rows", [192, 5120, 24576])
def test_dense_products_of_every_number_of_tokens(driver, limit, multiprocessors, weight_rows):
    counts = range(1, 65)
    answers = _ask(driver, [("dense", n, weight_rows, multiprocessors, limit) for n in counts])
    assert len(answers) == 64
    assert max(taken for taken, _ in answers) <= limit


def test_64_tokens_have_larger_tiles_where_the_smaller_ones_do_not_fit(driver):
    (_, on_a100), (_, on_h100) = _ask(driver, [("dense", 64, 192, 132, n) for n in (A100, H100)])
    assert (on_a100, on_h100) == (128, 64)


@pytest.mark.parametrize("limit", [A100, H100])
@pytest.mark.parametrize("head", [32, 64, 72, 80, 96, 128])
def test_decode_attention_joins_whole_blocks_of_columns(driver, head, limit):
    half = (limit + 1024) // 2 - 1024 - 64
    for taken, rounds in _ask(driver, [("decode", head, ratio, half) for ratio in range(1, 17)]):
        assert taken <= limit
        assert head % (8 * rounds) == 0
