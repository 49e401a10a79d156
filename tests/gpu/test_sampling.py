"""Sampling on the device against the host's sampler and its parts."""

import os

import numpy as np
import pytest

import kernels
from backend.request import SamplingParams
from backend.sampler.candidates import select_candidates
from backend.sampler.keys import seed_key
from backend.sampler.logprobs import token_logprob
from backend.sampler.penalties import adjust
from backend.sampler.state import SamplingState
from kernels import sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.unavailable_reason() is not None, reason=str(kernels.unavailable_reason())
    ),
]

SIZES = [5, 1712, 103_424]
DRAWS = int(os.environ.get("ERNIE_TEST_DRAWS", "40000"))  # fewer where each is slow: a sanitizer
ROUNDS = min(20, DRAWS // 25)  # of a test's rows


def _rows(count, **fields):
    rows = sampling.padding_rows(count)
    rows["position"] = np.arange(count)
    rows["key"] = seed_key(1234)
    rows["temperature"] = 1.0
    for name, value in fields.items():
        rows[name] = value
    return rows


def _sample(ctx, logits, rows, dtype=None, **tables):
    uploaded = {
        name: ctx.upload(t) if isinstance(t, np.ndarray) else t for name, t in tables.items()
    }
    result = kernels.sample(
        ctx.upload(logits, dtype), ctx.upload(sampling.row_bytes(rows)), **uploaded
    )
    return sampling.results_of(result.numpy())


def _logits(size, seed=0, scale=3.0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(scale)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_greedy_takes_the_lowest_id_among_the_largest(ctx, size, name):
    logits = np.stack([_logits(size, seed) for seed in range(7)])
    logits = ctx.upload(logits, kernels.bf16).numpy() if name == "bf16" else logits
    logits[3] = 0.0
    logits[4] = -0.0
    logits[4, size // 2 :] = 0.0  # equal to -0
    got = _sample(ctx, logits, _rows(7, temperature=0.0), getattr(kernels, name))
    np.testing.assert_array_equal(got["token"], logits.argmax(axis=1))
    assert not got["status"].any()


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 3000},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
    {"top_k": 20, "top_p": 0.9, "temperature": 0.3},
    {"top_p": 0.7, "temperature": 2.5},
]


def _expected_probabilities(logits, **fields):
    params = SamplingParams(**{"temperature": 1.0, **fields})
    ids, weights = select_candidates(logits, params)
    probabilities = np.zeros(len(logits))
    probabilities[ids] = weights / weights.sum()
    return probabilities


@pytest.mark.parametrize("fields", FILTERS, ids=str)
@pytest.mark.parametrize("size", [40, 1712])
def test_draws_follow_the_hosts_distribution(ctx, size, fields):
    """Chi-square over all draws; the candidates are exactly the host's."""
    logits = _logits(size, seed=size)
    expected = _expected_probabilities(logits, **fields)
    draws = np.empty(0, np.int64)
    for start in range(0, DRAWS, 5000):
        rows = _rows(min(5000, DRAWS - start), **fields)
        rows["position"] += start
        got = _sample(ctx, np.broadcast_to(logits, (len(rows), size)), rows)
        assert not got["status"].any()
        draws = np.concatenate([draws, got["token"]])
    counts = np.bincount(draws, minlength=size)
    assert counts[expected == 0].sum() == 0
    often = expected * len(draws) >= 10
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * len(draws)
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    if freedom > 0:
        chi_square = float(((observed - wanted) ** 2 / wanted).sum())
        assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 5


def _assert_kept(ctx, logits, candidates, **fields):
    """Draws meet every one of the candidates, if they are enough for that, and no other id."""
    rows = _rows(min(4096, DRAWS), **fields)
    got = _sample(ctx, np.broadcast_to(logits, (len(rows), len(logits))), rows)
    drawn = set(got["token"].tolist())
    assert drawn <= candidates
    assert drawn == candidates or len(rows) < 4096


CUTS = [{"top_k": 5}, {"top_k": 64}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.7}]


@pytest.mark.parametrize("fields", CUTS, ids=str)
@pytest.mark.parametrize("size", [103_424, 200_000])
def test_the_kept_candidates_are_the_hosts_in_a_full_vocabulary(ctx, size, fields):
    """Near-equal candidates high above the rest."""
    rng = np.random.default_rng(5)
    logits = _logits(size, scale=1.0)
    head = rng.permutation(size)[:100]
    logits[head] = 30.0 - np.arange(100, dtype=np.float32) * np.float32(0.01)
    expected = _expected_probabilities(logits, **fields)
    _assert_kept(ctx, logits, set(np.flatnonzero(expected).tolist()), **fields)


