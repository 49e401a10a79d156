"""The rows of a decode batch that is captured once and filled anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.scheduler import Chunk, Request


@dataclass(frozen=True)
class TableUpdate:
    """block_tables[row, start : start + len(block_ids)] = block_ids."""

    row: int
    start: int
    block_ids: NDArray[np.int32]


@dataclass(frozen=True)
class FilledRows:
    """N requests in the first rows of B; the others repeat row 0, so that they route to the same
    experts, read the same blocks and write the same values to the same place.

    requests [N] by row; positions int32 [3, B], slots int64 [B], context_lens int32 [B].
    """

    requests: Sequence[Request]
    positions: NDArray[np.int32]
    slots: NDArray[np.int64]
    context_lens: NDArray[np.int32]
    updates: Sequence[TableUpdate]


class DecodeRows:
    """Knows which request sits in which row, and what the device's block tables hold.

    A request keeps its row from step to step as long as no earlier row falls empty, so that its
    block table is sent once and then grows by a block at a time.
    """

    def __init__(self, num_rows: int, max_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._requests: list[Request | None] = []  # None: it has ended
        self._row_of: dict[Request, int] = {}
        self._blocks = np.zeros((num_rows, max_blocks), dtype=np.int32)
        self._held: list[tuple[Request | None, int, int]] = [(None, 0, 0)] * num_rows
        self._starts = np.zeros(num_rows, dtype=np.int64)
        self._offsets = np.zeros(num_rows, dtype=np.int64)

    def fill(self, chunks: Sequence[Chunk], num_rows: int) -> FilledRows:
        """Seat one-token chunks of different requests, at most `num_rows`."""
        count = len(chunks)
        self._seat([chunk.request for chunk in chunks])
        requests = tuple(self._row_of)
        updates = []
        for chunk in chunks:
            row = self._row_of[chunk.request]
            self._starts[row] = chunk.start
            updates += self._sync_table(row, chunk.request)
        for row in range(count, num_rows):
            updates += self._sync_table(row, requests[0])
        self._starts[count:num_rows] = self._starts[0]
        starts = self._starts[:num_rows]
        blocks = self._blocks[np.arange(num_rows), starts // self._block_size].astype(np.int64)
        self._offsets[count:num_rows] = self._offsets[0]
        return FilledRows(
            requests=requests,
            positions=self._positions(chunks, num_rows),
            slots=blocks * self._block_size + starts % self._block_size,
            context_lens=(starts + 1).astype(np.int32),
            updates=updates,
        )

    def forget(self, request: Request) -> None:
        """It has ended: nothing keeps it any more."""
        row = self._row_of.pop(request, None)
        if row is not None:
            self._requests[row] = None
        for row, (holder, _, _) in enumerate(self._held):
            if holder is request:
                self._held[row] = (None, 0, 0)

    def _seat(self, requests: list[Request]) -> None:
        coming = dict.fromkeys(requests)
        old, count = self._requests, len(requests)
        if len(old) == count and all(request in self._row_of for request in requests):
            return
        movers = [request for request in old[count:] if request and request in coming]
        waiting = iter(movers + [request for request in requests if request not in self._row_of])
        self._row_of = {}
        for row in range(count):
            holder = old[row] if row < len(old) else None
            request = holder if holder and holder in coming else next(waiting)
            self._row_of[request] = row
            self._offsets[row] = request.next_position - request.num_prompt_tokens
        self._requests = list(self._row_of)

    def _sync_table(self, row: int, request: Request) -> list[TableUpdate]:
        """What the device's table lacks. A preempted request comes back with other blocks."""
        count = len(request.block_table)
        holder, preemptions, known = self._held[row]
        if holder is not request or preemptions != request.num_preemptions:
            known = 0
        if known == count:
            return []
        block_ids = request.block_table.block_ids[known:].copy()
        self._blocks[row, known:count] = block_ids
        self._held[row] = (request, request.num_preemptions, count)
        return [TableUpdate(row, known, block_ids)]

    def _positions(self, chunks: Sequence[Chunk], num_rows: int) -> NDArray[np.int32]:
        starts = self._starts[:num_rows]
        positions = np.empty((3, num_rows), dtype=np.int32)
        positions[:] = starts + self._offsets[:num_rows]
        # The last token of a prompt may be alone in its chunk; its axes may differ.
        for chunk in chunks:
            if chunk.start < chunk.request.num_prompt_tokens:
                row = self._row_of[chunk.request]
                positions[:, row] = chunk.request.positions[:, chunk.start]
                if row == 0:
                    positions[:, len(chunks) :] = positions[:, :1]
        return positions
