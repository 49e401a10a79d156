"""Mixture of experts against a per-token float64 reference."""

import numpy as np
import pytest

HIDDEN, WIDTH, EXPERTS = 12, 6, 8


def _silu(x):
    return x / (1 + np.exp(-x))


def _reference(x, router, bias, up_gate, down, top_k):
    out = np.zeros_like(x, dtype=np.float64)
    for token, row in enumerate(x.astype(np.float64)):
        z = row @ router
        p = np.exp(z - z.max())
        p /= p.sum()
        chosen = np.argsort(-(p + bias[0]), kind="stable")[:top_k]
        for expert in chosen:
            hidden = row @ up_gate[expert]
            hidden = _silu(hidden[:WIDTH]) * hidden[WIDTH:]
            out[token] += p[expert] / p[chosen].sum() * (hidden @ down[expert])
    return out


def _make(seed, num_tokens):
    random = np.random.RandomState(seed)
    shapes = {
        "x": (num_tokens, HIDDEN),
        "router": (HIDDEN, EXPERTS),
        "bias": (1, EXPERTS),
        "up_gate": (EXPERTS, HIDDEN, 2 * WIDTH),
        "down": (EXPERTS, WIDTH, HIDDEN),
    }
    arrays = {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    arrays["bias"] *= np.float32(0.1)
    return arrays


def _run(ops, arrays, top_k, rows=None):
    names = ("x", "router", "bias", "up_gate", "down")
    x, router, bias, up_gate, down = (ops.from_numpy(arrays[name]) for name in names)
    row_tensor = None if rows is None else ops.from_numpy(np.array(rows))
    return ops.to_numpy(ops.moe(x, router, bias, up_gate, down, top_k, 1e-12, row_tensor))


@pytest.mark.parametrize(("num_tokens", "top_k"), [(1, 1), (1, 3), (9, 2), (40, 8)])
def test_equals_the_reference(ops, num_tokens, top_k):
    arrays = _make(num_tokens, num_tokens)
    expected = _reference(*arrays.values(), top_k)
    np.testing.assert_allclose(_run(ops, arrays, top_k), expected, atol=2e-5)


def test_only_the_given_rows_are_computed_in_their_order(ops):
    arrays = _make(3, 10)
    expected = _reference(*arrays.values(), 2)
    np.testing.assert_allclose(_run(ops, arrays, 2, rows=[7, 0, 4]), expected[[7, 0, 4]], atol=2e-5)


def test_one_expert_can_take_every_token(ops):
    arrays = _make(4, 10)
    arrays["bias"][0, 5] = 10.0
    expected = _reference(*arrays.values(), 1)
    np.testing.assert_allclose(_run(ops, arrays, 1), expected, atol=2e-5)


def test_experts_without_tokens_are_never_read(ops):
    arrays = _make(5, 6)
    arrays["bias"][0, :4] = 10.0
    expected = _reference(*arrays.values(), 4)
    arrays["up_gate"][4:] = np.nan
    np.testing.assert_allclose(_run(ops, arrays, 4), expected, atol=2e-5)


def test_ties_go_to_the_lower_expert(ops):
    arrays = _make(6, 3)
    arrays["router"][:] = 0.0
    arrays["bias"][:] = 0.0
    expected = _reference(*arrays.values(), 2)
    arrays["down"][2:] = np.nan
    np.testing.assert_allclose(_run(ops, arrays, 2), expected, atol=2e-5)
