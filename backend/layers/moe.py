"""Mixture of experts with one group of experts per modality.

Text rows and vision rows have their own router, correction bias and experts (of different width);
shared experts see every row. A text-only batch never touches the vision experts.
"""

from __future__ import annotations

import numpy as np

from backend.config.model import MoeConfig
from backend.layers.mlp import SwiGlu
from backend.layers.weights import Weights
from backend.ops import Ops, RowSplit, Tensor
from backend.ops.arrays import IntArray

EXPERT_GROUPS = ("text", "vision")
"""Names of the expert groups, in the order of MoeConfig's tuples."""


def split_by_modality(ops: Ops, num_tokens: int, vision_rows: IntArray) -> RowSplit | None:
    """Text rows first, vision rows second; None when all rows are text."""
    if not len(vision_rows):
        return None
    is_vision = np.zeros(num_tokens, dtype=bool)
    is_vision[vision_rows] = True
    # Stable: text rows in order, then vision rows in order.
    rows = np.argsort(is_vision, kind="stable")
    num_text = num_tokens - len(vision_rows)
    return RowSplit(
        first=ops.from_numpy(rows[:num_text]) if num_text else None,
        second=ops.from_numpy(rows[num_text:]),
        order=ops.from_numpy(np.argsort(rows)),
    )


class ExpertGroup:
    """The experts of one modality; `index` 0 is text, 1 is vision."""

    def __init__(self, ops: Ops, config: MoeConfig, weights: Weights, index: int) -> None:
        self._ops = ops
        self._config = config
        self._router = weights["gate.weight" if index == 0 else f"gate.weight_{index}"]
        bias = weights["moe_statics.e_score_correction_bias"]
        self._bias = ops.slice_rows(bias, index, index + 1)
        experts = weights.under(f"experts.{EXPERT_GROUPS[index]}")
        self._up_gate = experts["up_gate_proj"]
        self._down = experts["down_proj"]

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._ops.moe(
            x,
            self._router,
            self._bias,
            self._up_gate,
            self._down,
            self._config.top_k,
            self._config.norm_min,
            rows,
        )


class SparseMoe:
    def __init__(self, ops: Ops, config: MoeConfig, weights: Weights) -> None:
        self._ops = ops
        self._groups = [
            ExpertGroup(ops, config, weights, index) for index in range(len(config.num_experts))
        ]
        has_shared = config.num_shared_experts > 0
        self._shared = SwiGlu(ops, weights.under("shared_experts")) if has_shared else None

    def __call__(self, x: Tensor, split: RowSplit | None) -> Tensor:
        """[T, H] → [T, H]."""
        routed = self._groups[0](x) if split is None else self._by_modality(x, split)
        return routed if self._shared is None else self._ops.add(routed, self._shared(x))

    def _by_modality(self, x: Tensor, split: RowSplit) -> Tensor:
        parts = [
            group(x, rows)
            for group, rows in zip(self._groups, (split.first, split.second), strict=True)
            if rows is not None
        ]
        return self._ops.merge_rows(split, parts)