def test_ties_are_kept_by_the_lower_id(ctx):
    logits = np.zeros(103_424, np.float32)
    equal = np.array([7, 1000, 13_823, 13_824, 50_000, 103_423])  # on both sides of block borders
    logits[equal] = 20.0
    logits[60_000] = 21.0
    _assert_kept(ctx, logits, {60_000, 7, 1000, 13_823}, top_k=4)
    _assert_kept(ctx, logits, {60_000, 7, 1000, 13_823, 13_824}, top_k=5)
    share = float((np.e + 2.5) / (np.e + 6))
    _assert_kept(ctx, logits, {60_000, 7, 1000, 13_823}, top_p=share)


def test_all_equal_logits_are_cut_by_id(ctx):
    logits = np.full(1712, 3.25, np.float32)
    _assert_kept(ctx, logits, set(range(10)), top_k=10)
    _assert_kept(ctx, logits, set(range(11)), top_p=10.5 / 1712)


def test_a_row_gives_the_same_token_in_any_batch(ctx):
    logits = np.stack([_logits(103_424, seed) for seed in range(6)])
    fields = {"temperature": 1.3, "top_p": 0.99}
    rows = _rows(6, **fields)
    together = _sample(ctx, logits, rows)["token"]
    alone = [_sample(ctx, logits[i : i + 1], rows[i : i + 1])["token"][0] for i in range(6)]
    many = _sample(ctx, np.tile(logits, (ROUNDS, 1)), np.tile(rows, ROUNDS))["token"]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(many, np.tile(together, ROUNDS))


def test_one_block_gives_the_results_of_eight(ctx):
    """What devices before sm_90 run; sums are integers, so that nothing depends on their order."""
    logits = np.stack([np.round(_logits(103_424, seed), 2) for seed in range(8)])
    rows = _rows(8, num_top=7, seat=np.arange(8))
    rows["temperature"][:2] = [0.0, 0.5]
    rows["top_k"][2:4] = [50, 100_000]
    rows["top_p"][4:6] = [0.5, 0.99]
    rows["min_p"][6] = 0.1
    rows["presence"][7] = 1.0
    results = []
    for spread in (True, False):
        counts = ctx.upload(np.arange(8 * 103_424, dtype=np.int64) % 3, kernels.u16)
        results.append(_sample(ctx, logits, rows, counts=counts.view([8, -1]), spread=spread))
    for name in ("token", "status", "logprob", "num_top"):
        np.testing.assert_array_equal(results[0][name], results[1][name])
    for name in ("top_ids", "top_logprobs"):
        np.testing.assert_array_equal(results[0][name][:, :7], results[1][name][:, :7])


def _shaped(shape, size=103_424):
    """Logits as of a sure model, an unsure one, and with many values equal or nearly so."""
    rng = np.random.default_rng(11)
    values = rng.standard_normal(size).astype(np.float32) * np.float32(3)
    if shape == "peaked":
        values[rng.choice(size, 8, replace=False)] = rng.uniform(18, 25, 8)
    elif shape == "ranked":  # by rank, the likely ones among the low ids
        values[:20_000] = 20 - 1.1 * np.log1p(rng.permutation(20_000)).astype(np.float32)
    elif shape == "flat":
        values /= 3
    elif shape == "rounded":
        values = np.round(values)
    elif shape == "near":
        values = np.float32(5) + values * np.float32(1e-6)
    elif shape == "equal":
        values[:] = 1.5
    elif shape == "few":
        values[rng.random(size) < 0.999] = -np.inf
    return values


