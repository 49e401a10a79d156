"""Mixture of experts with Paddle: one pair of products per expert that has tokens."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from backend.ops.interface import Tensor
from backend.ops.routing import route


def moe(
    x: Tensor,
    router: Tensor,
    correction_bias: Tensor,
    up_gate: Tensor,
    down: Tensor,
    top_k: int,
    norm_min: float,
) -> Tensor:
    """See Ops.moe. [R, H] → [R, H]. The choice of experts is made on the host."""
    probabilities = F.softmax(paddle.matmul(x.astype("float32"), router), axis=-1)
    routing = route(probabilities.numpy(), correction_bias.numpy(), top_k, norm_min)
    sorted_x = paddle.gather(x, paddle.to_tensor(routing.tokens))
    outputs, start = [], 0
    for expert, count in enumerate(routing.counts.tolist()):
        if count:
            hidden = F.swiglu(paddle.matmul(sorted_x[start : start + count], up_gate[expert]))
            outputs.append(paddle.matmul(hidden, down[expert]))
            start += count
    by_choice = paddle.gather(paddle.concat(outputs), paddle.to_tensor(routing.places))
    weights = paddle.to_tensor(routing.weights).unsqueeze(1)
    mixed = paddle.matmul(weights, by_choice.reshape([-1, top_k, x.shape[1]]).astype("float32"))
    return mixed.squeeze(1).astype(x.dtype)
