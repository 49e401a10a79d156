"""A Batch on the GPU: everything that is the same for all layers of one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.batch import Batch
from backend.ops.arrays import IntArray
from backend.ops.interface import Tensor
from backend.ops.rope import RopeSpec, inverse_frequencies


@dataclass
class CudaRope:
    """A RopeSpec on the device: inverse frequencies float32 [d / 2], axes int32 [d / 2]."""

    inverse_frequencies: Tensor
    axes: Tensor
    is_interleaved: bool

    @classmethod
    def upload(cls, context: Any, spec: RopeSpec) -> CudaRope:
        return cls(
            context.upload(inverse_frequencies(spec.head_dim, spec.theta)),
            context.upload(np.array(spec.pair_axes, dtype=np.int32)),
            spec.interleaved,
        )


@dataclass
class CudaPrefill:
    """The prefill chunks of a step, behind its decodes.

    context_lens int32 [P], block_tables int32 [P, B], query_starts int32 [P + 1], counted from the
    first chunk's first token.
    """

    context_lens: Tensor
    block_tables: Tensor
    query_starts: Tensor
    max_query_len: int


@dataclass
class CudaStep:
    """T tokens: first D sequences of one token each, then prefill chunks.

    - token_ids int32 [T]; -1 - s stands for latest[s], int32 [seats], where a sampler leaves tokens
      that the host has not seen yet
    - positions int32 [3, T], slots int64 [T], logit_rows int32 [R] or None when they are all rows
      in order
    - context_lens int32 [D], block_tables int32 [D, B], of the decodes
    - media: rows int32 [P] and embeddings [P, H]; is_vision uint8 [T]; both None without
    - has_long_contexts: of the decodes (see are_long)
    - turns: cos and sin float32 [T, d / 2], made by the first layer that needs them, so that a
      captured pass makes them itself
    """

    rope: CudaRope
    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    num_logit_rows: int
    context_lens: Tensor | None = None
    block_tables: Tensor | None = None
    prefill: CudaPrefill | None = None
    latest: Tensor | None = None
    logit_rows: Tensor | None = None
    media: tuple[Tensor, Tensor] | None = None
    is_vision: Tensor | None = None
    has_long_contexts: bool = False
    turns: tuple[Tensor, Tensor] | None = field(default=None)

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_decodes(self) -> int:
        return 0 if self.context_lens is None else int(self.context_lens.shape[0])


_LONG_KEYS, _LONG_MEAN = 16_384, 1_000


def are_long(context_lens: IntArray) -> bool:
    """Whether decode attention has so many keys to read that the kernel made for them, which costs
    more per row, is the faster one (docs/performance-log.md)."""
    return int(context_lens.sum()) >= max(_LONG_KEYS, _LONG_MEAN * len(context_lens))


def begin_step(context: Any, batch: Batch, rope: CudaRope) -> CudaStep:
    """Upload a batch."""
    query_lens = batch.query_lens
    longer = np.flatnonzero(query_lens != 1)
    num_decodes = int(longer[0]) if len(longer) else batch.num_seqs
    step = CudaStep(
        rope=rope,
        token_ids=context.upload(batch.token_ids),
        positions=context.upload(batch.positions),
        slots=context.upload(batch.slot_mapping),
        num_logit_rows=len(batch.logit_rows),
        logit_rows=context.upload(batch.logit_rows) if len(batch.logit_rows) else None,
    )
    if num_decodes:
        step.context_lens = context.upload(batch.context_lens[:num_decodes])
        step.has_long_contexts = are_long(batch.context_lens[:num_decodes])
        step.block_tables = context.upload(batch.block_tables[:num_decodes])
    if num_decodes < batch.num_seqs:
        step.prefill = CudaPrefill(
            context.upload(batch.context_lens[num_decodes:]),
            context.upload(batch.block_tables[num_decodes:]),
            context.upload(batch.query_starts[num_decodes:] - np.int32(num_decodes)),
            int(query_lens[num_decodes:].max()),
        )
    if len(batch.vision_rows):
        mask = np.zeros(batch.num_tokens, dtype=np.uint8)
        mask[batch.vision_rows] = 1
        step.is_vision = context.upload(mask)
    if batch.media_embeddings is not None:
        step.media = (context.upload(batch.media_rows), batch.media_embeddings)
    return step
