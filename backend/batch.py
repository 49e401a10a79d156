"""Host-side description of one forward pass: which tokens run, where their K and V go.

Sequences of a batch may be in any phase: a decode step is a sequence with one row, a prefill chunk
one with several. Only numpy here; a backend uploads what it needs once per pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.errors import InternalError

Int32Array = np.ndarray[Any, np.dtype[np.int32]]
Int64Array = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Batch:
    """T token rows of S sequences; R rows give logits, M are vision rows, P carry media.

    - token_ids: int32 [T]
    - positions: int32 [3, T], axes T, H, W; all equal for text
    - slot_mapping: int64 [T], block_id · block_size + offset of each token's K and V
    - query_starts: int32 [S + 1], sequence s owns rows query_starts[s] to query_starts[s + 1] - 1
    - context_lens: int32 [S], K/V length of each sequence after this pass, its new rows included
    - block_tables: int32 [S, max_blocks], block ids of each sequence, padded with 0
    - logit_rows: int32 [R], rows whose logits are wanted, in the order they are wanted
    - vision_rows: int32 [M], rows routed to the vision experts (placeholders and their START/END
      tokens), ascending; empty for text
    - media_rows: int32 [P], rows whose embedding is replaced, ascending
    - media_embeddings: [P, H], a tensor of the model's own ops backend, None when P is 0

    Raises InternalError when the arrays do not fit together: a batch is made by this program.
    """

    token_ids: Int32Array
    positions: Int32Array
    slot_mapping: Int64Array
    query_starts: Int32Array
    context_lens: Int32Array
    block_tables: Int32Array
    logit_rows: Int32Array
    vision_rows: Int32Array
    media_rows: Int32Array
    media_embeddings: Any | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_seqs(self) -> int:
        return len(self.context_lens)

    @property
    def query_lens(self) -> Int32Array:
        """Rows of each sequence, int32 [S]."""
        return np.diff(self.query_starts)

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_sequences()
        for name in ("logit_rows", "vision_rows", "media_rows"):
            self._check_rows(name, ascending=name != "logit_rows")
        if (self.media_embeddings is None) != (len(self.media_rows) == 0):
            raise InternalError(
                f"batch: {len(self.media_rows)} media_rows "
                f"{'without' if self.media_embeddings is None else 'with'} media_embeddings"
            )

    def _check_shapes(self) -> None:
        tokens, seqs = self.token_ids.size, self.context_lens.size
        expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "token_ids": (np.int32, (tokens,)),
            "positions": (np.int32, (3, tokens)),
            "slot_mapping": (np.int64, (tokens,)),
            "query_starts": (np.int32, (seqs + 1,)),
            "context_lens": (np.int32, (seqs,)),
            "block_tables": (np.int32, (seqs, self.block_tables.shape[-1])),
            "logit_rows": (np.int32, (self.logit_rows.size,)),
            "vision_rows": (np.int32, (self.vision_rows.size,)),
            "media_rows": (np.int32, (self.media_rows.size,)),
        }
        for name, (dtype, shape) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise InternalError(
                    f"batch: {name} is {array.dtype} {list(array.shape)}; "
                    f"expected {np.dtype(dtype)} {list(shape)}"
                )

    def _check_sequences(self) -> None:
        lens = self.query_lens
        if not self.num_seqs or self.query_starts[0] != 0 or np.any(lens <= 0):
            raise InternalError(f"batch: query_starts {self.query_starts.tolist()} do not ascend")
        if self.query_starts[-1] != self.num_tokens:
            raise InternalError(
                f"batch: query_starts end at {self.query_starts[-1]} of {self.num_tokens} tokens"
            )
        if np.any(self.context_lens < lens):
            seq = int(np.argmax(self.context_lens < lens))
            raise InternalError(
                f"batch: sequence {seq} has {lens[seq]} new tokens but a context of "
                f"{self.context_lens[seq]}"
            )

    def _check_rows(self, name: str, ascending: bool) -> None:
        rows = getattr(self, name)
        if not rows.size:
            return
        if rows.min() < 0 or rows.max() >= self.num_tokens:
            raise InternalError(f"batch: {name} point outside of {self.num_tokens} tokens")
        if ascending and np.any(np.diff(rows) <= 0):
            raise InternalError(f"batch: {name} do not ascend")
