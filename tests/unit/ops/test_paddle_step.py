"""What a step knows of its tokens: their embeddings, their media, the rows that give logits."""

import numpy as np
import pytest

from backend.batch import Batch
from backend.ops import AttentionShape, RopeSpec


@pytest.fixture
def table():
    return np.random.RandomState(0).standard_normal((7, 3)).astype(np.float32)


def _step(ops, media=None):
    rows = np.array([1, 3] if media is not None else [], dtype=np.int32)
    batch = Batch(
        token_ids=np.array([6, 0, 6, 2], dtype=np.int32),
        positions=np.zeros((3, 4), dtype=np.int32),
        slot_mapping=np.arange(4, dtype=np.int64),
        query_starts=np.array([0, 1, 4], dtype=np.int32),
        context_lens=np.array([1, 3], dtype=np.int32),
        block_tables=np.array([[0], [1]], dtype=np.int32),
        logit_rows=np.array([3, 0], dtype=np.int32),
        vision_rows=np.zeros(0, dtype=np.int32),
        media_rows=rows,
        media_embeddings=None if media is None else ops.from_numpy(media),
    )
    cache = ops.allocate_kv_cache(AttentionShape(1, 1, 4), 1, 2, 16)
    return ops.begin_step(batch, RopeSpec(4, 1e4, (0, 0), True), cache)


def test_tokens_are_looked_up(ops, table):
    embedded = ops.embed_tokens(ops.from_numpy(table), _step(ops))
    np.testing.assert_array_equal(ops.to_numpy(embedded), table[[6, 0, 6, 2]])


def test_media_rows_are_replaced_and_the_table_is_not(ops, table):
    media = np.full((2, 3), 5.0, dtype=np.float32)
    weights = ops.from_numpy(table)
    embedded = ops.to_numpy(ops.embed_tokens(weights, _step(ops, media)))
    np.testing.assert_array_equal(embedded[[1, 3]], media)
    np.testing.assert_array_equal(embedded[[0, 2]], table[[6, 6]])
    np.testing.assert_array_equal(ops.to_numpy(weights), table)


def test_logit_rows_come_in_the_order_they_are_wanted(ops):
    step = _step(ops)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    rows, residual = ops.logit_rows(ops.from_numpy(x), ops.from_numpy(-x), step)
    assert step.num_logit_rows == 2 and step.num_tokens == 4
    np.testing.assert_array_equal(ops.to_numpy(rows), x[[3, 0]])
    np.testing.assert_array_equal(ops.to_numpy(residual), -x[[3, 0]])
