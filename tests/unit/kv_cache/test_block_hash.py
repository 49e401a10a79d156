import numpy as np
import pytest

from backend.kv_cache import ROOT_HASH, hash_block, root_hash

BASE = {
    "parent": ROOT_HASH,
    "token_ids": np.arange(4, dtype=np.int32),
    "positions": np.tile(np.arange(4, dtype=np.int32), (3, 1)),
    "is_vision": np.zeros(4, dtype=bool),
    "media": ((2, b"a" * 32),),
}
CHANGES = {
    "another parent": {"parent": b"p" * 32},
    "another token": {"token_ids": np.array([0, 1, 2, 9], dtype=np.int32)},
    "another position on one axis": {
        "positions": np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 4]], dtype=np.int32)
    },
    "another expert routing": {"is_vision": np.array([False, False, False, True])},
    "another picture": {"media": ((2, b"b" * 32),)},
    "the same picture, shifted": {"media": ((3, b"a" * 32),)},
    "the same picture, beginning inside": {"media": ((-2, b"a" * 32),)},
    "no picture": {"media": ()},
    "two pictures": {"media": ((2, b"a" * 32), (-1, b"a" * 32))},
}


def test_equal_content_has_equal_hashes_whatever_the_arrays_are():
    strided = np.arange(8, dtype=np.int32)[::2] // 2
    assert hash_block(**BASE) == hash_block(**{**BASE, "token_ids": strided})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_anything_that_changes_keys_and_values_changes_the_hash(change):
    assert hash_block(**BASE) != hash_block(**{**BASE, **change})


def test_a_hash_has_256_bits():
    assert len(hash_block(**BASE)) * 8 == 256


def test_a_salt_gives_a_root_of_its_own_and_none_the_common_one():
    roots = [root_hash(salt) for salt in ("", "a", "b", "é", "a" * 200)]
    assert roots[0] == ROOT_HASH
    assert len(set(roots)) == len(roots)
    assert {len(root) for root in roots} == {len(ROOT_HASH)}
    assert root_hash("a") == roots[1]
