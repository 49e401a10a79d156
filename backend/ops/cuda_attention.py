"""Attention over a paged KV cache on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.ops.cuda_linear import CudaLinear
from backend.ops.cuda_step import CudaStep
from backend.ops.interface import AttentionShape, Tensor


@dataclass(frozen=True)
class CudaKvCache:
    """Keys and values per layer, each [num_blocks, nkv, block_size, d] of one dtype.

    Kernels take the format from the tensors they are given; nobody else needs to know it.
    """

    shape: AttentionShape
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls,
        context: Any,
        shape: AttentionShape,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        dtype: Any,
    ) -> CudaKvCache:
        extents = (num_blocks, shape.num_kv_heads, block_size, shape.head_dim)
        keys, values = (
            tuple(context.zeros(extents, dtype) for _ in range(num_layers)) for _ in range(2)
        )
        return cls(shape, keys, values)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


FUSED_HEAD_DIMS = (32, 128)
"""Head sizes whose decode attention turns queries and keys and writes the cache on its way."""


def project_qkv(
    kernels: Any, x: Tensor, weight: CudaLinear, step: CudaStep, cache: CudaKvCache, layer: int
) -> Tensor:
    """See Ops.project_qkv. [T, H] → [T, nq, d]; of a step of decodes [T, (nq + 2 nkv) d], because
    the rest is then attention's."""
    qkv: Tensor = weight.product(kernels, x)
    if _is_fused(step, cache):
        return qkv
    return kernels.rope_kv_write(
        qkv,
        *_turns(kernels, step),
        step.slots,
        cache.keys[layer],
        cache.values[layer],
        cache.shape.num_heads,
        step.rope.is_interleaved,
    )


def paged_attention(
    kernels: Any, q: Tensor, step: CudaStep, cache: CudaKvCache, layer: int
) -> Tensor:
    """See Ops.paged_attention. What `project_qkv` gave → [T, nq · d]."""
    keys, values = cache.keys[layer], cache.values[layer]
    scale = cache.shape.head_dim**-0.5
    if _is_fused(step, cache):
        return kernels.rope_decode_attention(
            q,
            *_turns(kernels, step),
            keys,
            values,
            step.block_tables,
            step.context_lens,
            cache.shape.num_heads,
            step.rope.is_interleaved,
            scale,
            step.has_long_contexts,
        )
    num_decodes, prefill = step.num_decodes, step.prefill
    parts = []
    if num_decodes:
        decoding = q if prefill is None else q.slice(0, num_decodes)
        parts.append(
            kernels.decode_attention(
                decoding,
                keys,
                values,
                step.block_tables,
                step.context_lens,
                scale,
                step.has_long_contexts,
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


def _turns(kernels: Any, step: CudaStep) -> tuple[Tensor, Tensor]:
    """Made by the first layer, so that a recorded pass makes them itself."""
    if step.turns is None:
        rope = step.rope
        step.turns = kernels.rope_table(step.positions, rope.inverse_frequencies, rope.axes)
    return step.turns


def _is_fused(step: CudaStep, cache: CudaKvCache) -> bool:
    return step.prefill is None and cache.shape.head_dim in FUSED_HEAD_DIMS
