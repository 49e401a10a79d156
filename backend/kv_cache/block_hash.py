"""The name of a full block's content: equal names mean equal K/V, whoever asks.

K and V of a token depend on every token before it, on the tokens' rotary positions, on which of
them were routed to the vision experts, and on the pictures behind placeholder tokens. So a block's
hash chains all of that: what precedes it through its parent's hash, the rest directly.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 32
ROOT_HASH = bytes(HASH_BYTES)
"""The parent of the first block of a sequence without a salt."""


def root_hash(cache_salt: str) -> bytes:
    """The parent of the first block of a sequence that shares its prefix only with sequences of the
    same salt; ROOT_HASH without one. A BLAKE2 personalisation keeps it apart from any block's."""
    if not cache_salt:
        return ROOT_HASH
    salt = cache_salt.encode()
    return hashlib.blake2b(salt, digest_size=HASH_BYTES, person=b"cache_salt").digest()


def hash_block(
    parent: bytes,
    token_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    is_vision: NDArray[np.bool_],
    media: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """BLAKE2b-256 of one full block.

    `token_ids` int32 [block_size], `positions` int32 [3, block_size], `is_vision` bool
    [block_size]. `media`: for each item with tokens in the block, in order, where the block starts
    relative to the item's first token (negative when the item begins inside the block) and the
    item's 32-byte digest. The same picture elsewhere in the block thus gives another hash.

    256 bits of a cryptographic hash, because a collision would show one user another's context.
    Every part has a fixed length and the variable one comes last: no two inputs concatenate alike.
    """
    state = hashlib.blake2b(parent, digest_size=HASH_BYTES)
    state.update(token_ids.astype("<i4").tobytes())
    state.update(positions.astype("<i4").tobytes())
    state.update(is_vision.tobytes())
    for offset, digest in media:
        state.update(struct.pack("<q", offset))
        state.update(digest)
    return state.digest()
