import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.request import SamplingParams
from backend.sampler.candidates import select_candidates


def reference(logits, params):
    """The same rules with a full sort of Python floats; top_p as `params` say to the last bit."""
    scaled = [float(x) / params.temperature for x in logits]
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    highest = scaled[order[0]]
    weights = {i: float(np.exp(scaled[i] - highest)) for i in order}
    kept = [i for i in order if weights[i] >= params.min_p * (1 - 1e-12)]
    if params.top_k:
        kept = kept[: params.top_k]
    if params.top_p < 1:
        total = sum(weights[i] for i in kept)
        mass, count = 0.0, 0
        while mass < params.top_p * total and count < len(kept):
            mass += weights[kept[count]]
            count += 1
        kept = kept[:count]
    return {i: weights[i] for i in kept}


# Multiples of 0.37 give many exact ties and cross several cut-off margins.
logit_rows = st.lists(st.integers(-60, 60).map(lambda n: n * 0.37), min_size=1, max_size=60)


@settings(max_examples=400, deadline=None)
@given(
    logits=logit_rows,
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.01, 1.0),
    min_p=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
)
@example(logits=[11.1, 11.1, -15.91], temperature=1.0, top_k=0, top_p=0.5, min_p=0.0)
def test_filters_keep_what_a_full_sort_keeps(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = np.array(logits, dtype=np.float32)
    ids, weights = select_candidates(row, params)
    # Where sums reach top_p but for their rounding, all of those numbers of tokens are right.
    around = [top_p * (1 - 1e-11), min(1.0, top_p * (1 + 1e-11))]
    fewer, expected = (reference(row, msgspec.structs.replace(params, top_p=p)) for p in around)
    assert len(set(ids.tolist())) == len(ids)
    assert set(fewer) <= set(ids.tolist()) <= set(expected)
    for token_id, weight in zip(ids.tolist(), weights, strict=True):
        assert weight == pytest.approx(expected[token_id], rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    "params, kept",
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.51}, [0, 1]),
        ({"top_p": 0.81}, [0, 1, 2]),
        ({"min_p": 0.39}, [0, 1, 2]),
        ({"min_p": 0.41}, [0, 1]),
        ({"top_k": 2, "top_p": 0.6}, [0]),  # 0.5 / 0.75: of what top_k left
        ({"min_p": 0.41, "top_p": 0.7}, [0, 1]),
    ],
)
def test_filters_by_hand(params, kept):
    logits = np.log(np.array([0.5, 0.25, 0.2, 0.05], dtype=np.float64)).astype(np.float32)
    if params == {"top_p": 0.5}:
        logits[0] += 1e-6  # float32 of log 0.5 lies just below
    ids, _ = select_candidates(logits, SamplingParams(**params))
    assert sorted(ids.tolist()) == kept


def test_equal_logits_keep_the_lower_ids():
    ids, _ = select_candidates(np.zeros(9, dtype=np.float32), SamplingParams(top_k=3))
    assert ids.tolist() == [0, 1, 2]


def test_temperature_scales_logits():
    logits = np.array([0.0, -1.0], dtype=np.float32)
    _, weights = select_candidates(logits, SamplingParams(temperature=0.5))
    assert weights.tolist() == pytest.approx([1.0, np.exp(-2.0)])


def test_masked_tokens_are_never_candidates_of_a_filter():
    logits = np.array([0.0, -np.inf, -np.inf], dtype=np.float32)
    for params in (SamplingParams(top_k=2), SamplingParams(top_p=0.9), SamplingParams(min_p=0.1)):
        ids, weights = select_candidates(logits, params)
        assert weights[ids != 0].sum() == 0


def test_a_large_vocabulary_gives_the_same_as_a_full_sort():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(20_000) * 2).astype(np.float32)
    for params in (
        SamplingParams(top_p=0.7),
        SamplingParams(top_k=100, top_p=0.95, temperature=2.0),
        SamplingParams(top_k=15_000),
        SamplingParams(top_p=0.99, temperature=5.0, min_p=0.001),
    ):
        ids, _ = select_candidates(logits, params)
        assert sorted(ids.tolist()) == sorted(reference(logits, params))
