"""Examples made so far: tokens in host memory, patches in a ring on the device.

Arrays only grow; an example stays drawable until its patches are overwritten.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .chunk import Chunk
from .forward import Ragged, Step

Index = NDArray[np.int64]


class Pool:
    """`draw` picks examples at random from those held, whatever their length or task.

    `vision_ids`: tokens that the vision experts see, the placeholder first.
    """

    def __init__(
        self,
        num_patches: int,
        num_examples: int,
        device: torch.device,
        vision_ids: tuple[int, ...],
        rectangles: bool,
    ) -> None:
        self.patches = torch.zeros((num_patches, 588), dtype=torch.uint8, device=device)
        self._vision_ids = np.array(vision_ids, np.int32)
        self._rectangles = rectangles
        self._tokens = _Growing(num_examples * 220, np.int16)
        self._positions = _Growing(num_examples * 220, np.int16, 3)
        self._starts = _Growing(num_examples, np.int64)
        self._lengths = _Growing(num_examples, np.int64)
        self._prompts = _Growing(num_examples, np.int64)
        self._item_starts = _Growing(num_examples, np.int64)
        self._item_counts = _Growing(num_examples, np.int64)
        self._tasks = _Growing(num_examples, np.int64)
        self._grids = _Growing(num_examples * 2, np.int64, 3)
        self._offsets = _Growing(num_examples * 2, np.int64)
        self._item_patches = _Growing(num_examples * 2, np.int64)
        self._next_patch = 0
        self._written = 0
        # (patches written before a chunk, its first example), to tell what is overwritten.
        self._chunks: list[tuple[int, int]] = []
        self._first = 0

    @property
    def num_examples(self) -> int:
        """All that were ever added."""
        return self._lengths.count

    @property
    def num_held(self) -> int:
        return self.num_examples - self._first

    def add(self, chunk: Chunk, patches: torch.Tensor) -> None:
        """Copy `patches` (uint8 [P, 588], the chunk's) to the device and remember the rest."""
        count = len(patches)
        if self._next_patch + count > len(self.patches):
            self._written += len(self.patches) - self._next_patch
            self._next_patch = 0
        counts = chunk.grids.prod(axis=1).astype(np.int64)
        self._item_patches.extend(self._next_patch + _starts(counts))
        self.patches[self._next_patch : self._next_patch + count].copy_(patches)
        self._next_patch += count
        self._chunks.append((self._written, self.num_examples))
        self._written += count
        self._starts.extend(self._tokens.count + _starts(chunk.lengths))
        self._item_starts.extend(self._grids.count + _starts(chunk.num_items))
        self._tokens.extend(chunk.token_ids)
        self._positions.extend(chunk.positions)
        self._grids.extend(chunk.grids.T)
        self._offsets.extend(chunk.offsets)
        self._prompts.extend(chunk.num_prompts)
        self._item_counts.extend(chunk.num_items)
        self._tasks.extend(chunk.tasks)
        self._lengths.extend(chunk.lengths)
        # Batches drawn a moment ago may still be waiting: a margin keeps their patches intact.
        oldest = self._written - int(len(self.patches) * 0.97)
        while self._chunks[0][0] < oldest and len(self._chunks) > 1:
            self._chunks.pop(0)
            self._first = self._chunks[0][1]

    def draw(self, random: np.random.Generator, num_tokens: int) -> tuple[Step, Index]:
        """A batch of about `num_tokens` tokens and each answer token's task.

        Step.patches holds rows of the ring (int64), still to be gathered with `gather`.
        """
        picked = random.integers(self._first, self.num_examples, num_tokens // 20 + 1)
        ends = np.cumsum(self._lengths[picked])
        picked = picked[: max(1, int(np.searchsorted(ends, num_tokens)))]
        return self.step(picked)

    def step(self, picked: Index) -> tuple[Step, Index]:
        """The batch of the examples with these numbers."""
        lengths = self._lengths[picked]
        # Sequences of like length next to each other keep the padded rectangles small.
        if self._rectangles:
            order = np.argsort(lengths, kind="stable")
            picked, lengths = picked[order], lengths[order]
        firsts = _starts(lengths)
        source = _spans(self._starts[picked], lengths)
        token_ids = self._tokens[source].astype(np.int64)
        is_vision = np.isin(token_ids, self._vision_ids)
        answers = lengths - self._prompts[picked]
        answer_rows = _spans(firsts + self._prompts[picked] - 1, answers)
        media = self._media(picked, firsts)
        tasks = np.repeat(self._tasks[picked], answers)
        step = Step(
            token_ids=_tensor(token_ids),
            positions=_tensor(self._positions[source].astype(np.int64)),
            sequences=self._ragged(lengths),
            text_rows=_tensor(np.flatnonzero(~is_vision)),
            vision_rows=_tensor(np.flatnonzero(is_vision)),
            answer_rows=_tensor(answer_rows),
            labels=_tensor(token_ids[answer_rows + 1]),
            **media,
        )
        return step, tasks

    def _media(self, picked: Index, firsts: Index) -> dict[str, torch.Tensor | Ragged]:
        counts = self._item_counts[picked]
        items = _spans(self._item_starts[picked], counts)
        grids = self._grids[items]  # [3, m]
        rows = np.repeat(firsts, counts) + self._offsets[items]
        order = np.argsort(grids[1] * grids[2], kind="stable")
        items, grids, rows = items[order], grids[:, order], rows[order]
        frames, areas = grids[0], grids[1] * grids[2]
        patches = frames * areas
        tokens = np.where(frames > 1, patches // 8, patches // 4)
        cells = areas // 4
        # Media token j of an item joins cell j mod n of its frames 2·(j div n) and the next one.
        number = _spans(np.zeros_like(tokens), tokens)
        width = np.repeat(cells, tokens)
        first = np.repeat(_starts(patches // 4), tokens) + number // width * 2 * width
        first += number % width
        second = first + np.where(np.repeat(frames, tokens) > 1, width, 0)
        return {
            "media_rows": _tensor(_spans(rows, tokens)),
            "patches": _tensor(_spans(self._item_patches[items], patches)),
            "patch_positions": _tensor(_patch_positions(grids, patches)),
            "frames": self._ragged(np.repeat(areas, frames)),
            "first_slots": _tensor(first),
            "second_slots": _tensor(second),
        }

    def _ragged(self, lengths: Index) -> Ragged:
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        longest = int(lengths.max()) if len(lengths) else 0
        rectangles = _rectangles(lengths) if self._rectangles else []
        return Ragged(_tensor(starts), longest, rectangles)


def _patch_positions(grids: Index, patches: Index) -> Index:
    """(row, column) [N, 2] of each patch in its frame, patches in 2 × 2 merge-block order."""
    number = _spans(np.zeros_like(patches), patches) % np.repeat(grids[1] * grids[2], patches)
    blocks_wide = np.repeat(grids[2] // 2, patches)
    block, inner = number // 4, number % 4
    rows = block // blocks_wide * 2 + inner // 2
    columns = block % blocks_wide * 2 + inner % 2
    return np.stack([rows, columns], axis=1)


def _rectangles(lengths: Index) -> list[torch.Tensor]:
    """Rows [b, s] of each run of neighbours of one length."""
    starts = _starts(lengths)
    edges = np.flatnonzero(np.diff(lengths)) + 1
    groups = np.split(np.arange(len(lengths)), edges)
    return [
        _tensor(starts[group, None] + np.arange(lengths[group[0]]))
        for group in groups
        if len(group)
    ]


def _starts(counts: NDArray[np.integer]) -> Index:
    """Where each of consecutive runs of these lengths begins."""
    return np.cumsum(counts, dtype=np.int64) - counts


def _spans(starts: Index, counts: Index) -> Index:
    """start, start + 1, … start + count − 1 of every run, one after the other."""
    return np.repeat(starts - _starts(counts), counts) + np.arange(int(counts.sum()))


def _tensor(array: NDArray[np.integer]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class _Growing:
    """An array [rows, n] or [n] whose used part grows; memory is touched only as it is used."""

    def __init__(self, capacity: int, dtype: type, rows: int = 0) -> None:
        self._values = np.empty((rows, capacity) if rows else capacity, dtype)
        self.count = 0

    def extend(self, values: NDArray[np.integer]) -> None:
        end = self.count + values.shape[-1]
        if end > self._values.shape[-1]:
            raise ValueError(f"pool: {end} values do not fit into {self._values.shape[-1]}")
        self._values[..., self.count : end] = values
        self.count = end

    def __getitem__(self, index: Index) -> NDArray[np.integer]:
        return self._values[..., index]
