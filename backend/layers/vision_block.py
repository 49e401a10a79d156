"""One pre-norm residual block of the vision transformer."""

from __future__ import annotations

from backend.config.model import VisionConfig
from backend.layers.weights import Weights
from backend.ops import Ops, Tensor
from backend.ops.interface import VisionStep


class VisionBlock:
    def __init__(self, ops: Ops, config: VisionConfig, weights: Weights) -> None:
        self._ops = ops
        self._heads = config.num_heads
        self._eps = config.layer_norm_eps
        self._weights = {
            name: (weights[f"{name}.weight"], weights[f"{name}.bias"])
            for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        }

    def __call__(self, x: Tensor, step: VisionStep) -> Tensor:
        """[N, W] → [N, W]; attention stays inside the step's segments."""
        ops, weights = self._ops, self._weights
        qkv = ops.linear(ops.layer_norm(x, *weights["norm1"], self._eps), *weights["attn.qkv"])
        attended = ops.vision_attention(qkv, self._heads, step)
        x = ops.add(x, ops.linear(attended, *weights["attn.proj"]))
        normed = ops.layer_norm(x, *weights["norm2"], self._eps)
        hidden = ops.linear(normed, *weights["mlp.fc1"], activation="quick_gelu")
        return ops.add(x, ops.linear(hidden, *weights["mlp.fc2"]))
