"""A picture, or some consecutive frames of a video, as it lies in one request's prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class MediaPiece:
    """The unit that is encoded at once.

    `offset`, `num_tokens`: its placeholder tokens in the prompt. `grid`: its patches (t, h, w).
    `pixels` uint8 [t·h·w, patch_dim] and `digest` (32 bytes, over grid and pixels) name its
    content. `embedding` is the runner's: it stays from the first chunk that needs it until the
    prefill has passed the piece.

    Pixels are kept as long as the request lives, because a preempted request may have to be
    computed again from its first token. They are smaller than what they turn into: 2,352 bytes
    per image token against 4 · hidden_size for its embedding.
    """

    offset: int
    num_tokens: int
    grid: tuple[int, int, int]
    digest: bytes
    pixels: NDArray[np.uint8]
    embedding: Any = field(default=None, repr=False)

    @property
    def end(self) -> int:
        return self.offset + self.num_tokens
