"""The sampler runs on the CPU: rows in clusters of blocks at their own pace, and in one block."""

import subprocess

import numpy as np
import pytest

from backend.request import SamplingParams
from backend.sampler.candidates import select_candidates
from backend.sampler.keys import uniform
from backend.sampler.logprobs import token_logprob
from kernels import sampling

CLUSTER, BLOCK = True, False
places = pytest.mark.parametrize("place", [CLUSTER, BLOCK], ids=["cluster", "block"])
KEY = (2**63 + 5, 77)
SIZE = 1712
SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 1e-6},
    {"temperature": 2.5, "top_p": 0.7},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 121},
    {"top_k": 1000, "top_p": 0.9},
    {"top_k": 20, "top_p": 0.9, "temperature": 0.3},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 0.001, "top_p": 0.9},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
]


def _rows(count, **fields):
    rows = sampling.padding_rows(count)
    rows["position"] = np.arange(count)
    rows["key"] = np.array(KEY, np.uint64)
    rows["temperature"] = 1.0
    for name, value in fields.items():
        rows[name] = value
    return rows


def _logits(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32) * 3


def _as_bf16(values):
    """float32 [R, V], which bf16 holds, as the upper half of its bits."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype(np.uint16)


class Tables:
    """What belongs to the rows beside their logits; none of it by default."""

    def __init__(self, size, mask=None, biases=None, counts=None, seen=None, latest=None):
        self.mask = np.zeros((0, -(-size // 32)), np.int32) if mask is None else mask
        self.biases = biases or (
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        )
        self.counts = np.zeros((0, size), np.uint16) if counts is None else counts
        self.seen = np.zeros((0, 0), np.int32) if seen is None else seen
        self.latest = np.zeros(0, np.int32) if latest is None else latest


def _sample(driver, logits, rows, place, workers=2, tables=None, valid=None):
    """Results of the rows; counts and latest of the tables are brought up to date."""
    count, size = logits.shape
    tables = Tables(size) if tables is None else tables
    is_bf16 = logits.dtype == np.uint16
    numbers = [place, workers, count, size, valid or size, is_bf16, len(tables.mask)]
    numbers += [len(tables.biases[1]), len(tables.latest), len(tables.counts) > 0]
    results = np.full(count * sampling.RESULT.itemsize, 0xFF, np.uint8)
    case = [np.array(numbers, np.int32), logits, rows, tables.mask, *tables.biases]
    case += [tables.counts, tables.seen, tables.latest, results]
    given = b"".join(np.ascontiguousarray(part).tobytes() for part in case)
    run = subprocess.run([driver], input=given, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr.decode()
    end = len(results) + tables.counts.nbytes
    if tables.counts.size:
        tables.counts[:] = np.frombuffer(run.stdout[len(results) : end], np.uint16).reshape(
            -1, size
        )
    tables.latest[:] = np.frombuffer(run.stdout[end:], np.int32)
    return np.frombuffer(run.stdout[: len(results)], sampling.RESULT)


def _bits(flags):
    """bool [R, V] as int32 [R, ceil(V / 32)]."""
    padded = np.zeros((len(flags), -(-flags.shape[1] // 32) * 32), bool)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view(np.int32)


def _check_draw(logits, row, token):
    """The candidates in the order of their ids: the token's share of [0, 1) holds u."""
    if row["temperature"] == 0.0:
        assert token == logits.argmax()
        return
    names = ("temperature", "top_p", "min_p", "top_k")
    ids, weights = select_candidates(logits, SamplingParams(**{n: row[n].item() for n in names}))
    order = np.argsort(ids)
    ids, upto = ids[order], np.cumsum(weights[order]) / weights.sum()
    place = ids.tolist().index(token)
    u = uniform(KEY, int(row["position"]))
    assert (upto[place - 1] if place else 0.0) - 1e-6 <= u <= upto[place] + 1e-6


def _check_top(logits, result, wanted):
    expected = token_logprob(logits, int(result["token"]), wanted)
    assert result["logprob"] == pytest.approx(expected.logprob, abs=2e-5, rel=1e-6)
    assert result["top_ids"][: result["num_top"]].tolist() == [i for i, _ in expected.top]


def _shaped(shape, count):
    logits = _logits(count)
    if shape == "rounded":
        logits = np.round(logits)
    elif shape == "equal":
        logits[:] = 1.5
    elif shape == "few":
        logits[np.random.default_rng(2).random(logits.shape) < 0.99] = -np.inf
    return logits


@places
@pytest.mark.parametrize("shape", ["normal", "rounded", "equal", "few"])
def test_rows_of_all_settings_draw_what_the_host_draws(driver, shape, place):
    """One after the other in the same place, each beside others of other settings."""
    logits = _shaped(shape, len(SETTINGS))
    rows = _rows(len(SETTINGS))
    rows["num_top"] = np.arange(len(rows)) % 7 - 1
    for row, fields in zip(rows, SETTINGS, strict=True):
        for name, value in fields.items():
            row[name] = value
    results = _sample(driver, logits, rows, place)
    assert not results["status"].any()
    for each, row, result in zip(logits, rows, results, strict=True):
        _check_draw(each, row, result["token"])
        if row["num_top"] >= 0:
            _check_top(each, result, int(row["num_top"]))


