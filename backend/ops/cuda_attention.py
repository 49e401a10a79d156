"""Attention over a paged KV cache on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.ops.cuda_step import CudaStep
from backend.ops.interface import AttentionShape, Tensor


@dataclass(frozen=True)
class CudaKvCache:
    """Keys and values per layer, each bfloat16 [num_blocks, nkv, block_size, d]."""

    shape: AttentionShape
    block_size: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls,
        kernels: Any,
        context: Any,
        shape: AttentionShape,
        num_layers: int,
        num_blocks: int,
        block_size: int,
    ) -> CudaKvCache:
        extents = (num_blocks, shape.num_kv_heads, block_size, shape.head_dim)
        keys, values = (
            tuple(context.zeros(extents, kernels.bf16) for _ in range(num_layers)) for _ in range(2)
        )
        return cls(shape, block_size, keys, values)


def project_qkv(
    kernels: Any, x: Tensor, weight: Tensor, step: CudaStep, cache: CudaKvCache, layer: int
) -> Tensor:
    """See Ops.project_qkv. [T, H] → [T, nq, d]."""
    if step.turns is None:
        rope = step.rope
        step.turns = kernels.rope_table(step.positions, rope.inverse_frequencies, rope.axes)
    cos, sin = step.turns
    return kernels.rope_kv_write(
        kernels.linear(x, weight),
        cos,
        sin,
        step.slots,
        cache.keys[layer],
        cache.values[layer],
        cache.shape.num_heads,
        step.rope.is_interleaved,
    )


def paged_attention(
    kernels: Any, q: Tensor, step: CudaStep, cache: CudaKvCache, layer: int
) -> Tensor:
    """See Ops.paged_attention. [T, nq, d] → [T, nq · d]."""
    keys, values = cache.keys[layer], cache.values[layer]
    scale = cache.shape.head_dim**-0.5
    num_decodes, prefill = step.num_decodes, step.prefill
    parts = []
    if num_decodes:
        decoding = q if prefill is None else q.slice(0, num_decodes)
        parts.append(
            kernels.decode_attention(
                decoding, keys, values, step.block_tables, step.context_lens, scale
            )
        )
    if prefill is not None:
        parts.append(
            kernels.prefill_attention(
                q.slice(num_decodes, step.num_tokens),
                keys,
                values,
                prefill.block_tables,
                prefill.context_lens,
                prefill.query_starts,
                prefill.max_query_len,
                scale,
            )
        )
    return parts[0] if len(parts) == 1 else kernels.concat_rows(parts)
