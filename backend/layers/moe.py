"""Mixture of experts with one group of experts per modality.

Text rows and vision rows have their own router, correction bias and experts (of different width);
shared experts see every row. A text-only batch never touches the vision experts.
"""

from __future__ import annotations

from backend.config.model import MoeConfig
from backend.layers.weights import Weights
from backend.ops import ExpertGroup, Ops, SharedExperts, Step, Tensor

EXPERT_GROUPS = ("text", "vision")
"""Names of the expert groups, in the order of MoeConfig's tuples."""


class SparseMoe:
    def __init__(self, ops: Ops, config: MoeConfig, weights: Weights) -> None:
        self._ops = ops
        self._config = config
        groups = [_expert_group(ops, weights, index) for index in range(len(config.num_experts))]
        shared = None
        if config.num_shared_experts:
            named = weights.under("shared_experts")
            shared = SharedExperts(named["up_gate_proj.weight"], named["down_proj.weight"])
        self._weights = ops.moe_weights(groups, shared)

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[T, H] → [T, H]."""
        config = self._config
        return self._ops.moe(x, self._weights, config.top_k, config.norm_min, step)


def _expert_group(ops: Ops, weights: Weights, index: int) -> ExpertGroup:
    """The experts of one modality; `index` 0 is text, 1 is vision."""
    bias = weights["moe_statics.e_score_correction_bias"]
    experts = weights.under(f"experts.{EXPERT_GROUPS[index]}")
    return ExpertGroup(
        router=weights["gate.weight" if index == 0 else f"gate.weight_{index}"],
        correction_bias=ops.slice_rows(bias, index, index + 1),
        up_gate=experts["up_gate_proj"],
        down=experts["down_proj"],
    )
