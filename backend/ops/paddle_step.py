"""A Batch made ready for Paddle: everything that is the same for all layers of one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from backend.batch import Batch
from backend.ops.arrays import IntArray, NumpyArray
from backend.ops.interface import Tensor
from backend.ops.paddle_cache import PaddleKvCache
from backend.ops.rope import RopeSpec, rope_angles, rotation_matrix, spread_angles

MAX_SCORES = 2**23
"""Attention scores held at once (32 MiB of float32): longer prefills are cut into query tiles."""

_MASKED = np.float32(-np.inf)


@dataclass(frozen=True)
class DecodeGroup:
    """Sequences with one query each, of similar context length, attended in one go.

    - rows: int64 [G], their token rows; None when they are all rows of the batch, in order
    - blocks: int64 [nkv · G · B], cache blocks per head
    - mask: float32 [nkv, G, nq / nkv, B · block_size], 0 or -inf
    """

    rows: Tensor | None
    blocks: Tensor
    mask: Tensor
    num_seqs: int
    num_slots: int


@dataclass(frozen=True)
class PrefillTile:
    """Queries `start` to `stop` (token rows) of one sequence, which see `num_keys` keys at most.

    - blocks: int64 [nkv · B]
    - mask: float32 [stop - start, B · block_size], 0 or -inf
    """

    start: int
    stop: int
    blocks: Tensor
    mask: Tensor
    num_slots: int


@dataclass(frozen=True)
class RowSplit:
    """Token rows by modality: `text` and `vision` are int64 row indices, None when there are none.

    `order` int64 [T] maps each row to its place in the two laid end to end.
    """

    text: Tensor | None
    vision: Tensor
    order: Tensor


@dataclass(frozen=True)
class PaddleStep:
    """cos, sin: float32 [T, nq + nkv, d]; rotation: [d, d]; write_rows: int64 [nkv · T].

    `order` int64 [T] puts the outputs of all groups and tiles, laid end to end, in token order;
    None when they already are. `media`: int32 rows [P] and their embeddings [P, H]. `split` is None
    when all rows are text.
    """

    token_ids: Tensor
    logit_rows: Tensor
    media: tuple[Tensor, Tensor] | None
    split: RowSplit | None
    cos: Tensor
    sin: Tensor
    rotation: Tensor
    write_rows: Tensor
    decodes: tuple[DecodeGroup, ...]
    tiles: tuple[PrefillTile, ...]
    order: Tensor | None

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_logit_rows(self) -> int:
        return int(self.logit_rows.shape[0])


def begin_step(batch: Batch, rope: RopeSpec, cache: PaddleKvCache) -> PaddleStep:
    shape = cache.shape
    angles = spread_angles(rope_angles(batch.positions, rope), rope.interleaved)
    turned_heads = shape.num_heads + shape.num_kv_heads
    # Full size: on a CPU Paddle multiplies equal shapes ten times faster than it broadcasts.
    spread = [len(angles), turned_heads, shape.head_dim]
    cos, sin = (
        paddle.to_tensor(np.broadcast_to(part[:, None], spread).copy())
        for part in (np.cos(angles), np.sin(angles))
    )
    heads = np.arange(shape.num_kv_heads, dtype=np.int64)[:, None]
    write_rows = (heads * cache.num_slots + batch.slot_mapping).reshape(-1)
    decodes, decode_rows = _decode_groups(batch, cache)
    tiles = [
        tile
        for seq in np.flatnonzero(batch.query_lens > 1)
        for tile in _prefill_tiles(batch, int(seq), cache)
    ]
    rows = np.concatenate([*decode_rows, *(np.arange(t.start, t.stop) for t in tiles)])
    in_order = bool(np.all(rows[1:] > rows[:-1]))
    media = batch.media_embeddings
    return PaddleStep(
        token_ids=paddle.to_tensor(batch.token_ids),
        logit_rows=paddle.to_tensor(batch.logit_rows),
        media=None if media is None else (paddle.to_tensor(batch.media_rows), media),
        split=_split_by_modality(batch),
        cos=cos,
        sin=sin,
        rotation=paddle.to_tensor(rotation_matrix(shape.head_dim, rope.interleaved)),
        write_rows=paddle.to_tensor(write_rows),
        decodes=tuple(decodes),
        tiles=tuple(tiles),
        order=None if in_order else paddle.to_tensor(np.argsort(rows)),
    )


def _split_by_modality(batch: Batch) -> RowSplit | None:
    if not len(batch.vision_rows):
        return None
    is_vision = np.zeros(batch.num_tokens, dtype=bool)
    is_vision[batch.vision_rows] = True
    # Stable: text rows in order, then vision rows in order.
    rows = np.argsort(is_vision, kind="stable")
    num_text = batch.num_tokens - len(batch.vision_rows)
    return RowSplit(
        text=paddle.to_tensor(rows[:num_text]) if num_text else None,
        vision=paddle.to_tensor(rows[num_text:]),
        order=paddle.to_tensor(np.argsort(rows)),
    )


def _decode_groups(
    batch: Batch, cache: PaddleKvCache
) -> tuple[list[DecodeGroup], list[NumpyArray]]:
    """Group by context length, doubling: a group's padding is then at most half of its work."""
    seqs = np.flatnonzero(batch.query_lens == 1)
    if not len(seqs):
        return [], []
    num_blocks = -(-batch.context_lens[seqs] // cache.block_size)
    classes = np.ceil(np.log2(num_blocks)).astype(np.int64)
    members = [seqs[classes == value] for value in np.unique(classes)]
    all_rows = len(members) == 1 and len(seqs) == batch.num_tokens
    groups, rows = [], []
    for group in members:
        rows.append(batch.query_starts[group].astype(np.int64))
        row_tensor = None if all_rows else paddle.to_tensor(rows[-1])
        groups.append(_decode_group(batch, group, row_tensor, cache))
    return groups, rows


def _decode_group(
    batch: Batch, seqs: NumpyArray, rows: Tensor | None, cache: PaddleKvCache
) -> DecodeGroup:
    lens = batch.context_lens[seqs]
    count = -(-int(lens.max()) // cache.block_size)
    num_slots = count * cache.block_size
    kv_heads = cache.shape.num_kv_heads
    hidden = np.arange(num_slots) >= lens[:, None]
    mask = np.where(hidden, _MASKED, np.float32(0.0))[None, :, None]
    full = [kv_heads, len(seqs), cache.shape.num_heads // kv_heads, num_slots]
    return DecodeGroup(
        rows=rows,
        blocks=_head_blocks(batch.block_tables[seqs, :count], cache),
        mask=paddle.to_tensor(np.broadcast_to(mask, full).copy()),
        num_seqs=len(seqs),
        num_slots=num_slots,
    )


def _prefill_tiles(batch: Batch, seq: int, cache: PaddleKvCache) -> list[PrefillTile]:
    """Cut a sequence's queries so that no tile's scores exceed MAX_SCORES."""
    start, stop = int(batch.query_starts[seq]), int(batch.query_starts[seq + 1])
    context = int(batch.context_lens[seq])
    size = max(1, MAX_SCORES // (cache.shape.num_heads * context))
    tiles = []
    for first in range(start, stop, size):
        last = min(first + size, stop)
        # Query row r of this sequence sits at position context - (stop - r).
        positions = context - stop + np.arange(first, last)
        count = -(-int(positions[-1] + 1) // cache.block_size)
        num_slots = count * cache.block_size
        hidden = np.arange(num_slots) > positions[:, None]
        tiles.append(
            PrefillTile(
                start=first,
                stop=last,
                blocks=_head_blocks(batch.block_tables[seq, :count], cache),
                mask=paddle.to_tensor(np.where(hidden, _MASKED, np.float32(0.0))),
                num_slots=num_slots,
            )
        )
    return tiles


def _head_blocks(blocks: IntArray, cache: PaddleKvCache) -> Tensor:
    """Block ids of every KV head, head outermost: [...] → int64 [nkv · ...]."""
    heads = np.arange(cache.shape.num_kv_heads, dtype=np.int64)[:, None]
    return paddle.to_tensor((heads * cache.num_blocks + blocks.reshape(1, -1)).reshape(-1))
