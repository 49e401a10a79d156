"""Mixture of experts with Paddle: one pair of products per expert that has tokens."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

from backend.ops.interface import ExpertGroup, SharedExperts, Tensor
from backend.ops.paddle_step import RowSplit
from backend.ops.routing import route


@dataclass(frozen=True)
class PaddleMoeWeights:
    """See Ops.moe_weights."""

    groups: tuple[ExpertGroup, ...]
    shared: SharedExperts | None


def moe(
    x: Tensor, weights: PaddleMoeWeights, top_k: int, norm_min: float, split: RowSplit | None
) -> Tensor:
    """Ops.moe without the shared experts. [T, H] → [T, H]."""
    if split is None:
        return run_group(x, weights.groups[0], top_k, norm_min)
    parts = [
        run_group(paddle.gather(x, rows), group, top_k, norm_min)
        for group, rows in zip(weights.groups, (split.text, split.vision), strict=True)
        if rows is not None
    ]
    return paddle.gather(parts[0] if len(parts) == 1 else paddle.concat(parts), split.order)


def run_group(x: Tensor, group: ExpertGroup, top_k: int, norm_min: float) -> Tensor:
    """One modality's experts: [R, H] → [R, H]. The choice of experts is made on the host."""
    probabilities = F.softmax(paddle.matmul(x.astype("float32"), group.router), axis=-1)
    routing = route(probabilities.numpy(), group.correction_bias.numpy(), top_k, norm_min)
    sorted_x = paddle.gather(x, paddle.to_tensor(routing.tokens))
    outputs, start = [], 0
    for expert, count in enumerate(routing.counts.tolist()):
        if count:
            rows = sorted_x[start : start + count]
            hidden = F.swiglu(paddle.matmul(rows, group.up_gate[expert]))
            outputs.append(paddle.matmul(hidden, group.down[expert]))
            start += count
    by_choice = paddle.gather(paddle.concat(outputs), paddle.to_tensor(routing.places))
    mixture = paddle.to_tensor(routing.weights).unsqueeze(1)
    mixed = paddle.matmul(mixture, by_choice.reshape([-1, top_k, x.shape[1]]).astype("float32"))
    return mixed.squeeze(1).astype(x.dtype)
