"""One pre-norm residual block of the text decoder."""

from __future__ import annotations

from backend.config.model import ModelConfig
from backend.layers.attention import Attention
from backend.layers.mlp import SwiGlu
from backend.layers.moe import SparseMoe
from backend.layers.weights import Weights
from backend.ops import KvCache, Ops, Step, Tensor


class DecoderLayer:
    """x, residual → x, residual: the sum is left to the next norm, which fuses it."""

    def __init__(self, ops: Ops, config: ModelConfig, layer: int, weights: Weights) -> None:
        self._ops = ops
        self._eps = config.rms_norm_eps
        self._input_norm = weights["input_layernorm.weight"]
        self._post_norm = weights["post_attention_layernorm.weight"]
        self._attention = Attention(ops, layer, weights.under("self_attn"))
        self._mlp: SwiGlu | SparseMoe
        if config.moe is not None and config.moe.is_moe_layer(layer):
            self._mlp = SparseMoe(ops, config.moe, weights.under("mlp"))
        else:
            self._mlp = SwiGlu(ops, weights.under("mlp"))

    def __call__(
        self, x: Tensor, residual: Tensor | None, step: Step, cache: KvCache
    ) -> tuple[Tensor, Tensor]:
        x, residual = self._ops.add_rms_norm(x, residual, self._input_norm, self._eps)
        x = self._attention(x, step, cache)
        x, residual = self._ops.add_rms_norm(x, residual, self._post_norm, self._eps)
        x = self._mlp(x, step) if isinstance(self._mlp, SparseMoe) else self._mlp(x)
        return x, residual
