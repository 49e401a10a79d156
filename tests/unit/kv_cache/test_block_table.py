import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.kv_cache import BlockTable


def test_missing_blocks_round_up():
    table = BlockTable(block_size=4)
    assert [table.num_missing(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    table.extend([7])
    assert [table.num_missing(n) for n in (0, 4, 5, 9)] == [0, 0, 1, 2]


def test_slots_follow_the_table():
    table = BlockTable(block_size=4)
    table.extend([5, 2])
    assert table.slots(2, 6).tolist() == [22, 23, 8, 9]
    assert table.slots(5, 6).tolist() == [9]
    assert table.slots(2, 6).dtype == table.slots(5, 6).dtype == np.int64


def test_cleared_table_gives_its_blocks_back_once():
    table = BlockTable(block_size=4)
    table.extend([5, 2])
    assert table.clear() == [5, 2]
    assert table.clear() == []


@given(st.lists(st.lists(st.integers(0, 1000), max_size=30), max_size=10))
def test_a_table_grows_like_a_list(parts):
    table = BlockTable(block_size=16)
    for part in parts:
        table.extend(part)
    assert table.block_ids.tolist() == [block_id for part in parts for block_id in part]
    assert table.block_ids.dtype == np.int32
