"""Scheduler's chunks → the arrays of a Batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.batch import Batch
from backend.scheduler import Chunk, MediaPiece


def build_batch(chunks: Sequence[Chunk], block_size: int, media_embeddings: Any | None) -> Batch:
    """One sequence per chunk, in order; logits for the last row of each chunk that `is_last`.

    `media_embeddings` [P, H] are the rows of `media_rows` over all chunks, in order.
    """
    starts = np.cumsum([0, *(chunk.num_tokens for chunk in chunks)], dtype=np.int32)
    rows = _TokenRows(int(starts[-1]))
    for chunk, start in zip(chunks, starts.tolist(), strict=False):
        rows.fill(chunk, start)
    return Batch(
        token_ids=rows.token_ids,
        positions=rows.positions,
        slot_mapping=rows.slots,
        query_starts=starts,
        context_lens=np.array([chunk.stop for chunk in chunks], dtype=np.int32),
        block_tables=_block_tables(chunks, block_size),
        logit_rows=starts[1:][[chunk.is_last for chunk in chunks]] - 1,
        vision_rows=np.flatnonzero(rows.is_vision).astype(np.int32),
        media_rows=np.flatnonzero(rows.is_media).astype(np.int32),
        media_embeddings=media_embeddings,
    )


class _TokenRows:
    """What each of T tokens is, filled chunk by chunk."""

    def __init__(self, num_tokens: int) -> None:
        self.token_ids = np.empty(num_tokens, dtype=np.int32)
        self.positions = np.empty((3, num_tokens), dtype=np.int32)
        self.slots = np.empty(num_tokens, dtype=np.int64)
        self.is_vision = np.zeros(num_tokens, dtype=np.bool_)
        self.is_media = np.zeros(num_tokens, dtype=np.bool_)

    def fill(self, chunk: Chunk, row: int) -> None:
        request, start, stop = chunk.request, chunk.start, chunk.stop
        end = row + chunk.num_tokens
        self.slots[row:end] = request.block_table.slots(start, stop)
        self.positions[:, row:end] = request.token_positions(start, stop)
        num_prompt = request.num_prompt_tokens
        if start >= num_prompt:  # generated tokens are text
            self.token_ids[row:end] = request.output_ids[start - num_prompt : stop - num_prompt]
            return
        self.token_ids[row:end] = request.token_ids(start, stop)
        self.is_vision[row:end] = request.vision_mask(start, stop)
        for piece, first, last in media_rows_of(chunk):
            place = row + piece.offset - start
            self.is_media[place + first : place + last] = True


def filling_batch(blocks: NDArray[np.int32], block_size: int) -> Batch:
    """A batch that writes every slot of `blocks` int32 [S]: each is a sequence of token 0."""
    count = len(blocks)
    offsets = np.tile(np.arange(block_size, dtype=np.int32), count)
    nothing = np.empty(0, dtype=np.int32)
    return Batch(
        token_ids=np.zeros(count * block_size, dtype=np.int32),
        positions=np.tile(offsets, (3, 1)),
        slot_mapping=np.repeat(blocks, block_size).astype(np.int64) * block_size + offsets,
        query_starts=np.arange(count + 1, dtype=np.int32) * block_size,
        context_lens=np.full(count, block_size, dtype=np.int32),
        block_tables=blocks[:, None],
        logit_rows=nothing,
        vision_rows=nothing,
        media_rows=nothing,
    )


def media_rows_of(chunk: Chunk) -> list[tuple[MediaPiece, int, int]]:
    """Pieces with tokens in the chunk, and which of their rows: (piece, first, end)."""
    return [
        (
            piece,
            max(0, chunk.start - piece.offset),
            min(piece.num_tokens, chunk.stop - piece.offset),
        )
        for piece in chunk.request.media_between(chunk.start, chunk.stop)
    ]


def _block_tables(chunks: Sequence[Chunk], block_size: int) -> NDArray[np.int32]:
    """int32 [S, most blocks of any context], padded with 0, which is nobody's block."""
    counts = [-(-chunk.stop // block_size) for chunk in chunks]
    tables = np.zeros((len(chunks), max(counts)), dtype=np.int32)
    for row, (chunk, count) in enumerate(zip(chunks, counts, strict=True)):
        tables[row, :count] = chunk.request.block_table.block_ids[:count]
    return tables
