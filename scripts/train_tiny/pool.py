"""Examples made so far: tokens in host memory, patches in a ring on the device.

Arrays only grow; an example stays drawable until its patches are overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .chunk import Chunk
from .forward import Ragged, Step

Index = NDArray[np.int64]


LONGEST_SEQUENCE = 768
LONGEST_FRAME = 256


@dataclass(frozen=True)
class Limits:
    """Fixed sizes of a batch: the same ones every time, as a captured graph needs them.

    Of `tokens`, at most `text` go to the text experts and `vision` to the vision experts. `media_share`
    scales what pictures and films may take: 1 where most examples have some, less for other plans.
    """

    tokens: int
    media_share: float = 1.0
    padding_runs: int = 48

    @property
    def text(self) -> int:
        return self.tokens - int(self.tokens * 3 // 8 * self.media_share)

    @property
    def vision(self) -> int:
        return int(self.tokens * 7 // 16 * self.media_share)

    @property
    def media(self) -> int:
        return self.vision

    @property
    def patches(self) -> int:
        return int(self.tokens * 5 // 2 * self.media_share)

    @property
    def answers(self) -> int:
        return self.tokens * 5 // 16

    @property
    def sequences(self) -> int:
        return self.tokens // 100

    @property
    def frames(self) -> int:
        return int(self.tokens // 50 * self.media_share)

    def room(self) -> tuple[int, ...]:
        """What examples may use, in the order of Pool's sizes; one token stays padding."""
        return (self.tokens - 1, self.text, self.vision, self.patches, self.answers, self.frames)


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
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None
        self._pins = device.type == "cuda"
        self._tokens = _Growing(num_examples * 220, np.int16)
        self._positions = _Growing(num_examples * 220, np.int16, 3)
        self._starts = _Growing(num_examples, np.int64)
        self._lengths = _Growing(num_examples, np.int64)
        self._prompts = _Growing(num_examples, np.int64)
        self._item_starts = _Growing(num_examples, np.int64)
        self._item_counts = _Growing(num_examples, np.int64)
        self._tasks = _Growing(num_examples, np.int64)
        self._sizes = _Growing(num_examples, np.int64, 6)
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

    def add(self, chunk: Chunk, patches: NDArray[np.uint8] | str) -> None:
        """Copy `patches` (uint8 [P, 588] or a file of them) to the device, remember the rest."""
        if isinstance(patches, str):
            patches = np.fromfile(patches, np.uint8).reshape(-1, 588)
        count = len(patches)
        if self._next_patch + count > len(self.patches):
            self._written += len(self.patches) - self._next_patch
            self._next_patch = 0
        counts = chunk.grids.prod(axis=1).astype(np.int64)
        self._item_patches.extend(self._next_patch + _starts(counts))
        self._upload(patches, self._next_patch)
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
        self._sizes.extend(self._sizes_of(chunk))
        self._lengths.extend(chunk.lengths)
        # Batches drawn a moment ago may still be waiting: a margin keeps their patches intact.
        oldest = self._written - int(len(self.patches) * 0.97)
        while self._chunks[0][0] < oldest and len(self._chunks) > 1:
            self._chunks.pop(0)
            self._first = self._chunks[0][1]

    def _upload(self, patches: NDArray[np.uint8], row: int) -> None:
        """On a stream of its own, so that it does not wait for the training step in progress."""
        target = self.patches[row : row + len(patches)]
        if self._stream is None:
            target.copy_(torch.from_numpy(patches))
            return
        with torch.cuda.stream(self._stream):
            target.copy_(torch.from_numpy(patches).pin_memory(), non_blocking=True)
        self._stream.synchronize()

    def _sizes_of(self, chunk: Chunk) -> Index:
        """Tokens, text tokens, vision tokens, patches, answers, frames [6, n] of each example."""
        number = np.repeat(np.arange(len(chunk.lengths)), chunk.num_items)
        count = len(chunk.lengths)
        patches = np.bincount(number, chunk.grids.prod(axis=1), count)
        frames = np.bincount(number, chunk.grids[:, 0], count)
        owner = np.repeat(np.arange(count), chunk.lengths)
        vision = np.bincount(owner, np.isin(chunk.token_ids, self._vision_ids), count)
        answers = chunk.lengths - chunk.num_prompts
        return np.stack(
            [chunk.lengths, chunk.lengths - vision, vision, patches, answers, frames]
        ).astype(np.int64)

    def draw(self, random: np.random.Generator, limits: Limits) -> Step:
        """As many examples as fit into `limits`, filled up to exactly these sizes."""
        picked = random.integers(self._first, self.num_examples, limits.sequences)
        sizes = self._sizes[picked].cumsum(axis=1)
        fits = (sizes <= np.array(limits.room())[:, None]).all(axis=0)
        return self.step(picked[: int(fits.sum())], limits)

    def step(self, picked: Index, limits: Limits | None = None) -> Step:
        """The batch of the examples with these numbers, in this order."""
        lengths = self._lengths[picked]
        firsts = _starts(lengths)
        source = _spans(self._starts[picked], lengths)
        token_ids = self._tokens[source].astype(np.int64)
        is_vision = np.isin(token_ids, self._vision_ids)
        answers = lengths - self._prompts[picked]
        answer_rows = _spans(firsts + self._prompts[picked] - 1, answers)
        rows = {
            "token_ids": (token_ids, "tokens", 0),
            "positions": (self._positions[source].astype(np.int64), "tokens", 0),
            "text_rows": (np.flatnonzero(~is_vision), "text", -1),
            "vision_rows": (np.flatnonzero(is_vision), "vision", -1),
            "answer_rows": (answer_rows, "answers", -1),
            "labels": (token_ids[answer_rows + 1], "answers", None),
            "tasks": (np.repeat(self._tasks[picked], answers), "answers", 0),
        }
        media, frame_lengths = self._media(picked, firsts)
        last = (limits.tokens if limits else len(token_ids)) - 1
        filled = {
            name: _tensor(_filled(values, limits, size, last if fill == -1 else fill))
            for name, (values, size, fill) in (rows | media).items()
        }
        step = Step(
            sequences=self._ragged(lengths, LONGEST_SEQUENCE, limits, "tokens", "sequences"),
            frames=self._ragged(frame_lengths, LONGEST_FRAME, limits, "patches", "frames"),
            **filled,
        )
        return step.pinned() if self._pins else step

    def _media(self, picked: Index, firsts: Index) -> tuple[dict[str, Any], Index]:
        """Arrays with what they count and their filling; and the patches of each frame."""
        counts = self._item_counts[picked]
        items = _spans(self._item_starts[picked], counts)
        grids = self._grids[items]  # [3, m]
        frames, areas = grids[0], grids[1] * grids[2]
        patches = frames * areas
        tokens = np.where(frames > 1, patches // 8, patches // 4)
        # Media token j of an item joins cell j mod n of its frames 2·(j div n) and the next one.
        number = _spans(np.zeros_like(tokens), tokens)
        width = np.repeat(areas // 4, tokens)
        first = np.repeat(_starts(patches // 4), tokens) + number // width * 2 * width
        first += number % width
        second = first + np.where(np.repeat(frames, tokens) > 1, width, 0)
        rows = np.repeat(firsts, counts) + self._offsets[items]
        arrays = {
            "media_rows": (_spans(rows, tokens), "media", -1),
            "patch_rows": (_spans(self._item_patches[items], patches), "patches", 0),
            "patch_positions": (_patch_positions(grids, patches), "patches", 0),
            "first_slots": (first, "media", 0),
            "second_slots": (second, "media", 0),
        }
        return arrays, np.repeat(areas, frames)

    def _ragged(
        self, lengths: Index, longest: int, limits: Limits | None, rows: str, runs: str
    ) -> Ragged:
        """Padding rows become sequences of their own, at most `longest` long."""
        if limits is not None:
            spare = getattr(limits, rows) - int(lengths.sum())
            padding = [longest] * (spare // longest) + [spare % longest]
            lengths = np.concatenate([lengths, np.array(padding, np.int64)])
            unused = getattr(limits, runs) + limits.padding_runs - len(lengths)
            lengths = np.concatenate([lengths, np.zeros(unused, np.int64)])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rectangles = _rectangles(lengths) if self._rectangles else []
        return Ragged(_tensor(starts), longest, rectangles)


def _filled(values: Any, limits: Limits | None, size: str, fill: int | None) -> Any:
    """`values` [n], [3, n] or [n, 2] brought to the limit's size with `fill` (None means -1)."""
    if limits is None:
        return values
    missing = getattr(limits, size) - (values.shape[0] if size == "patches" else values.shape[-1])
    padding = [(0, 0)] * values.ndim
    padding[0 if size == "patches" else -1] = (0, missing)
    return np.pad(values, padding, constant_values=-1 if fill is None else fill)


def _patch_positions(grids: Index, patches: Index) -> Index:
    """(row, column) [N, 2] of each patch in its frame, patches in 2 × 2 merge-block order."""
    number = _spans(np.zeros_like(patches), patches) % np.repeat(grids[1] * grids[2], patches)
    blocks_wide = np.repeat(grids[2] // 2, patches)
    block, inner = number // 4, number % 4
    rows = block // blocks_wide * 2 + inner // 2
    columns = block % blocks_wide * 2 + inner % 2
    return np.stack([rows, columns], axis=1)


def _rectangles(lengths: Index) -> list[torch.Tensor]:
    """Rows [b, s] of all sequences of one length, for each length."""
    starts = _starts(lengths)
    return [
        _tensor(starts[lengths == size, None] + np.arange(size))
        for size in np.unique(lengths)
        if size
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
