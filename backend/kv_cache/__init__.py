"""Paged KV memory: who holds which block, and which blocks can be reused by content.

    pool = BlockPool(num_blocks=64)
    table = BlockTable(block_size=16)
    table.extend(pool.allocate(table.num_missing(40)))   # room for 40 tokens: 3 blocks
    ...
    pool.free(table.clear())

This package only counts: the memory itself belongs to the model, which is told block numbers.
"""

from backend.kv_cache.block_hash import ROOT_HASH, hash_block, root_hash
from backend.kv_cache.block_pool import BlockPool
from backend.kv_cache.block_table import BlockTable

__all__ = ["ROOT_HASH", "BlockPool", "BlockTable", "hash_block", "root_hash"]
