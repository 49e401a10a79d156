import numpy as np
import pytest

from backend.sampler import Sampler
from backend.sampler.logprobs import token_logprob

LOGITS = np.log(np.array([0.5, 0.25, 0.2, 0.05])).astype(np.float32)


def test_a_logprob_is_the_natural_log_of_the_probability():
    result = token_logprob(LOGITS + 7, token_id=2, num_top=0)
    assert result.logprob == pytest.approx(np.log(0.2), abs=1e-6)
    assert result.top == ()


def test_alternatives_come_most_likely_first():
    result = token_logprob(LOGITS[::-1].copy(), token_id=0, num_top=2)
    assert [token_id for token_id, _ in result.top] == [3, 2]
    assert result.top[0][1] == pytest.approx(np.log(0.5), abs=1e-6)


def test_equal_alternatives_come_in_id_order():
    result = token_logprob(np.zeros(6, dtype=np.float32), token_id=5, num_top=3)
    assert [token_id for token_id, _ in result.top] == [0, 1, 2]


def test_more_alternatives_than_tokens_gives_all_tokens():
    assert len(token_logprob(LOGITS, token_id=0, num_top=20).top) == 4


def test_impossible_tokens_are_no_alternatives():
    row = np.array([0.0, -np.inf, 0.0], dtype=np.float32)
    assert [token_id for token_id, _ in token_logprob(row, 0, 3).top] == [0, 2]


def test_reported_logprobs_are_the_models_own(make_state):
    state = make_state(
        output=[0], temperature=0.1, top_k=2, repetition_penalty=9.0, logprobs=2, seed=1
    )
    (result,) = Sampler().sample(LOGITS[None], [state])
    expected = dict(enumerate(np.log([0.5, 0.25, 0.2, 0.05])))
    assert result.logprob.token_id == result.token_id
    assert result.logprob.logprob == pytest.approx(expected[result.token_id], abs=1e-6)
    assert dict(result.logprob.top) == pytest.approx({0: expected[0], 1: expected[1]}, abs=1e-6)


def test_logprobs_are_reported_only_when_asked_for(make_state):
    none, zero = Sampler().sample(np.stack([LOGITS] * 2), [make_state(), make_state(logprobs=0)])
    assert none.logprob is None
    assert zero.logprob.top == ()
