import numpy as np
import pytest

from backend.errors import InvalidRequestError
from backend.sampler import Sampler, seed_key

LOGITS = np.array([3.0, 2.0, 1.0, 0.0, -1.0, -2.0], dtype=np.float32)


class Control:
    def __init__(self, allowed=None, forced=None, swap=None):
        self._allowed, self._forced, self._swap = allowed, forced, swap or {}

    def forced_token(self):
        return self._forced

    def allowed(self):
        if self._allowed is None or isinstance(self._allowed, InvalidRequestError):
            return self._allowed
        return np.isin(np.arange(len(LOGITS)), self._allowed)

    def admit(self, token_id):
        return self._swap.get(token_id, token_id)


@pytest.fixture
def sample(make_state):
    def _sample(control=None, **params):
        state = make_state(**params)
        object.__setattr__(state, "control", control)
        logits = LOGITS.copy()
        (result,) = Sampler().sample(logits[None], [state])
        assert (logits == LOGITS).all()
        return result

    return _sample


def counts(sample, control=None, **params):
    found = np.zeros(len(LOGITS), dtype=int)
    for n in range(300):
        found[sample(control, key=seed_key(n), **params).token_id] += 1
    return found


def test_minus_100_bans_and_plus_100_forces(sample):
    assert counts(sample, logit_bias=((0, -100.0), (1, -100.0)))[:2].tolist() == [0, 0]
    assert counts(sample, logit_bias=((5, 100.0),))[5] == 300


def test_a_bias_is_added_to_the_logit(sample):
    assert sample(temperature=0.0, logit_bias=((1, 0.9),)).token_id == 0
    assert sample(temperature=0.0, logit_bias=((1, 1.1),)).token_id == 1


def test_ids_of_padding_rows_have_no_logit(sample):
    params = {"repetition_penalty": 1.5, "min_tokens": 1, "bad_words": ((77,),)}
    result = sample(
        prompt=(0, 99), stop_ids=(88,), logit_bias=((66, 100.0),), temperature=0.0, **params
    )
    assert result.token_id == 0  # 3 / 1.5 = 2, and equal logits go to the lower id


def test_a_bad_word_never_becomes_complete(sample):
    word = ((4, 0, 1),)
    assert (
        sample(temperature=0.0, output=[4, 0], bad_words=word, logit_bias=((1, 9.0),)).token_id == 0
    )
    assert sample(temperature=0.0, output=[0], bad_words=word, logit_bias=((1, 9.0),)).token_id == 1
    assert sample(temperature=0.0, output=[], bad_words=word, logit_bias=((1, 9.0),)).token_id == 1


def test_bad_words_of_one_token_and_of_two_that_end_alike(sample):
    bad = ((0,), (3, 1), (4, 1), (4, 2))
    assert sample(temperature=0.0, output=[3], bad_words=bad).token_id == 2
    assert sample(temperature=0.0, output=[4], bad_words=bad).token_id == 3
    assert sample(temperature=0.0, output=[5], bad_words=bad).token_id == 1


def test_only_what_a_grammar_allows_is_sampled(sample):
    found = counts(sample, Control(allowed=[2, 4]))
    assert found[[2, 4]].sum() == 300 and found[2] > found[4] > 0


def test_a_forced_token_comes_whatever_the_logits_say(sample):
    result = sample(Control(forced=5), logprobs=1)
    assert (result.token_id, result.logprob.token_id) == (5, 5)
    assert result.logprob.top[0][0] == 0


def test_a_sampled_token_may_be_exchanged(sample):
    assert sample(Control(swap={0: 3}), temperature=0.0).token_id == 3


def test_a_control_that_allows_everything_changes_no_draw(sample):
    for n in range(50):
        free = sample(key=seed_key(n)).token_id
        assert sample(Control(), key=seed_key(n)).token_id == free
        assert sample(Control(allowed=range(6)), key=seed_key(n)).token_id == free


def test_a_grammar_and_bans_that_leave_nothing_are_the_requests_error(sample):
    result = sample(Control(allowed=[1]), bad_words=((1,),))
    assert isinstance(result, InvalidRequestError) and result.code == "grammar_error"
    error = InvalidRequestError("x", code="grammar_error")
    assert sample(Control(allowed=error)) is error
