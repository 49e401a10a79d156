"""The paged KV cache of the Paddle executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle

from backend.ops.interface import AttentionShape, Tensor


@dataclass(frozen=True)
class PaddleKvCache:
    """Keys and values per layer, each [nkv · num_blocks · block_size, d], KV head outermost.

    With the head outermost, gathering whole blocks gives [nkv, sequences, tokens, d], which the
    attention products read without a transposition.
    """

    shape: AttentionShape
    num_blocks: int
    block_size: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls, shape: AttentionShape, num_layers: int, num_blocks: int, block_size: int, dtype: Any
    ) -> PaddleKvCache:
        rows = shape.num_kv_heads * num_blocks * block_size
        layers = [
            [paddle.zeros([rows, shape.head_dim], dtype=dtype) for _ in range(num_layers)]
            for _ in range(2)
        ]
        return cls(shape, num_blocks, block_size, tuple(layers[0]), tuple(layers[1]))

    @property
    def num_bytes(self) -> int:
        return sum(tensor.size * tensor.element_size() for tensor in (*self.keys, *self.values))

    @property
    def num_slots(self) -> int:
        return self.num_blocks * self.block_size

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [nkv · T, d] at `rows`, int64 [nkv · T]."""
        paddle.scatter_(self.keys[layer], rows, keys)
        paddle.scatter_(self.values[layer], rows, values)

    def read(self, layer: int, blocks: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of whole blocks (head · num_blocks + block), viewed as `shape`."""
        width = self.block_size * self.shape.head_dim
        return tuple(
            paddle.gather(cache[layer].reshape([-1, width]), blocks).reshape(shape)
            for cache in (self.keys, self.values)
        )
