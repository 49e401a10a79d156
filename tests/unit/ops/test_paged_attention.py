"""Projection, rope, cache and paged attention against dense float64 attention."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.batch import Batch
from backend.ops import AttentionShape, RopeSpec, create_ops, paddle_step
from backend.ops.rope import alternating_pair_axes, rope_angles

BLOCK_SIZE = 4
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM
HIDDEN = 10
ROPE = RopeSpec(HEAD_DIM, 500000.0, alternating_pair_axes((1, 1, 2)), interleaved=True)


@dataclass
class Context:
    """x [n, HIDDEN], positions [3, n]; `past` of the n tokens ran before."""

    x: np.ndarray
    positions: np.ndarray
    past: int
    blocks: np.ndarray

    @property
    def slots(self):
        at = np.arange(len(self.x))
        return self.blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE


def _make(lengths, seed=0):
    """Sequences of (past, new) tokens over shuffled blocks, and a weight."""
    random = np.random.RandomState(seed)
    counts = [-(-(past + new) // BLOCK_SIZE) for past, new in lengths]
    order = random.permutation(sum(counts) + 2)
    starts = np.cumsum([0, *counts])
    seqs = [
        Context(
            x=random.standard_normal((past + new, HIDDEN)),
            positions=random.randint(0, 40, size=(3, past + new)).astype(np.int32),
            past=past,
            blocks=order[start : start + count],
        )
        for (past, new), count, start in zip(lengths, counts, starts, strict=False)
    ]
    return seqs, random.standard_normal((HIDDEN, WIDTH)) / 3, len(order)


def _batch(seqs, spans):
    tables = np.zeros((len(seqs), max(len(seq.blocks) for seq in seqs)), dtype=np.int32)
    for row, seq in enumerate(seqs):
        tables[row, : len(seq.blocks)] = seq.blocks
    lens = [stop - start for start, stop in spans]
    empty = np.zeros(0, dtype=np.int32)
    cut = [(seq, slice(*span)) for seq, span in zip(seqs, spans, strict=True)]
    return Batch(
        token_ids=np.zeros(sum(lens), dtype=np.int32),
        positions=np.concatenate([seq.positions[:, span] for seq, span in cut], axis=1),
        slot_mapping=np.concatenate([seq.slots[span] for seq, span in cut]).astype(np.int64),
        query_starts=np.cumsum([0, *lens]).astype(np.int32),
        context_lens=np.array([stop for _, stop in spans], dtype=np.int32),
        block_tables=tables,
        logit_rows=empty,
        vision_rows=empty,
        media_rows=empty,
    )


def _attend(ops, cache, seqs, weight, spans):
    batch = _batch(seqs, spans)
    step = ops.begin_step(batch, ROPE, cache)
    rows = np.concatenate([seq.x[slice(*span)] for seq, span in zip(seqs, spans, strict=True)])
    x, w = (ops.from_numpy(array.astype(np.float32)) for array in (rows, weight))
    q = ops.project_qkv(x, w, step, cache, layer=1)
    return ops.to_numpy(ops.paged_attention(q, step, cache, layer=1))


def _run(ops, seqs, weight, num_blocks):
    """The new tokens of every sequence in one batch, after their pasts."""
    cache = ops.allocate_kv_cache(AttentionShape(HEADS, KV_HEADS, HEAD_DIM), 2, num_blocks, 4)
    for seq in seqs:
        if seq.past:
            _attend(ops, cache, [seq], weight, [(0, seq.past)])
    return _attend(ops, cache, seqs, weight, [(seq.past, len(seq.x)) for seq in seqs])


def _dense(seq, weight):
    """Causal attention over the whole sequence, new tokens only: float64 [new, heads · d]."""
    qkv = (seq.x @ weight).reshape(-1, HEADS + 2 * KV_HEADS, HEAD_DIM)
    angles = rope_angles(seq.positions, ROPE).astype(np.float64)[:, None]
    turned = qkv.copy()
    even, odd = qkv[..., 0::2], qkv[..., 1::2]
    turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[..., 1::2] = odd * np.cos(angles) + even * np.sin(angles)
    q, k, v = turned[:, :HEADS], turned[:, HEADS : HEADS + KV_HEADS], qkv[:, HEADS + KV_HEADS :]
    out = []
    for token in range(seq.past, len(seq.x)):
        for head in range(HEADS):
            kv_head = head // (HEADS // KV_HEADS)
            scores = k[: token + 1, kv_head] @ q[token, head] / np.sqrt(HEAD_DIM)
            p = np.exp(scores - scores.max())
            out.append(p / p.sum() @ v[: token + 1, kv_head])
    return np.array(out).reshape(-1, HEADS * HEAD_DIM)


def _assert_equals_dense(ops, lengths, seed=0):
    seqs, weight, num_blocks = _make(lengths, seed)
    expected = np.concatenate([_dense(seq, weight) for seq in seqs])
    np.testing.assert_allclose(_run(ops, seqs, weight, num_blocks), expected, atol=2e-5)


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([(0, 1)], id="first token"),
        pytest.param([(0, 13)], id="prefill"),
        pytest.param([(8, 5)], id="chunk after whole blocks"),
        pytest.param([(7, 6)], id="chunk inside a block"),
        pytest.param([(3, 1), (9, 1), (5, 1)], id="decodes"),
        pytest.param([(2, 1), (70, 1), (1, 1), (33, 1)], id="decodes of very unequal length"),
        pytest.param([(4, 1), (0, 7), (12, 1), (3, 4), (0, 1)], id="mixed"),
    ],
)
def test_equals_dense_attention(ops, lengths):
    _assert_equals_dense(ops, lengths)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_any_mix_of_sequences_equals_dense_attention(lengths, seed):
    _assert_equals_dense(create_ops("paddle", "cpu", 1), lengths, seed)


def test_long_prefills_are_cut_into_query_tiles(ops, monkeypatch):
    monkeypatch.setattr(paddle_step, "MAX_SCORES", 200)
    _assert_equals_dense(ops, [(5, 30), (2, 1), (0, 11)])


def test_whatever_lies_in_other_slots_is_not_seen(ops):
    seqs, weight, num_blocks = _make([(6, 1), (0, 5), (20, 1)])
    shape = AttentionShape(HEADS, KV_HEADS, HEAD_DIM)
    outputs = []
    for filler in (0.0, 1e4):
        cache = ops.allocate_kv_cache(shape, 2, num_blocks, BLOCK_SIZE)
        for tensor in (*cache.keys, *cache.values):
            tensor.fill_(filler)
        for seq in seqs:
            if seq.past:
                _attend(ops, cache, [seq], weight, [(0, seq.past)])
        spans = [(seq.past, len(seq.x)) for seq in seqs]
        outputs.append(_attend(ops, cache, seqs, weight, spans))
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_layers_keep_their_own_keys_and_values(ops):
    seqs, weight, num_blocks = _make([(0, 5)])
    cache = ops.allocate_kv_cache(AttentionShape(HEADS, KV_HEADS, HEAD_DIM), 2, num_blocks, 4)
    _attend(ops, cache, seqs, weight, [(0, 5)])
    assert ops.to_numpy(cache.keys[1]).any()
    assert not ops.to_numpy(cache.keys[0]).any()
    assert not ops.to_numpy(cache.values[0]).any()
