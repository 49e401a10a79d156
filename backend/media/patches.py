"""Frames of pixels ↔ rows of patches in the order the vision tower reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def patch_rows(
    frames: NDArray[np.uint8], patch_size: int = 14, merge_size: int = 2
) -> NDArray[np.uint8]:
    """Cut uint8 frames [t, h, w, c] into rows [t·(h/p)·(w/p), c·p·p].

    Row order: frame, then merge block (merge_size² neighbouring patches) row-major, then patches
    row-major inside their block. Inside a row: channel, then pixel row, then pixel column.
    h and w must be multiples of patch_size·merge_size (ValueError otherwise).
    """
    num_frames, height, width, channels = frames.shape
    block = patch_size * merge_size
    if height % block or width % block:
        raise ValueError(f"frames of {height}×{width} pixels do not divide into blocks of {block}")
    split = frames.reshape(
        num_frames,
        height // block,
        merge_size,
        patch_size,
        width // block,
        merge_size,
        patch_size,
        channels,
    )
    ordered = split.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    return np.ascontiguousarray(ordered).reshape(-1, channels * patch_size * patch_size)


def patch_grid(
    num_frames: int, height: int, width: int, patch_size: int = 14
) -> tuple[int, int, int]:
    """Patches along (time, height, width)."""
    return (num_frames, height // patch_size, width // patch_size)
