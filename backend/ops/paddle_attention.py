"""Decoder attention with Paddle: projection into the cache, and reading it back."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from backend.ops.interface import Tensor
from backend.ops.paddle_cache import PaddleKvCache
from backend.ops.paddle_step import DecodeGroup, PaddleStep, PrefillTile


def project_qkv(
    x: Tensor, weight: Tensor, step: PaddleStep, cache: PaddleKvCache, layer: int
) -> Tensor:
    """See Ops.project_qkv. [T, H] → q [T, nq, d]."""
    shape = cache.shape
    kv_heads, head_dim = shape.num_kv_heads, shape.head_dim
    turned = shape.num_heads + kv_heads
    qkv = paddle.matmul(x, weight)
    head, values = paddle.split(qkv, [turned * head_dim, kv_heads * head_dim], axis=1)
    queries, keys = paddle.split(
        _turn(head.reshape([-1, turned, head_dim]), step), [shape.num_heads, kv_heads], axis=1
    )
    values = values.reshape([-1, kv_heads, head_dim])
    cache.write(layer, step.write_rows, _heads_first(keys), _heads_first(values))
    return queries


def _turn(x: Tensor, step: PaddleStep) -> Tensor:
    """Rotary embedding in float32: [T, heads, d]."""
    wide = x.astype("float32")
    return (wide * step.cos + paddle.matmul(wide, step.rotation) * step.sin).astype(x.dtype)


def _heads_first(x: Tensor) -> Tensor:
    """[T, nkv, d] → [nkv · T, d]."""
    return x.transpose([1, 0, 2]).reshape([-1, x.shape[2]])


def paged_attention(q: Tensor, step: PaddleStep, cache: PaddleKvCache, layer: int) -> Tensor:
    """See Ops.paged_attention. [T, nq, d] → [T, nq · d]."""
    shape = cache.shape
    group_size = shape.num_heads // shape.num_kv_heads
    # [T, nq, d] → [nkv, T, group, d]: the queries of one KV head lie together.
    q = q.reshape([-1, shape.num_kv_heads, group_size, shape.head_dim]).transpose([1, 0, 2, 3])
    parts = [_decode(q, group, cache, layer) for group in step.decodes]
    parts += [_prefill(q, tile, cache, layer) for tile in step.tiles]
    out = parts[0] if len(parts) == 1 else paddle.concat(parts, axis=1)
    if step.order is not None:
        out = paddle.index_select(out, step.order, axis=1)
    return out.transpose([1, 0, 2, 3]).reshape([-1, shape.num_heads * shape.head_dim])


def _decode(q: Tensor, group: DecodeGroup, cache: PaddleKvCache, layer: int) -> Tensor:
    """One query per sequence: [nkv, T, g, d] → [nkv, G, g, d]."""
    if group.rows is not None:
        q = paddle.index_select(q, group.rows, axis=1)
    shape = [cache.shape.num_kv_heads, group.num_seqs, group.num_slots, cache.shape.head_dim]
    keys, values = cache.read(layer, group.blocks, shape)
    scores = _scores(q, keys) + group.mask
    return paddle.matmul(F.softmax(scores, axis=-1).astype(q.dtype), values)


def _prefill(q: Tensor, tile: PrefillTile, cache: PaddleKvCache, layer: int) -> Tensor:
    """Many queries of one sequence: [nkv, T, g, d] → [nkv, tile, g, d]."""
    kv_heads, _, group_size, head_dim = q.shape
    rows = tile.stop - tile.start
    q = q[:, tile.start : tile.stop].transpose([0, 2, 1, 3])
    keys, values = cache.read(layer, tile.blocks, [kv_heads, tile.num_slots, head_dim])
    scores = _scores(q.reshape([kv_heads, group_size * rows, head_dim]), keys)
    scores = scores.reshape([kv_heads, group_size, rows, tile.num_slots]) + tile.mask
    weights = F.softmax(scores, axis=-1).astype(q.dtype)
    out = paddle.matmul(weights.reshape([kv_heads, group_size * rows, tile.num_slots]), values)
    return out.reshape([kv_heads, group_size, rows, head_dim]).transpose([0, 2, 1, 3])


def _scores(q: Tensor, keys: Tensor) -> Tensor:
    """Scaled in float32, after the product, so that bfloat16 queries are not rounded twice."""
    return paddle.matmul(q, keys, transpose_y=True).astype("float32") * keys.shape[-1] ** -0.5
