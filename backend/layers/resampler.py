"""The variable-resolution resampler: patches of the vision transformer → decoder embeddings.

2×2 neighbouring patches become one cell; two frames of a video become one token per cell, a picture
is paired with itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.config.model import VisionConfig
from backend.layers.weights import Weights
from backend.ops import Ops, Tensor
from backend.ops.arrays import IntArray

Grid = tuple[int, int, int]
"""Frames, patch rows and patch columns of one picture (1, h, w) or video (t, h, w)."""


class Resampler:
    def __init__(
        self, ops: Ops, config: VisionConfig, rms_norm_eps: float, weights: Weights
    ) -> None:
        self._ops = ops
        self._merge = config.spatial_merge_size
        self._eps = config.layer_norm_eps
        self._rms_eps = rms_norm_eps
        self._spatial = _stage(weights.under("spatial_linear"))
        self._temporal = _stage(weights.under("temporal_linear"))
        self._mlp = (weights["mlp.weight"], weights["mlp.bias"])
        self._after_norm = weights["after_norm.weight"]

    def __call__(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Patches [N, W] in merge-block order → [tokens of all grids, H]."""
        cells = self._ops.group_rows(x, self._merge**2)
        cells = self._run(cells, self._spatial)
        pairs = self._ops.pair_rows(cells, *frame_pairs(grids, self._merge))
        tokens = self._ops.linear(self._run(pairs, self._temporal), *self._mlp)
        return self._ops.rms_norm(tokens, self._after_norm, self._rms_eps)

    def _run(self, x: Tensor, stage: list[tuple[Tensor, Tensor]]) -> Tensor:
        first, second, norm = stage
        hidden = self._ops.linear(x, *first, activation="gelu")
        return self._ops.layer_norm(self._ops.linear(hidden, *second), *norm, self._eps)


def frame_pairs(grids: Sequence[Grid], merge: int) -> tuple[IntArray, IntArray]:
    """Cells of the even and of the odd frames, pair by pair, row-major: two int32 [tokens]."""
    firsts, seconds, start = [], [], 0
    for frames, height, width in grids:
        cells = height * width // merge**2
        index = start + np.arange(frames * cells, dtype=np.int32).reshape(frames, cells)
        firsts.append(index[0::2].reshape(-1))
        seconds.append((index if frames == 1 else index[1::2]).reshape(-1))
        start += frames * cells
    return np.concatenate(firsts), np.concatenate(seconds)


def _stage(weights: Weights) -> list[tuple[Tensor, Tensor]]:
    """Linear, (GELU), linear, layer norm: indices 0, 2 and 3 of the checkpoint's Sequential."""
    return [(weights[f"{i}.weight"], weights[f"{i}.bias"]) for i in (0, 2, 3)]
