"""One picture or video, ready for the model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.wire import Kind


@dataclass(frozen=True, slots=True)
class MediaItem:
    """`patches`: read-only uint8 [t·h·w, 588] for `grid` (t, h, w).

    `num_tokens`: placeholder tokens it takes in the prompt. `digest`: hex SHA-256 over kind, grid
    and patches, which names the item in the prefix cache.
    """

    kind: Kind
    grid: tuple[int, int, int]
    patches: NDArray[np.uint8]
    num_tokens: int
    digest: str

    @property
    def size_bytes(self) -> int:
        return self.patches.nbytes


def make_item(
    kind: Kind,
    grid: tuple[int, int, int],
    patches: NDArray[np.uint8],
    spatial_merge: int = 2,
    temporal_merge: int = 2,
) -> MediaItem:
    """Count tokens, hash, and freeze the patches.

    A picture has h·w/spatial_merge² tokens; a video t·h·w/(spatial_merge²·temporal_merge).
    """
    steps, height, width = merged_grid(kind, grid, spatial_merge, temporal_merge)
    patches = np.ascontiguousarray(patches)
    patches.flags.writeable = False
    content = hashlib.sha256(f"{kind}:{grid[0]}x{grid[1]}x{grid[2]}:".encode())
    content.update(patches.data)
    return MediaItem(kind, grid, patches, steps * height * width, content.hexdigest())


def merged_grid(
    kind: Kind, grid: tuple[int, int, int], spatial_merge: int = 2, temporal_merge: int = 2
) -> tuple[int, int, int]:
    """Placeholder tokens along (time, height, width) after the resampler merged patches."""
    frames, height, width = grid
    steps = 1 if kind == "image" else frames // temporal_merge
    return (steps, height // spatial_merge, width // spatial_merge)