@places
def test_a_full_vocabulary(driver, place):
    logits = np.round(_logits(3, 103_424), 2)
    rows = _rows(3, top_p=[0.95, 1.0, 0.999], top_k=[0, 300, 0])
    results = _sample(driver, logits, rows, place, workers=1)
    for each, row, result in zip(logits, rows, results, strict=True):
        _check_draw(each, row, result["token"])


@places
@pytest.mark.parametrize("size", [5, 45, 1710])
def test_rows_that_do_not_come_by_copies(driver, size, place):
    """Their width is no multiple of four, or they are bfloat16."""
    logits = np.round(_logits(5, size))
    rows = _rows(5, top_k=[0, 3, 0, 0, 4])
    for given in (logits, _as_bf16(logits)):
        results = _sample(driver, given, rows, place)
        for each, row, result in zip(logits, rows, results, strict=True):
            _check_draw(each, row, result["token"])


@places
def test_many_rows_of_one_worker_use_all_its_random_numbers(driver, place):
    logits, rows = np.repeat(_logits(1, 45), 70, axis=0), _rows(70)
    results = _sample(driver, logits, rows, place, workers=1)
    for row, result in zip(rows, results, strict=True):
        _check_draw(logits[0], row, result["token"])


@places
def test_rows_that_cannot_be_sampled_and_padding_fail_alone(driver, place):
    logits = _logits(7)
    logits[1, 5], logits[2, 6], logits[3], logits[4, 7] = np.nan, np.inf, -np.inf, -np.inf
    rows = _rows(7, temperature=0.0, mask_row=[-1, -1, -1, -1, -1, 0, -1], seat=np.arange(7))
    rows["position"][6] = -1
    tables = Tables(SIZE, mask=_bits(np.zeros((1, SIZE), bool)), latest=np.full(7, 99, np.int32))
    results = _sample(driver, logits, rows, place, tables=tables)
    assert results["status"].tolist() == [0, 1, 1, 1, 0, 2, 0]
    best = logits[[0, 4]].argmax(axis=1).tolist()
    assert results["token"].tolist() == [best[0], 0, 0, 0, best[1], 0, 0]
    assert tables.latest.tolist() == [best[0], 99, 99, 99, best[1], 99, 99]


@places
@pytest.mark.parametrize("size", [1710, SIZE])
def test_masks_biases_and_penalties_come_before_the_choice(driver, size, place):
    rng = np.random.default_rng(4)
    logits = np.round(_logits(6, size), 2)
    allowed = rng.random((2, size)) < 0.1
    allowed[:, 3] = True
    offsets = np.array([0, 1, 1, 3, 5, 5, 5], np.int32)
    ids = np.array([20, 10, 30, 10, 5000], np.int32)
    biases = np.array([60.0, -np.inf, 50.0, 50.0, 90.0], np.float32)
    counts = rng.integers(0, 3, (6, size)).astype(np.uint16)
    seen = rng.random((6, size)) < 0.3
    rows = _rows(6, temperature=0.0, mask_row=[-1, 1, -1, -1, 0, -1], seat=[-1, -1, -1, -1, 2, 5])
    rows["repetition"][4:], rows["presence"][5], rows["frequency"][4] = [1.3, 0.5], -1.5, 0.7
    expected = logits.copy()
    for i in (4, 5):
        seat, row = rows["seat"][i], rows[i]
        known = seen[seat] | (counts[seat] > 0)
        raised = np.where(
            expected[i] > 0, expected[i] / row["repetition"], expected[i] * row["repetition"]
        )
        expected[i] = np.where(known, raised, expected[i])
        expected[i] -= counts[seat] * row["frequency"] + (counts[seat] > 0) * row["presence"]
    for row in range(6):
        for e in range(offsets[row], offsets[row + 1]):
            if ids[e] < size:
                expected[row, ids[e]] += biases[e]
    expected[1, ~allowed[1]] = expected[4, ~allowed[0]] = -np.inf
    tables = Tables(
        size,
        mask=_bits(allowed),
        biases=(offsets, ids, biases),
        counts=counts.copy(),
        seen=_bits(seen),
        latest=np.full(6, 99, np.int32),
    )
    results = _sample(driver, logits, rows, place, tables=tables)
    chosen = expected[np.arange(6), results["token"]]
    np.testing.assert_allclose(chosen, expected.max(axis=1), atol=1e-5)
    assert tables.latest.tolist() == [99, 99, *results["token"][4:5], 99, 99, results["token"][5]]
    counts[[2, 5], results["token"][4:]] += 1
    np.testing.assert_array_equal(tables.counts, counts)


@places
def test_ids_beyond_the_valid_ones_are_never_chosen(driver, place):
    logits = _logits(4)
    logits[:, 1701:] = 40.0
    results = _sample(driver, logits, _rows(4, num_top=20), place, valid=1701)
    for each, row, result in zip(logits[:, :1701], _rows(4), results, strict=True):
        _check_draw(each, row, result["token"])
        _check_top(each, result, 20)
