"""Token sequences with pictures and videos, with the positions that ERNIE-4.5-VL gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.oracle.models import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    VIDEO,
    VIDEO_END,
    VIDEO_START,
)

Grid = tuple[int, int, int]
PATCH_DIM = 588


@dataclass(frozen=True)
class Prompt:
    """ids int32 [n], positions int32 [3, n]; grids and patches of its items in prompt order.

    `is_media` marks placeholders, `is_vision` also their START and END tokens; bool [n].
    """

    ids: np.ndarray
    positions: np.ndarray
    is_media: np.ndarray
    is_vision: np.ndarray
    grids: tuple[Grid, ...]
    patches: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def text_prompt(random: np.random.RandomState, length: int) -> Prompt:
    return media_prompt(random, [length])


def media_prompt(random: np.random.RandomState, parts: Sequence[int | Grid]) -> Prompt:
    """A prompt of parts: a number of random text tokens, or a grid (t, h, w) of random patches."""
    ids: list[int] = []
    axes: list[np.ndarray] = []
    grids: list[Grid] = []
    position = 0
    for part in parts:
        if isinstance(part, int):
            ids += random.randint(0, IMAGE, size=part).tolist()
            axes.append(np.tile(position + np.arange(part), (3, 1)))
            position += part
            continue
        tokens, media_axes = _media_tokens(part, position)
        ids += tokens
        axes.append(media_axes)
        position = int(media_axes.max()) + 1
        grids.append(part)
    id_array = np.array(ids, dtype=np.int32)
    num_patches = sum(t * h * w for t, h, w in grids)
    return Prompt(
        ids=id_array,
        positions=np.concatenate(axes, axis=1).astype(np.int32),
        is_media=np.isin(id_array, (IMAGE, VIDEO)),
        is_vision=id_array >= IMAGE,
        grids=tuple(grids),
        patches=random.randint(0, 256, size=(num_patches, PATCH_DIM)).astype(np.uint8),
    )


def _media_tokens(grid: Grid, start: int) -> tuple[list[int], np.ndarray]:
    """START, placeholders, END and their positions [3, n] (T, H, W), starting at `start`."""
    frames, height, width = grid
    is_video = frames > 1
    steps, rows, columns = (frames // 2 if is_video else 1), height // 2, width // 2
    count = steps * rows * columns
    inner = np.indices((steps, rows, columns)).reshape(3, -1) + start + 1
    boundary = np.ones((3, 1), dtype=np.int64)
    axes = np.concatenate([start * boundary, inner, (inner.max() + 1) * boundary], axis=1)
    if is_video:
        return [VIDEO_START, *[VIDEO] * count, VIDEO_END], axes
    return [IMAGE_START, *[IMAGE] * count, IMAGE_END], axes
