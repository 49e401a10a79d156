"""Mixture of experts on the GPU: one routing and one pair of expert kernels for a whole layer.

All experts of a layer have one numbering: text experts, then shared ones (always chosen, with
weight 1), then vision experts. A token has top_k + shared slots; the kernels sort (token, slot)
pairs by expert and never tell the host how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.ops.cuda_weights import put_shared_experts
from backend.ops.interface import ExpertGroup, SharedExperts, Tensor, Weight


@dataclass(frozen=True)
class CudaMoeWeights:
    """`up_gate` [E + S, 2 m, H] and `down` [E + S, H, m] hold routed, then shared experts."""

    router: Weight
    correction_bias: Weight
    up_gate: Weight
    down: Weight
    num_shared: int
    vision: ExpertGroup | None


@dataclass(frozen=True)
class SlotSums:
    """What a layer of experts gives before its slots are summed: y [T · slots, H] by (token, slot),
    weights float32 [T, slots]. The next norm sums them on its way."""

    y: Tensor
    weights: Tensor


def moe_weights(
    kernels: Any, context: Any, groups: Sequence[ExpertGroup], shared: SharedExperts | None
) -> CudaMoeWeights:
    text = groups[0]
    num_routed = text.router.shape[0]
    up_gate, down = text.up_gate, text.down
    if shared is not None and up_gate.shape[0] == num_routed:
        num_shared = shared.down.shape[1] // down.shape[2]
        up_gate = _with_shared(kernels, context, up_gate, shared.up_gate, num_shared)
        down = _with_shared(kernels, context, down, shared.down, num_shared)
    return CudaMoeWeights(
        router=text.router,
        correction_bias=_own(context, text.correction_bias),
        up_gate=up_gate,
        down=down,
        num_shared=up_gate.shape[0] - num_routed,
        vision=None if len(groups) < 2 else _with_own_bias(context, groups[1]),
    )


def _with_own_bias(context: Any, group: ExpertGroup) -> ExpertGroup:
    return replace(group, correction_bias=_own(context, group.correction_bias))


def _own(context: Any, bias: Weight) -> Weight:
    """A row of both modalities' biases as a tensor of its own: float32 [E], where kernels may read
    16 bytes at a time."""
    return context.upload(bias.numpy().reshape(-1))


def _with_shared(
    kernels: Any, context: Any, table: Weight, shared: Weight, num_shared: int
) -> Weight:
    """A longer table, with the shared experts at its end."""
    num_routed = table.shape[0]
    joined = context.empty((num_routed + num_shared, *table.shape[1:]), kernels.bf16)
    kernels.copy(joined.slice(0, num_routed), table)
    put_shared_experts(kernels, context, joined, shared, num_routed)
    return joined


def moe(
    kernels: Any,
    context: Any,
    x: Tensor,
    weights: CudaMoeWeights,
    top_k: int,
    norm_min: float,
    is_vision: Tensor | None,
) -> SlotSums:
    """[T, H] → sums yet to be made of [T · slots, H]."""
    num_tokens, hidden = x.shape
    vision = weights.vision if is_vision is not None else None
    routing = kernels.moe_route(
        x,
        weights.router,
        weights.correction_bias,
        top_k,
        norm_min,
        weights.num_shared,
        vision_gate=None if vision is None else vision.router,
        vision_bias=None if vision is None else vision.correction_bias,
        is_vision=is_vision if vision is not None else None,
    )
    slots = top_k + weights.num_shared
    y = context.empty((num_tokens * slots, hidden), kernels.bf16)
    num_text = weights.up_gate.shape[0]
    _run_experts(kernels, x, routing, weights.up_gate, weights.down, 0, slots, y)
    if vision is not None:
        _run_experts(kernels, x, routing, vision.up_gate, vision.down, num_text, slots, y)
    return SlotSums(y, routing.weights)


def _run_experts(
    kernels: Any,
    x: Tensor,
    routing: Any,
    up_gate: Weight,
    down: Weight,
    first_group: int,
    slots: int,
    y: Tensor,
) -> None:
    # Few tokens are streamed past by the weights; many are a matrix product.
    is_small = x.shape[0] * slots <= kernels.SMALL_PAIRS
    up = kernels.moe_up_small if is_small else kernels.moe_up_large
    to_y = kernels.moe_down_small if is_small else kernels.moe_down_large
    num_groups = up_gate.shape[0]
    hidden = up(x, routing, up_gate, first_group, num_groups, slots)
    to_y(hidden, routing, down, first_group, num_groups, y)
