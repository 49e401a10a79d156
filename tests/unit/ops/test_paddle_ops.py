"""The small operations against numpy in float64."""

from math import erf

import numpy as np
import pytest


@pytest.fixture
def random():
    return np.random.RandomState(0)


def _float32(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def test_tensors_survive_the_round_trip(ops, random):
    x = _float32(random, 3, 4)
    np.testing.assert_array_equal(ops.to_numpy(ops.from_numpy(x)), x)
    np.testing.assert_array_equal(ops.to_numpy(ops.from_numpy(x.T)), x.T)
    ids = np.array([3, 1], dtype=np.int32)
    assert ops.to_numpy(ops.from_numpy(ids)).dtype == np.int32


def test_float64_becomes_the_model_dtype(ops, random):
    assert ops.to_numpy(ops.from_numpy(random.standard_normal(3))).dtype == np.float32


def test_rows_are_sliced_and_joined(ops, random):
    x = _float32(random, 5, 3)
    tensor = ops.from_numpy(x)
    np.testing.assert_array_equal(ops.to_numpy(ops.slice_rows(tensor, 1, 3)), x[1:3])
    joined = ops.concat_rows([ops.slice_rows(tensor, 3, 5), ops.slice_rows(tensor, 0, 3)])
    np.testing.assert_array_equal(ops.to_numpy(joined), np.concatenate([x[3:], x[:3]]))


def _rms_norm(x, weight, eps):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def test_rms_norm(ops, random):
    x, weight = _float32(random, 3, 8), _float32(random, 8)
    result = ops.rms_norm(ops.from_numpy(x), ops.from_numpy(weight), 1e-2)
    np.testing.assert_allclose(ops.to_numpy(result), _rms_norm(x, weight, 1e-2), atol=1e-6)


def test_add_rms_norm_returns_the_sum_too(ops, random):
    x, residual, weight = _float32(random, 3, 8), _float32(random, 3, 8), _float32(random, 8)
    tensors = [ops.from_numpy(array) for array in (x, residual, weight)]
    normed, total = ops.add_rms_norm(*tensors, 1e-5)
    np.testing.assert_allclose(ops.to_numpy(total), x + residual, atol=1e-6)
    expected = _rms_norm(x + residual, weight, 1e-5)
    np.testing.assert_allclose(ops.to_numpy(normed), expected, atol=1e-5)
    _, alone = ops.add_rms_norm(tensors[0], None, tensors[2], 1e-5)
    np.testing.assert_array_equal(ops.to_numpy(alone), x)


def test_layer_norm(ops, random):
    x, weight, bias = _float32(random, 3, 8), _float32(random, 8), _float32(random, 8)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(variance + 1e-3) * weight + bias
    result = ops.layer_norm(*(ops.from_numpy(a) for a in (x, weight, bias)), 1e-3)
    np.testing.assert_allclose(ops.to_numpy(result), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (None, lambda y: y),
        ("gelu", lambda y: y * 0.5 * (1 + np.vectorize(erf)(y / np.sqrt(2)))),
        ("quick_gelu", lambda y: y / (1 + np.exp(-1.702 * y))),
    ],
)
def test_linear_with_bias_and_activation(ops, random, activation, function):
    x, weight, bias = _float32(random, 4, 6), _float32(random, 6, 5), _float32(random, 5)
    tensors = [ops.from_numpy(array) for array in (x, weight, bias)]
    expected = function(x.astype(np.float64) @ weight + bias)
    result = ops.to_numpy(ops.linear(*tensors, activation=activation))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_swiglu_takes_the_gate_from_the_first_half(ops, random):
    x, weight = _float32(random, 4, 6), _float32(random, 6, 10)
    gate, up = np.split(x.astype(np.float64) @ weight, 2, axis=1)
    result = ops.to_numpy(ops.linear_swiglu(ops.from_numpy(x), ops.from_numpy(weight)))
    np.testing.assert_allclose(result, gate / (1 + np.exp(-gate)) * up, atol=1e-5)


def test_logits_of_a_tied_and_of_an_own_head(ops, random):
    x, head = _float32(random, 2, 6), _float32(random, 6, 9)
    own = ops.to_numpy(ops.logits(ops.from_numpy(x), ops.from_numpy(head), transposed=False))
    tied = ops.to_numpy(ops.logits(ops.from_numpy(x), ops.from_numpy(head.T), transposed=True))
    np.testing.assert_allclose(own, x @ head, atol=1e-5)
    np.testing.assert_allclose(tied, own, atol=1e-6)
