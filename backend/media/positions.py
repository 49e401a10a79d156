"""3-D rotary positions of a prompt (models.md §5.3)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def rotary_positions(
    num_tokens: int, spans: Iterable[tuple[int, tuple[int, int, int]]]
) -> NDArray[np.int32]:
    """Positions int32 [3, num_tokens] on the axes (time, height, width).

    `spans`: (offset of an item's first placeholder, its merged grid (t, h, w)), in prompt order.
    A text token takes the next position on all axes. Token (a, r, c) of an item that begins at
    position p takes (p + a, p + r, p + c); what follows continues at p + max(t, h, w).

    Example: two text tokens, an item of (1, 2, 3), one text token:
    T 0 1 2 2 2 2 2 2 5, H 0 1 2 2 2 3 3 3 5, W 0 1 2 3 4 2 3 4 5.
    """
    positions = np.empty((3, num_tokens), dtype=np.int32)
    done, position = 0, 0
    for offset, grid in spans:
        text = offset - done
        positions[:, done:offset] = np.arange(position, position + text, dtype=np.int32)
        position += text
        done = offset + grid[0] * grid[1] * grid[2]
        positions[:, offset:done] = position + np.indices(grid, dtype=np.int32).reshape(3, -1)
        position += max(grid)
    positions[:, done:] = np.arange(position, position + num_tokens - done, dtype=np.int32)
    return positions


def next_position(positions: NDArray[np.int32]) -> int:
    """Position, on all axes, of the first token after a prompt with these positions."""
    return int(positions.max()) + 1 if positions.size else 0
