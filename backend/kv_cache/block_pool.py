"""Owner of all KV blocks: reference counts, reuse by content, eviction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from backend.errors import InternalError

# Every block is in exactly one of three states:
#
#            allocate                       publish: its full content gets a hash
#   unused ───────────▶ held (references ≥ 1) ◀────────────── acquire ──────────────┐
#      ▲                  │                                                         │
#      └── free, no hash ─┴─ free of the last reference, with a hash ──▶ cached (references 0)
#                                                                        │ least recently freed
#                         held ◀── allocate, once nothing is unused ─────┘ goes first, loses hash
#
#   unused + held + cached = num_blocks;  num_free_blocks = unused + cached
#   a hash names at most one block, a block has at most one hash, an unused block has none
#   a block with a hash is full and never written again: only such blocks are ever shared


class BlockPool:
    """Blocks 1..num_blocks. Takes and gives block numbers; never touches their memory.

    Block 0 is never given out: shorter block tables of a batch are padded with it, and what it
    holds must not be one request's, whose NaN could reach another's masked attention.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_references = [0] * (num_blocks + 1)
        self._unused = list(range(num_blocks, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._hash_of: list[bytes | None] = [None] * (num_blocks + 1)
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that `allocate` can give out now."""
        return len(self._unused) + len(self._cached)

    @property
    def num_cached_blocks(self) -> int:
        """Blocks that nobody holds and whose content can still be reused."""
        return len(self._cached)

    @property
    def num_unused_blocks(self) -> int:
        """Blocks with nothing in them."""
        return len(self._unused)

    @property
    def num_held_blocks(self) -> int:
        return self.num_blocks - self.num_free_blocks

    def num_references(self, block_id: int) -> int:
        return self._num_references[block_id]

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks with one reference each, evicting cached content if need be.

        Raises InternalError when fewer are free: callers look at `num_free_blocks` first.
        """
        if count > self.num_free_blocks:
            raise InternalError(f"asked for {count} KV blocks; {self.num_free_blocks} are free")
        block_ids = [self._unused.pop() if self._unused else self._evict() for _ in range(count)]
        for block_id in block_ids:
            self._num_references[block_id] = 1
        return block_ids

    def acquire(self, block_ids: Iterable[int]) -> None:
        """Add a reference to blocks that `match` returned."""
        for block_id in block_ids:
            self._num_references[block_id] += 1
            self._cached.pop(block_id, None)

    def free(self, block_ids: Sequence[int]) -> None:
        """Drop one reference of each block.

        Give a sequence's blocks in order: they are freed from the end, so that eviction takes a
        prefix's last block first and what stays is still a prefix.
        Raises InternalError when a block has no reference to drop.
        """
        for block_id in reversed(block_ids):
            if self._num_references[block_id] == 0:
                raise InternalError(f"KV block {block_id} is freed twice")
            self._num_references[block_id] -= 1
            if self._num_references[block_id] > 0:
                continue
            if self._hash_of[block_id] is None:
                self._unused.append(block_id)
            else:
                self._cached[block_id] = None

    def publish(self, block_id: int, block_hash: bytes) -> None:
        """Let a held, full block be found by its hash. The first block of a content keeps it."""
        if block_hash not in self._block_of and self._hash_of[block_id] is None:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest known prefix of a chain of hashes. Takes no reference."""
        block_ids = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids

    def forget(self, block_ids: Iterable[int]) -> None:
        """Take blocks' content out of the cache; whoever holds them keeps them."""
        for block_id in block_ids:
            self._drop_hash(block_id)
            if block_id in self._cached:
                del self._cached[block_id]
                self._unused.append(block_id)

    def check_integrity(self, tables: Iterable[ArrayLike]) -> None:
        """Recount every reference from its owners' block tables.

        Raises InternalError with the numbers when the drawing above does not hold.
        """
        size = self.num_blocks + 1
        owned = [np.asarray(table, dtype=np.int64) for table in tables]
        expected = np.bincount(np.concatenate([np.empty(0, np.int64), *owned]), minlength=size)
        counted = np.array(self._num_references)
        wrong = np.flatnonzero(counted != expected)
        if len(wrong):
            raise InternalError(
                f"{len(wrong)} KV blocks have a wrong reference count, first block {wrong[0]}: "
                f"counted {counted[wrong[0]]}, owned {expected[wrong[0]]} times"
            )
        unused = np.bincount(self._unused, minlength=size)
        cached = np.bincount(list(self._cached), minlength=size)
        held = expected > 0
        if unused[0] or held[0] or not np.all((unused + held + cached)[1:] == 1):
            raise InternalError(
                f"KV blocks do not add up: {unused.sum()} unused + {held.sum()} held + "
                f"{cached.sum()} cached != {self.num_blocks}"
            )
        named = np.bincount(list(self._block_of.values()), minlength=size)
        has_hash = np.array([name is not None for name in self._hash_of])
        if np.any(named != has_hash) or np.any(has_hash & (unused > 0)) or np.any(cached > named):
            raise InternalError(
                f"prefix cache does not add up: {has_hash.sum()} blocks with a hash, "
                f"{len(self._block_of)} hashes, {len(self._cached)} cached blocks"
            )

    def _evict(self) -> int:
        block_id, _ = self._cached.popitem(last=False)
        self._drop_hash(block_id)
        return block_id

    def _drop_hash(self, block_id: int) -> None:
        block_hash = self._hash_of[block_id]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block_id] = None
