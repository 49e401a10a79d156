"""Grouped-query self-attention of a decoder layer."""

from __future__ import annotations

from backend.layers.weights import Weights
from backend.ops import KvCache, Ops, Step, Tensor


class Attention:
    def __init__(self, ops: Ops, layer: int, weights: Weights) -> None:
        self._ops = ops
        self._layer = layer
        self._qkv = weights["qkv_proj.weight"]
        self._out = weights["o_proj.weight"]

    def __call__(self, x: Tensor, step: Step, cache: KvCache) -> Tensor:
        """[T, H] → [T, H]; writes this layer's keys and values of the step's tokens."""
        q = self._ops.project_qkv(x, self._qkv, step, cache, self._layer)
        return self._ops.linear(self._ops.paged_attention(q, step, cache, self._layer), self._out)
