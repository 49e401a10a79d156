"""Attention of the vision transformer with Paddle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from backend.ops.arrays import FloatArray
from backend.ops.interface import Tensor
from backend.ops.paddle_step import MAX_SCORES
from backend.ops.rope import rotation_matrix, spread_angles


@dataclass(frozen=True)
class PaddleVisionStep:
    """cos, sin: float32 [N, 1, d]; rotation: float32 [d, d]; segments: patches of each frame."""

    cos: Tensor
    sin: Tensor
    rotation: Tensor
    segments: tuple[int, ...]


def begin_vision(angles: FloatArray, segments: Sequence[int]) -> PaddleVisionStep:
    spread = spread_angles(angles, interleaved=False)[:, None]
    return PaddleVisionStep(
        cos=paddle.to_tensor(np.cos(spread)),
        sin=paddle.to_tensor(np.sin(spread)),
        rotation=paddle.to_tensor(rotation_matrix(spread.shape[2], interleaved=False)),
        segments=tuple(segments),
    )


def vision_attention(qkv: Tensor, num_heads: int, step: PaddleVisionStep) -> Tensor:
    """See Ops.vision_attention. [N, 3 · heads · d] → [N, heads · d]."""
    head_dim = qkv.shape[1] // (3 * num_heads)
    q, k, v = (part.reshape([-1, num_heads, head_dim]) for part in paddle.split(qkv, 3, axis=1))
    q, k = (_turn(part, step).astype(qkv.dtype) for part in (q, k))
    q, k, v = (part.transpose([1, 0, 2]) for part in (q, k, v))
    outputs, start = [], 0
    for size in step.segments:
        outputs += _segment(q, k, v, start, start + size)
        start += size
    return paddle.concat(outputs, axis=1).transpose([1, 0, 2]).reshape([-1, num_heads * head_dim])


def _turn(x: Tensor, step: PaddleVisionStep) -> Tensor:
    wide = x.astype("float32")
    return wide * step.cos + paddle.matmul(wide, step.rotation) * step.sin


def _segment(q: Tensor, k: Tensor, v: Tensor, start: int, stop: int) -> list[Tensor]:
    """Attention inside rows [start, stop) of [heads, N, d], in query tiles of bounded size."""
    keys, values = k[:, start:stop], v[:, start:stop]
    scale = k.shape[2] ** -0.5
    tile = max(1, MAX_SCORES // (k.shape[0] * (stop - start)))
    outputs = []
    for first in range(start, stop, tile):
        queries = q[:, first : min(first + tile, stop)]
        scores = paddle.matmul(queries, keys, transpose_y=True).astype("float32") * scale
        outputs.append(paddle.matmul(F.softmax(scores, axis=-1).astype(v.dtype), values))
    return outputs
