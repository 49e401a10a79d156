"""Mixture of experts on the GPU: one routing and one pair of expert kernels for a whole layer.

All experts of a layer have one numbering: text experts, then shared ones (always chosen, with
weight 1), then vision experts. A token has top_k + shared slots; the kernels sort (token, slot)
pairs by expert and never tell the host how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.ops.cuda_experts import Bf16Experts, CudaExperts, put_shared_experts
from backend.ops.cuda_linear import Bf16Linear
from backend.ops.interface import ExpertGroup, SharedExperts, Tensor, Weight


@dataclass(frozen=True)
class CudaMoeWeights:
    """`up_gate` [E + S, H, 2 m] and `down` [E + S, m, H] hold routed, then shared experts."""

    router: Tensor
    correction_bias: Tensor
    up_gate: CudaExperts
    down: CudaExperts
    num_shared: int
    vision: ExpertGroup | None


@dataclass(frozen=True)
class SlotSums:
    """What a layer of experts gives before its slots are summed: y [T · slots, H] by (token, slot),
    weights float32 [T, slots]. The next norm sums them on its way."""

    y: Tensor
    weights: Tensor


def gather_rows(kernels: Any, x: Tensor | SlotSums, rows: Tensor) -> Tensor | SlotSums:
    """Some rows; sums that are yet to be made stay so, and are rounded only once as in a step
    that needs all rows."""
    if not isinstance(x, SlotSums):
        return kernels.gather_rows(x, rows)
    hidden, slots = x.y.shape[1], x.weights.shape[1]
    y = kernels.gather_rows(x.y.view((-1, slots * hidden)), rows)
    return SlotSums(y.view((-1, hidden)), kernels.gather_rows(x.weights, rows))


def moe_weights(
    kernels: Any, context: Any, groups: Sequence[ExpertGroup], shared: SharedExperts | None
) -> CudaMoeWeights:
    text = groups[0]
    num_routed = text.router.shape[0]
    up_gate, down = text.up_gate, text.down
    if shared is not None and up_gate.num_experts == num_routed:
        num_shared = shared.down.rows.shape[1] // down.rows.shape[2]
        up_gate = _with_shared(kernels, context, up_gate, shared.up_gate, num_shared)
        down = _with_shared(kernels, context, down, shared.down, num_shared)
    return CudaMoeWeights(
        router=text.router,
        correction_bias=_own(context, text.correction_bias),
        up_gate=up_gate,
        down=down,
        num_shared=up_gate.num_experts - num_routed,
        vision=None if len(groups) < 2 else _with_own_bias(context, groups[1]),
    )


def _with_own_bias(context: Any, group: ExpertGroup) -> ExpertGroup:
    return replace(group, correction_bias=_own(context, group.correction_bias))


def _own(context: Any, bias: Weight) -> Weight:
    """A row of both modalities' biases as a tensor of its own: float32 [E], where kernels may read
    16 bytes at a time."""
    return context.upload(bias.numpy().reshape(-1))


def _with_shared(
    kernels: Any, context: Any, experts: Bf16Experts, shared: Bf16Linear, num_shared: int
) -> Bf16Experts:
    """A longer table, with the shared experts at its end."""
    table, num_routed = experts.rows, experts.num_experts
    joined = context.empty((num_routed + num_shared, *table.shape[1:]), kernels.bf16)
    kernels.copy(joined.slice(0, num_routed), table)
    put_shared_experts(kernels, context, joined, shared.rows, num_routed)
    return Bf16Experts(joined)


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
    weights.up_gate.feed_forward(kernels, weights.down, x, routing, 0, slots, y)
    if vision is not None:
        first = weights.up_gate.num_experts
        vision.up_gate.feed_forward(kernels, vision.down, x, routing, first, slots, y)
    return SlotSums(y, routing.weights)
