"""Pictures and videos → decoder embeddings: the vision transformer and its resampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backend.config.model import ModelConfig
from backend.errors import InternalError
from backend.layers.resampler import Grid, Resampler
from backend.layers.vision_block import VisionBlock
from backend.layers.weights import Weights
from backend.ops import Ops, Tensor
from backend.ops.arrays import FloatArray, IntArray, NumpyArray
from backend.ops.rope import grid_angles

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Red, green, blue; CLIP's constants, which the vision transformer was trained with."""

ROPE_THETA = 10000.0


class VisionModel:
    def __init__(self, config: ModelConfig, ops: Ops, weights: Mapping[str, Tensor]) -> None:
        if config.vision is None:
            raise InternalError("a text-only model has no vision model")
        self._ops = ops
        self._config = vision = config.vision
        tower = Weights(weights).under("vision_model")
        self._patch_embed = tower["patch_embed.proj.weight"]
        self._blocks = [
            VisionBlock(ops, vision, tower.under(f"blocks.{block}"))
            for block in range(vision.depth)
        ]
        self._norm = (tower["ln.weight"], tower["ln.bias"])
        self._resampler = Resampler(
            ops, vision, config.rms_norm_eps, Weights(weights).under("resampler_model")
        )
        # A patch row is channel-major: all values of one channel share its constants.
        per_channel = vision.patch_size**2
        self._mean = np.repeat(np.array(PIXEL_MEAN, dtype=np.float32), per_channel)
        self._std = np.repeat(np.array(PIXEL_STD, dtype=np.float32), per_channel)

    def __call__(self, patches: NumpyArray, grids: Sequence[Grid]) -> Tensor:
        """uint8 patches [N, 588] of all grids, in merge-block order → [tokens, H]."""
        self._check(patches, grids)
        x = self._ops.normalize_patches(patches, self._mean, self._std)
        x = self._ops.linear(x, self._patch_embed)
        # Attention never crosses a frame: a video is t pictures here.
        segments = [height * width for frames, height, width in grids for _ in range(frames)]
        step = self._ops.begin_vision(self._angles(grids), segments)
        for block in self._blocks:
            x = block(x, step)
        x = self._ops.layer_norm(x, *self._norm, self._config.layer_norm_eps)
        return self._resampler(x, grids)

    def _angles(self, grids: Sequence[Grid]) -> FloatArray:
        rows, columns = patch_positions(grids, self._config.spatial_merge_size)
        return grid_angles(rows, columns, self._config.head_dim, ROPE_THETA)

    def _check(self, patches: NumpyArray, grids: Sequence[Grid]) -> None:
        vision = self._config
        merge, pair = vision.spatial_merge_size, vision.temporal_merge_size
        for grid in grids:
            frames, height, width = grid
            if min(grid) < 1 or height % merge or width % merge or (frames > 1 and frames % pair):
                raise InternalError(
                    f"media grid {list(grid)}: rows and columns must be multiples of {merge}, "
                    f"frames 1 or a multiple of {pair}"
                )
        expected = (sum(t * h * w for t, h, w in grids), vision.patch_dim)
        if patches.dtype != np.uint8 or patches.shape != expected:
            raise InternalError(
                f"media patches are {patches.dtype} {list(patches.shape)}; "
                f"the grids need uint8 {list(expected)}"
            )


def patch_positions(grids: Sequence[Grid], merge: int) -> tuple[IntArray, IntArray]:
    """Row and column of every patch in its own frame, in merge-block order: two int32 [N].

    The order is that of the pixels: blocks of merge × merge patches, row-major, and row-major
    inside a block.
    """
    rows, columns = [], []
    for frames, height, width in grids:
        index = np.arange(height * width, dtype=np.int32)
        blocks = index.reshape(height // merge, merge, width // merge, merge)
        order = np.tile(blocks.transpose(0, 2, 1, 3).reshape(-1), frames)
        rows.append(order // width)
        columns.append(order % width)
    return np.concatenate(rows), np.concatenate(columns)
