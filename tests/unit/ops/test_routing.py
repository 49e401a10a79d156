"""Choice and weights of experts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.ops.routing import route


def _route(probabilities, bias=None, top_k=2, norm_min=1e-12):
    p = np.array(probabilities, dtype=np.float32)
    b = np.zeros((1, p.shape[1])) if bias is None else np.array([bias])
    return route(p, b.astype(np.float32), top_k, norm_min)


def _chosen(routing, top_k):
    """Experts of each token, in the order of their choice."""
    experts = np.repeat(np.arange(len(routing.counts)), routing.counts)
    return experts[routing.places].reshape(-1, top_k)


def test_the_largest_probabilities_win_and_are_normalised():
    routing = _route([[0.1, 0.5, 0.1, 0.3]])
    np.testing.assert_array_equal(_chosen(routing, 2), [[1, 3]])
    np.testing.assert_allclose(routing.weights, [[0.625, 0.375]], rtol=1e-6)


def test_the_correction_bias_changes_the_choice_but_not_the_weights():
    routing = _route([[0.1, 0.5, 0.1, 0.3]], bias=[1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(_chosen(routing, 2), [[0, 1]])
    np.testing.assert_allclose(routing.weights, [[0.1 / 0.6, 0.5 / 0.6]], rtol=1e-6)


def test_the_lower_index_wins_a_tie():
    routing = _route([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]])
    np.testing.assert_array_equal(_chosen(routing, 2), [[0, 1], [1, 3]])


def test_a_tiny_sum_is_divided_by_the_floor():
    routing = _route([[1e-6, 2e-6, 0.0]], norm_min=1e-3)
    np.testing.assert_allclose(routing.weights, [[2e-3, 1e-3]], rtol=1e-5)


def test_rows_are_sorted_by_expert_and_lead_back_to_their_tokens():
    routing = _route([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.6, 0.1, 0.3]])
    np.testing.assert_array_equal(routing.counts, [2, 2, 2])
    np.testing.assert_array_equal(routing.tokens, [0, 2, 0, 1, 1, 2])
    np.testing.assert_array_equal(routing.tokens[routing.places], [0, 0, 1, 1, 2, 2])


def test_an_expert_may_take_all_tokens_and_others_none():
    routing = _route([[0.1, 0.8, 0.1]] * 5, top_k=1)
    np.testing.assert_array_equal(routing.counts, [0, 5, 0])


@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(0, 2**31 - 1),
    st.booleans(),
)
def test_choice_equals_a_stable_sort(num_tokens, top_k, seed, coarse):
    random = np.random.RandomState(seed)
    p = random.rand(num_tokens, 8).astype(np.float32)
    bias = random.rand(1, 8).astype(np.float32)
    if coarse:  # many ties
        p, bias = np.round(p * 3) / 4 + np.float32(0.25), np.zeros_like(bias)
    routing = route(p, bias, top_k, 1e-12)
    expected = np.argsort(-(p + bias), axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(_chosen(routing, top_k), expected)
    np.testing.assert_allclose(routing.weights.sum(axis=1), 1.0, rtol=1e-5)
    assert routing.counts.sum() == num_tokens * top_k
