"""The blocks of one sequence, in order: token i lives in block i // block_size of the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BlockTable:
    """A growing int32 array, so that a long context costs no list conversion at every step."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._buffer = np.zeros(8, dtype=np.int32)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def block_ids(self) -> NDArray[np.int32]:
        """int32 [len]: a view that the next `extend` may invalidate."""
        return self._buffer[: self._length]

    def num_missing(self, num_tokens: int) -> int:
        """How many blocks more it takes to hold `num_tokens` tokens."""
        return max(0, -(-num_tokens // self._block_size) - self._length)

    def extend(self, block_ids: Sequence[int]) -> None:
        end = self._length + len(block_ids)
        if end > len(self._buffer):
            grown = np.zeros(max(end, 2 * len(self._buffer)), dtype=np.int32)
            grown[: self._length] = self.block_ids
            self._buffer = grown
        self._buffer[self._length : end] = block_ids
        self._length = end

    def slots(self, start: int, stop: int) -> NDArray[np.int64]:
        """int64 [stop - start]: block_id · block_size + offset of tokens start..stop-1."""
        if stop - start == 1:  # a decode step, where the arrays below cost most of its time
            block, offset = divmod(start, self._block_size)
            return np.array([int(self._buffer[block]) * self._block_size + offset], dtype=np.int64)
        index = np.arange(start, stop, dtype=np.int64)
        blocks = self._buffer[index // self._block_size].astype(np.int64)
        slots: NDArray[np.int64] = blocks * self._block_size + index % self._block_size
        return slots

    def clear(self) -> list[int]:
        """Forget all blocks and return them; freeing them is the caller's part."""
        block_ids = [int(block_id) for block_id in self.block_ids]
        self._length = 0
        return block_ids
