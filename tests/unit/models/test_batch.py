"""A Batch refuses arrays that do not fit together."""

import numpy as np
import pytest

from backend.batch import Batch
from backend.errors import InternalError


def _fields(**changes):
    """Two sequences: three new tokens of five, and one decode of nine."""
    fields = {
        "token_ids": np.array([5, 6, 7, 8], dtype=np.int32),
        "positions": np.zeros((3, 4), dtype=np.int32),
        "slot_mapping": np.arange(4, dtype=np.int64),
        "query_starts": np.array([0, 3, 4], dtype=np.int32),
        "context_lens": np.array([5, 9], dtype=np.int32),
        "block_tables": np.zeros((2, 3), dtype=np.int32),
        "logit_rows": np.array([3, 2], dtype=np.int32),
        "vision_rows": np.array([0, 1], dtype=np.int32),
        "media_rows": np.zeros(0, dtype=np.int32),
    }
    return {**fields, **changes}


def _int32(*values):
    return np.array(values, dtype=np.int32)


def test_counts():
    batch = Batch(**_fields())
    assert (batch.num_tokens, batch.num_seqs) == (4, 2)
    np.testing.assert_array_equal(batch.query_lens, [3, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.zeros((3, 5), np.int32)}, r"positions is int32 \[3, 5\]"),
        ({"slot_mapping": np.arange(4, dtype=np.int32)}, "slot_mapping is int32"),
        ({"query_starts": _int32(0, 4)}, r"query_starts is int32 \[2\]"),
        ({"query_starts": _int32(0, 4, 4)}, "do not ascend"),
        ({"query_starts": _int32(0, 1, 3)}, "end at 3 of 4 tokens"),
        ({"context_lens": _int32(2, 9)}, "sequence 0 has 3 new tokens but a context of 2"),
        ({"logit_rows": _int32(4)}, "logit_rows point outside of 4 tokens"),
        ({"vision_rows": _int32(1, 0)}, "vision_rows do not ascend"),
        ({"vision_rows": _int32(1, 1)}, "vision_rows do not ascend"),
        ({"media_rows": _int32(0)}, "1 media_rows without media_embeddings"),
        ({"media_embeddings": object()}, "0 media_rows with media_embeddings"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(changes, message):
    with pytest.raises(InternalError, match=message):
        Batch(**_fields(**changes))


def test_an_empty_batch_is_refused():
    empty = _int32()
    with pytest.raises(InternalError, match="query_starts"):
        Batch(
            token_ids=empty,
            positions=np.zeros((3, 0), np.int32),
            slot_mapping=np.zeros(0, np.int64),
            query_starts=_int32(0),
            context_lens=empty,
            block_tables=np.zeros((0, 0), np.int32),
            logit_rows=empty,
            vision_rows=empty,
            media_rows=empty,
        )
