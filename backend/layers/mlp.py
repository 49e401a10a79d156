"""The dense feed-forward layer, also that of the shared experts."""

from __future__ import annotations

from backend.layers.weights import Weights
from backend.ops import Ops, Tensor


class SwiGlu:
    """down(silu(gate(x)) · up(x)); the gate is the first half of `up_gate_proj`."""

    def __init__(self, ops: Ops, weights: Weights) -> None:
        self._ops = ops
        self._up_gate = weights["up_gate_proj.weight"]
        self._down = weights["down_proj.weight"]

    def __call__(self, x: Tensor) -> Tensor:
        return self._ops.linear(self._ops.linear_swiglu(x, self._up_gate), self._down)
