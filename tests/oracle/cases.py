"""The prompts that stored goldens and the live oracle share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.oracle.prompts import Grid, Prompt, media_prompt

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"

WEIGHT_SEED = 7
PROMPT_SEED = 14

TEXT_PARTS: dict[str, list[int | Grid]] = {
    "text": [21],
    "longer text": [37],
    "one token": [1],
}

MEDIA_PARTS: dict[str, list[int | Grid]] = {
    "one image": [4, (1, 4, 6), 5],
    "images of different sizes": [2, (1, 2, 2), 1, (1, 8, 4), (1, 4, 10), 3],
    "video": [3, (4, 4, 6), 4],
    "video longer than wide": [3, (12, 2, 4), 6],
    "image and video": [(1, 6, 4), 3, (6, 4, 4), (1, 2, 6), 5],
}


def make_prompts(is_multimodal: bool) -> dict[str, Prompt]:
    parts = {**TEXT_PARTS, **MEDIA_PARTS} if is_multimodal else TEXT_PARTS
    return {
        name: media_prompt(np.random.RandomState(PROMPT_SEED + index), parts[name])
        for index, name in enumerate(parts)
    }


def golden_path(name: str) -> Path:
    return GOLDENS / f"{name}.npz"


def golden_rows(prompt: Prompt) -> np.ndarray:
    """Rows whose logits are stored: every third and the last."""
    return np.unique([*range(0, len(prompt), 3), len(prompt) - 1])


def inputs_digest(weights: Mapping[str, np.ndarray], prompts: Mapping[str, Prompt]) -> int:
    """Changes with the inputs and the weights' names, shapes and signs: tells stale goldens.

    Signs, not values: the last bit of a normal deviate is the platform's.
    """
    digest = 0
    for name, array in weights.items():
        digest = zlib.crc32(f"{name}{array.shape}".encode(), digest)
        digest = zlib.crc32(np.signbit(array).tobytes(), digest)
    for prompt in prompts.values():
        for array in (prompt.ids, prompt.positions, prompt.is_vision, prompt.patches):
            digest = zlib.crc32(np.ascontiguousarray(array).tobytes(), digest)
    return digest
