"""One generation job inside the engine."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.kv_cache import ROOT_HASH, BlockTable, hash_block
from backend.sampler import SamplingState
from backend.scheduler.media import MediaPiece

PENDING_ID = -1
"""Stands in the output for a token that is being computed."""


class Request:
    """Prompt, output so far, and how much of both has its K/V in memory.

        tokens:  | prompt ................. | output ....... last |
                 |<- num_computed_tokens ->|<- not yet computed ->|
        always:  num_cached_tokens ≤ num_computed_tokens < num_tokens ≤ max_num_tokens

    A request is in prefill while more than its newest token is uncomputed, or nothing is; then each
    decode step computes one token and samples the next. A preempted request is in prefill again:
    its output is then treated like prompt, and it continues as if nothing had happened.

    The last `num_pending` tokens of the output are still being computed: a step may be chosen
    before the one before it has told its tokens.

    `prompt_ids` int32 [n], `positions` int32 [3, n] (axes T, H, W), `is_vision` bool [n]: tokens
    routed to the vision experts. `media` is sorted by offset and does not overlap.
    `rank` orders requests: smaller priorities go first, among equal ones the earlier `arrival`.
    `root_hash`: the parent of the first block; a prefix is shared among equal ones only.

    `arrived_at`, `seated_at` (the first admission), `first_token_at`: CLOCK_MONOTONIC seconds.
    """

    def __init__(
        self,
        *,
        stream_key: str,
        arrival: int,
        prompt_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        is_vision: NDArray[np.bool_],
        media: Sequence[MediaPiece],
        sampling: SamplingState,
        max_tokens: int,
        block_size: int,
        priority: int = 0,
        root_hash: bytes = ROOT_HASH,
    ) -> None:
        self.stream_key = stream_key
        self.arrival = arrival
        self.priority = priority
        self.prompt_ids = prompt_ids
        self.positions = positions
        self.is_vision = is_vision
        self.media = tuple(media)
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.block_table = BlockTable(block_size)
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None
        self.num_preemptions = 0
        self.arrived_at = time.monotonic()
        self.seated_at: float | None = None
        self.first_token_at: float | None = None
        self.num_pending = 0
        self._block_size = block_size
        self._root_hash = root_hash
        self._block_hashes: list[bytes] = []
        # models.md §2.2: generated token n sits at max(prompt positions) + 1 + n on every axis.
        self.next_position = int(positions.max()) + 1

    @property
    def rank(self) -> tuple[int, int]:
        return self.priority, self.arrival

    @property
    def output_ids(self) -> list[int]:
        return self.sampling.output_ids

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def max_num_tokens(self) -> int:
        return len(self.prompt_ids) + self.max_tokens

    @property
    def num_output_tokens(self) -> int:
        """Tokens that are known."""
        return len(self.output_ids) - self.num_pending

    @property
    def is_full(self) -> bool:
        """Nothing more is to be computed, once the pending tokens are."""
        return len(self.output_ids) >= self.max_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_decoding(self) -> bool:
        return self.num_uncomputed_tokens == 1 and self.num_computed_tokens > 0

    def expect_token(self) -> None:
        """One more token is being computed."""
        self.output_ids.append(PENDING_ID)
        self.num_pending += 1

    def settle_token(self, token_id: int) -> None:
        """The earliest pending token is known."""
        self.output_ids[-self.num_pending] = token_id
        self.num_pending -= 1
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()

    def drop_pending(self) -> None:
        """What is being computed will not be used."""
        if self.num_pending:
            del self.output_ids[-self.num_pending :]
            self.num_pending = 0

    def token_ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """int32 [stop - start], prompt and output as one sequence."""
        length = len(self.prompt_ids)
        output = self.output_ids[max(0, start - length) : max(0, stop - length)]
        if not output:
            return self.prompt_ids[start:stop]
        generated = np.array(output, dtype=np.int32)
        if start >= length:
            return generated
        return np.concatenate([self.prompt_ids[start:], generated])

    def token_positions(self, start: int, stop: int) -> NDArray[np.int32]:
        """int32 [3, stop - start]."""
        length = len(self.prompt_ids)
        if stop <= length:
            return self.positions[:, start:stop]
        generated = np.empty((3, stop - max(start, length)), dtype=np.int32)
        first = self.next_position + max(0, start - length)
        generated[:] = range(first, first + generated.shape[1])
        if start >= length:
            return generated
        return np.concatenate([self.positions[:, start:], generated], axis=1)

    def vision_mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """bool [stop - start]; generated tokens are text."""
        mask = np.zeros(stop - start, dtype=np.bool_)
        inside = self.is_vision[start:stop]
        mask[: len(inside)] = inside
        return mask

    def media_between(self, start: int, stop: int) -> list[MediaPiece]:
        """Pieces with a token in start..stop-1, in order."""
        first = bisect_right(self.media, start, key=lambda piece: piece.end)
        last = bisect_left(self.media, stop, key=lambda piece: piece.offset)
        return list(self.media[first:last])

    def block_hashes(self, count: int) -> list[bytes]:
        """Hashes of the first `count` blocks, all of which must be full of known tokens."""
        size = self._block_size
        for block in range(len(self._block_hashes), count):
            start, stop = block * size, (block + 1) * size
            self._block_hashes.append(
                hash_block(
                    self._block_hashes[-1] if block else self._root_hash,
                    self.token_ids(start, stop),
                    self.token_positions(start, stop),
                    self.vision_mask(start, stop),
                    [
                        (start - piece.offset, piece.digest)
                        for piece in self.media_between(start, stop)
                    ],
                )
            )
        return self._block_hashes[:count]

    def release(self) -> list[int]:
        """Forget what was computed and return the blocks that held it."""
        self.num_computed_tokens = 0
        for piece in self.media:
            piece.embedding = None
        return self.block_table.clear()
