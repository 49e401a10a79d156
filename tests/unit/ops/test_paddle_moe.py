"""Mixture of experts against a per-token float64 reference."""

import numpy as np
import pytest

from backend.batch import Batch
from backend.ops import AttentionShape, ExpertGroup, RopeSpec, SharedExperts
from backend.ops.paddle_moe import run_group

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


def _group(ops, arrays):
    return ExpertGroup(*(ops.from_numpy(arrays[n]) for n in ("router", "bias", "up_gate", "down")))


def _run(ops, arrays, top_k):
    return ops.to_numpy(run_group(ops.from_numpy(arrays["x"]), _group(ops, arrays), top_k, 1e-12))


@pytest.mark.parametrize(("num_tokens", "top_k"), [(1, 1), (1, 3), (9, 2), (40, 8)])
def test_equals_the_reference(ops, num_tokens, top_k):
    arrays = _make(num_tokens, num_tokens)
    expected = _reference(*arrays.values(), top_k)
    np.testing.assert_allclose(_run(ops, arrays, top_k), expected, atol=2e-5)


def test_rows_go_to_the_experts_of_their_modality_and_all_to_the_shared_ones(ops):
    texts, pictures = _make(3, 10), _make(7, 10)
    random = np.random.RandomState(8)
    shared = [random.standard_normal(s).astype(np.float32) for s in ((12, 10), (5, 12))]
    vision_rows = [0, 4, 7]
    x = texts["x"]
    expected = _reference(*texts.values(), 2)
    expected[vision_rows] = _reference(*{**pictures, "x": x}.values(), 2)[vision_rows]
    hidden = x.astype(np.float64) @ shared[0]
    expected += (_silu(hidden[:, :5]) * hidden[:, 5:]) @ shared[1]

    step = _step(ops, len(x), vision_rows)
    groups = [_group(ops, arrays) for arrays in (texts, pictures)]
    weights = ops.moe_weights(groups, SharedExperts(*map(ops.from_numpy, shared)))
    got = ops.to_numpy(ops.moe(ops.from_numpy(x), weights, 2, 1e-12, step))
    np.testing.assert_allclose(got, expected, atol=5e-5)


def _step(ops, num_tokens, vision_rows):
    empty = np.zeros(0, dtype=np.int32)
    batch = Batch(
        token_ids=np.zeros(num_tokens, dtype=np.int32),
        positions=np.zeros((3, num_tokens), dtype=np.int32),
        slot_mapping=np.arange(num_tokens, dtype=np.int64),
        query_starts=np.array([0, num_tokens], dtype=np.int32),
        context_lens=np.array([num_tokens], dtype=np.int32),
        block_tables=np.zeros((1, 1), dtype=np.int32),
        logit_rows=empty,
        vision_rows=np.array(vision_rows, dtype=np.int32),
        media_rows=empty,
    )
    cache = ops.allocate_kv_cache(AttentionShape(1, 1, 4), 1, 1, 16)
    return ops.begin_step(batch, RopeSpec(4, 1e4, (0, 0), True), cache)


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
