import numpy as np
import pytest

from backend.errors import InternalError
from backend.sampler import Sampler, seed_key


def sample(logits, *states):
    return Sampler().sample(np.array(logits, dtype=np.float32), list(states))


def test_greedy_takes_the_largest_logit_and_the_lowest_id_among_equals(make_state):
    results = sample([[0, 3, 1], [2, 2, 1]], *[make_state(temperature=0.0)] * 2)
    assert [result.token_id for result in results] == [1, 0]


@pytest.mark.parametrize("params", [{"temperature": 1e-6}, {"top_p": 0.0}, {"top_k": 1}])
def test_settings_that_leave_one_token_are_greedy_whatever_the_seed(make_state, params):
    row = np.random.default_rng(0).standard_normal(50)
    results = sample([row] * 20, *[make_state(seed=seed, **params) for seed in range(20)])
    assert {result.token_id for result in results} == {int(row.argmax())}


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(make_state):
    rows = np.random.default_rng(0).standard_normal((8, 200)).astype(np.float32)
    states = [make_state(seed=seed, output=[1] * seed, top_p=0.9) for seed in range(8)]
    together = sample(rows, *states)
    alone = [sample(row[None], state)[0] for row, state in zip(rows, states, strict=True)]
    backwards = sample(rows[::-1], *states[::-1])[::-1]
    assert together == alone == backwards


def test_penalties_change_the_choice_and_not_the_given_logits(make_state):
    logits = np.array([[3.0, 2.0, 0.0]], dtype=np.float32)
    state = make_state(output=[0, 0], frequency_penalty=1.0, temperature=0.0)
    assert Sampler().sample(logits, [state])[0].token_id == 1
    assert logits.tolist() == [[3.0, 2.0, 0.0]]


def test_min_tokens_keeps_stop_ids_away_then_lets_them_come(make_state):
    kwargs = {"stop_ids": [2], "min_tokens": 1, "temperature": 0.0}
    first, second = sample([[0, 1, 9]] * 2, make_state(**kwargs), make_state(output=[1], **kwargs))
    assert (first.token_id, second.token_id) == (1, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_a_bad_number_fails_alone(make_state, bad):
    rows = [[0.0, 1.0, 2.0], [0.0, bad, 2.0], [3.0, 1.0, 2.0]]
    first, second, third = sample(rows, *[make_state(temperature=0.0)] * 3)
    assert isinstance(second, InternalError)
    assert second.info().code == "numerical_error"
    assert (first.token_id, third.token_id) == (2, 0)


def test_minus_infinity_is_a_mask_and_a_row_of_it_is_an_error(make_state):
    masked, empty = sample([[-np.inf, 1.0], [-np.inf, -np.inf]], *[make_state(top_p=0.5)] * 2)
    assert masked.token_id == 1
    assert isinstance(empty, InternalError)


def test_a_mask_that_leaves_nothing_is_an_error(make_state):
    state = make_state(stop_ids=[0, 1], min_tokens=3)
    assert isinstance(sample([[1.0, 2.0]], state)[0], InternalError)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 2.0, "top_k": 6, "top_p": 0.9},
    ],
)
def test_draws_follow_the_distribution(make_state, params):
    num_draws = 8_000
    logits = np.array([0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, -3.0], dtype=np.float32)
    probabilities = _slow_probabilities(logits, **params)
    states = [make_state(key=seed_key(5), output=[0] * n, **params) for n in range(4)]
    states += [make_state(key=seed_key(1000 + n), **params) for n in range(num_draws - 4)]
    results = sample(np.tile(logits, (num_draws, 1)), *states)
    counts = np.bincount([result.token_id for result in results], minlength=8)
    assert counts[probabilities == 0].sum() == 0
    expected = num_draws * probabilities[probabilities > 0]
    chi_square = float(((counts[probabilities > 0] - expected) ** 2 / expected).sum())
    assert chi_square < 29.9  # at most 7 degrees of freedom, p = 1e-4


def _slow_probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    p = np.exp(logits.astype(np.float64) / temperature)
    p[p < min_p * p.max()] = 0
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()
