"""Examples in flat arrays: how workers hand them over and how the pool keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .prompt import Example


@dataclass(frozen=True, slots=True)
class Chunk:
    """Examples one after the other.

    Tokens: token_ids int32 [T], positions int16 [3, T]. Examples: lengths, num_prompts,
    num_items int32 [n], tasks int16 [n]. Items: grids int32 [m, 3], offsets int32 [m] (inside
    their example).
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int16]
    lengths: NDArray[np.int32]
    num_prompts: NDArray[np.int32]
    num_items: NDArray[np.int32]
    tasks: NDArray[np.int16]
    grids: NDArray[np.int32]
    offsets: NDArray[np.int32]

    @classmethod
    def of(
        cls, examples: Sequence[Example], tasks: Sequence[int]
    ) -> tuple[Chunk, NDArray[np.uint8]]:
        """The chunk, and beside it the patches uint8 [P, 588] of all items in order."""
        items = [item for example in examples for item in example.items]
        patches = [item.patches for item in items]
        chunk = cls(
            np.concatenate([example.token_ids for example in examples]),
            np.concatenate([example.positions for example in examples], axis=1).astype(np.int16),
            np.array([len(example.token_ids) for example in examples], np.int32),
            np.array([example.num_prompt for example in examples], np.int32),
            np.array([len(example.items) for example in examples], np.int32),
            np.array(tasks, np.int16),
            np.array([item.grid for item in items], np.int32).reshape(-1, 3),
            np.array([o for example in examples for o in example.offsets], np.int32),
        )
        return chunk, np.concatenate(patches) if patches else np.zeros((0, 588), np.uint8)