SHAPES = ["normal", "peaked", "ranked", "flat", "rounded", "near", "equal", "few"]
SETTINGS = [
    *FILTERS,
    {"top_k": 119},
    {"top_k": 121},
    {"top_k": 1000, "top_p": 0.9},
    {"min_p": 0.001, "top_p": 0.9},
    {"temperature": 1e-6},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_all_settings_draw_candidates_and_as_one_block_would(ctx, shape):
    """More rows than are worked on at a time, each beside others of other settings."""
    logits = _shaped(shape)
    rows = _rows(ROUNDS * len(SETTINGS))
    rows["num_top"] = np.arange(len(rows)) % 7 - 1
    allowed = []
    for i, fields in enumerate(SETTINGS):
        for name, value in fields.items():
            rows[name][i :: len(SETTINGS)] = value
        rounded = {  # to what the device is given
            name: float(np.float32(value)) if isinstance(value, float) else value
            for name, value in fields.items()
        }
        allowed.append(set(np.flatnonzero(_expected_probabilities(logits, **rounded)).tolist()))
    spread = np.broadcast_to(logits, (len(rows), len(logits)))
    got = _sample(ctx, spread, rows)
    alone = _sample(ctx, spread, rows, spread=False)
    assert not got["status"].any()
    for i, (token, count) in enumerate(zip(got["token"].tolist(), got["num_top"], strict=True)):
        assert token in allowed[i % len(SETTINGS)], SETTINGS[i % len(SETTINGS)]
        np.testing.assert_array_equal(got["top_ids"][i, :count], alone["top_ids"][i, :count])
    for name in ("token", "logprob", "num_top"):
        np.testing.assert_array_equal(got[name], alone[name])


@pytest.mark.parametrize("fields", [{"top_k": 300}, {"top_p": 0.2995}], ids=str)
def test_a_cut_among_a_thousand_equals_keeps_the_lowest_ids(ctx, fields):
    logits = np.zeros(103_424, np.float32)
    equal = np.sort(np.random.default_rng(3).choice(len(logits), 1000, replace=False))
    logits[equal] = 20.0
    _assert_kept(ctx, logits, set(equal[:300].tolist()), **fields)


def test_the_draw_is_at_the_streams_uniform_number(ctx):
    """Without filters candidates lie in id order: the cumulative share at the token brackets u."""
    from backend.sampler.keys import uniform

    size, key = 1712, (2**63 + 5, 77)
    logits = _logits(size)
    rows = _rows(min(512, DRAWS))
    rows["key"] = np.array(key, np.uint64)
    tokens = _sample(ctx, np.broadcast_to(logits, (len(rows), size)), rows)["token"]
    shares = np.exp(logits.astype(np.float64) - logits.max())
    upto = np.cumsum(shares) / shares.sum()
    for position, token in enumerate(tokens):
        u = uniform(key, position)
        assert upto[token] - shares[token] / shares.sum() - 1e-6 <= u <= upto[token] + 1e-6


@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
@pytest.mark.parametrize("size", [5, 1712, 103_424])
def test_logprobs_are_the_hosts(ctx, size, num_top):
    logits = np.stack([_logits(size, seed) for seed in range(5)])
    logits[1] = np.round(logits[1])  # many ties
    logits[2] *= 30.0  # the head lies far apart
    logits[3, 3:] = -np.inf
    got = _sample(ctx, logits, _rows(5, num_top=num_top, top_k=3))
    for row, result in zip(logits, got, strict=True):
        expected = token_logprob(row, int(result["token"]), num_top)
        assert result["logprob"] == pytest.approx(expected.logprob, abs=2e-5, rel=1e-6)
        assert result["num_top"] == len(expected.top)
        assert result["top_ids"][: len(expected.top)].tolist() == [i for i, _ in expected.top]
        np.testing.assert_allclose(
            result["top_logprobs"][: len(expected.top)],
            [p for _, p in expected.top],
            atol=2e-5,
            rtol=1e-6,
        )


def _bits(flags):
    """bool [R, V] as int32 [R, ceil(V / 32)]."""
    count, size = flags.shape
    padded = np.zeros((count, -(-size // 32) * 32), bool)
    padded[:, :size] = flags
    return np.packbits(padded, axis=1, bitorder="little").view(np.int32)


@pytest.mark.parametrize("size", [45, 1712, 103_424])
def test_the_mask_is_obeyed_row_by_row(ctx, size):
    rng = np.random.default_rng(7)
    allowed = rng.random((3, size)) < 0.1
    allowed[:, 3] = True
    logits = np.stack([_logits(size, seed) for seed in range(5)])
    rows = _rows(5, temperature=0.0, mask_row=[2, -1, 0, 2, 1])
    got = _sample(ctx, logits, rows, mask=_bits(allowed))
    for i, chosen in enumerate([2, None, 0, 2, 1]):
        row = logits[i] if chosen is None else np.where(allowed[chosen], logits[i], -np.inf)
        assert got["token"][i] == row.argmax()


def test_biases_and_bans_apply_to_their_rows(ctx):
    logits = np.zeros((4, 1712), np.float32)
    logits[:, 10] = 5.0
    offsets = np.array([0, 1, 1, 4, 6], np.int32)
    ids = np.array([20, 10, 30, 10, 10, 5000], np.int32)
    values = np.array([6.0, -np.inf, 1.0, 50.0, -4.0, 9.0], np.float32)
    tables = {"bias_offsets": offsets, "bias_ids": ids, "bias_values": values}
    got = _sample(ctx, logits, _rows(4, temperature=0.0), **tables)
    assert got["token"].tolist() == [20, 10, 30, 10]


PENALTIES = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.5},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -1.5},
    {"repetition_penalty": 1.1, "frequency_penalty": 0.3, "presence_penalty": 0.4},
]


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
def test_penalised_answers_are_the_hosts(ctx, penalties):
    """Greedy steps on one row of logits: counts must follow the tokens on the device."""
    size, seat = 1712, 2
    logits = np.round(_logits(size, scale=2.0), 2)
    prompt = np.argsort(-logits)[:5].astype(np.int32)
    output: list[int] = []
    state = SamplingState(SamplingParams(temperature=0.0, **penalties), seed_key(1), prompt, output)
    seen = np.zeros((4, size), bool)
    seen[seat, prompt] = True
    tables = {
        "counts": ctx.zeros([4, size], kernels.u16),
        "prompt_seen": ctx.upload(_bits(seen)),
        "latest": ctx.zeros([4], kernels.i32),
    }
    names = {"repetition_penalty": "repetition", "frequency_penalty": "frequency"}
    names["presence_penalty"] = "presence"
    fields = {names[name]: value for name, value in penalties.items()}
    for step in range(min(30, DRAWS // 10)):
        adjusted = logits.copy()
        adjust(adjusted, state)
        rows = _rows(1, temperature=0.0, seat=seat, position=step, **fields)
        got = _sample(ctx, logits[None], rows, **tables)
        token = int(got["token"][0])
        # Equal to the last bit but for rounding: nothing may lie clearly above the choice.
        assert adjusted[token] >= adjusted.max() - 1e-5, step
        output.append(token)
        assert tables["latest"].numpy().tolist() == [0, 0, token, 0]
    counts = np.zeros((4, size), np.uint16)
    np.add.at(counts[seat], output, 1)
    np.testing.assert_array_equal(tables["counts"].numpy(), counts)


def test_rows_that_cannot_be_sampled_fail_alone(ctx):
    size = 1712
    logits = np.stack([_logits(size, seed) for seed in range(7)])
    logits[1, 5] = np.nan
    logits[2, 6] = np.inf
    logits[3] = -np.inf
    logits[4, 7] = -np.inf  # legal
    mask = _bits(np.zeros((1, size), bool))
    rows = _rows(7, mask_row=[-1, -1, -1, -1, -1, 0, -1])
    latest = ctx.upload(np.full(7, 99, np.int32))
    rows["seat"] = np.arange(7)
    got = _sample(ctx, logits, rows, mask=mask, latest=latest)
    assert got["status"].tolist() == [0, 1, 1, 1, 0, 2, 0]
    assert got["token"][[1, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    assert (latest.numpy()[[1, 2, 3, 5]] == 99).all()


def test_padding_rows_draw_nothing(ctx):
    logits = np.stack([_logits(1712, seed) for seed in range(4)])
    rows = _rows(4, temperature=0.0, seat=[0, 1, 2, 3])
    rows["position"][[1, 3]] = -1
    latest = ctx.upload(np.full(4, 99, np.int32))
    got = _sample(ctx, logits, rows, latest=latest)
    best = logits.argmax(axis=1)
    assert got["token"].tolist() == [best[0], 0, best[2], 0]
    assert latest.numpy().tolist() == [best[0], 99, best[2], 99]


def test_ids_beyond_the_valid_ones_are_never_chosen(ctx):
    logits = _logits(1712)[None].repeat(64, axis=0)
    logits[:, 1700:] = 40.0
    got = _sample(ctx, logits, _rows(64, num_top=20), num_valid=1700)
    assert got["token"].max() < 1700
    assert got["top_ids"].max() < 1700
    assert got["logprob"][0] == pytest.approx(
        token_logprob(logits[0, :1700], int(got["token"][0]), 0).logprob, abs=2e-5
    )


def test_extreme_temperatures_are_no_trouble(ctx):
    logits = np.stack([_logits(1712)] * 3)
    got = _sample(ctx, logits, _rows(3, temperature=[1e-6, 1e-30, 100.0], top_p=0.9, top_k=50))
    assert got["token"][:2].tolist() == [logits[0].argmax()] * 2
    assert not got["status"].any()


def test_a_captured_call_reads_new_contents_and_feeds_the_next_step(ctx):
    size = 1712
    table = np.zeros((size, size), np.float32)
    table[np.arange(size), (np.arange(size) * 7 + 3) % size] = 9.0  # token t makes 7 t + 3 likely
    weights = ctx.upload(table, kernels.bf16)
    rows = ctx.upload(sampling.row_bytes(_rows(2, temperature=0.0, seat=[1, 0])))
    latest = ctx.upload(np.array([11, 4], np.int32))
    ids = ctx.upload(np.array([-2, -1], np.int32))  # what seats 1 and 0 drew last
    with ctx.capture() as graph:
        logits = kernels.embedding(weights, ids, latest)
        result = kernels.sample(logits, rows, latest=latest)
    expected = np.array([11, 4])
    for _ in range(20):
        graph.launch()
        expected = (expected * 7 + 3) % size
    np.testing.assert_array_equal(latest.numpy(), expected)
    got = sampling.results_of(result.numpy())
    assert got["token"].tolist() == [expected[1], expected[0]]
    rows.copy_from(sampling.row_bytes(sampling.padding_rows(2)))
    graph.launch()
    np.testing.assert_array_equal(latest.numpy(), expected)


@pytest.mark.parametrize("spread", [True, False])
def test_results_go_to_their_places_in_the_hosts_memory(ctx, spread):
    """Those of all kinds of rows; nothing else is touched."""
    size, count = 103_424, 60
    logits = np.stack([_logits(size, seed) for seed in range(count)])
    logits[7, 5] = np.nan
    rows = _rows(count, num_top=np.arange(count) % 22 - 1)
    rows["temperature"][::3] = 0.0
    rows["top_p"][1::3] = 0.9
    rows["mask_row"][[11, 12]] = 0
    rows["position"][50:] = -1
    mask = _bits(np.zeros((1, size), bool))
    expected = _sample(ctx, logits, rows, mask=mask, spread=spread)
    assert set(expected["status"].tolist()) == set(sampling.Status) - {sampling.Status.MISSING}
    places = np.random.default_rng(1).permutation(100)[:count].astype(np.int32)
    places[[20, 40, 55]] = [-1, 100, 2**31 - 1]
    rows["place"] = places
    tensor, words = ctx.host_array([100, 44], kernels.i32)
    words[:] = 77
    result = kernels.sample(
        ctx.upload(logits),
        ctx.upload(sampling.row_bytes(rows)),
        mask=ctx.upload(mask),
        spread=spread,
        results=tensor,
    )
    assert result.address == tensor.address
    ctx.synchronize()
    has_place = (places >= 0) & (places < 100)
    assert (np.delete(words, places[has_place], axis=0) == 77).all()
    got = sampling.results_of(words)[places[has_place]]
    expected = expected[has_place]
    for name in ("token", "status", "logprob", "num_top"):
        np.testing.assert_array_equal(got[name], expected[name])
    for theirs, ours in zip(expected, got, strict=True):
        num_top = theirs["num_top"]
        for name in ("top_ids", "top_logprobs"):
            np.testing.assert_array_equal(ours[name][:num_top], theirs[name][:num_top])


def test_an_event_behind_a_step_tells_when_its_results_are_there(ctx):
    """Steps take turns of two places; the next one is launched before a step's are read."""
    size = 1712
    logits = ctx.zeros([1, size], kernels.f32)
    rows = ctx.upload(sampling.row_bytes(_rows(1, temperature=0.0)))
    tensor, words = ctx.host_array([2, 44], kernels.i32)
    with ctx.capture() as graph:
        kernels.sample(logits, rows, results=tensor)
    events = [ctx.event(sleeps=True) for _ in range(2)]
    got = []
    for step in range(300):
        turn = step % 2
        if step >= 2:
            events[turn].synchronize()
            got.append(int(words[turn, 0]))
        words[turn] = -1
        row = np.zeros((1, size), np.float32)
        row[0, step + 5] = 1.0
        logits.copy_from(row)
        rows.copy_from(sampling.row_bytes(_rows(1, temperature=0.0, place=turn)))
        graph.launch()
        events[turn].record()
    assert got == list(range(5, 303))


def test_bad_arguments_are_named(ctx):
    logits = ctx.zeros([2, 64], kernels.f32)
    rows = ctx.upload(sampling.row_bytes(_rows(2)))
    with pytest.raises(ValueError, match=r"rows: expected u8 \[2, 64\]"):
        kernels.sample(logits, rows.slice(0, 1))
    with pytest.raises(ValueError, match=r"mask: expected i32 \[\*, 2\]"):
        kernels.sample(logits, rows, mask=ctx.zeros([1, 3], kernels.i32))
    with pytest.raises(ValueError, match=r"results: expected i32 \[\*, 44\], found i32 \[2, 43\]"):
        kernels.sample(logits, rows, results=ctx.zeros([2, 43], kernels.i32))
    with pytest.raises(ValueError, match="num_valid: 65 is not between 1 and the 64 columns"):
        kernels.sample(logits, rows, num_valid=65)
