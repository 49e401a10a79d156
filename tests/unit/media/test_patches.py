"""Patch rows against a loop that follows the definition index by index."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.media.patches import patch_grid, patch_rows


def slow_patch_rows(frames, patch, merge):
    """One element at a time, in the order that the docstring promises."""
    num_frames, height, width, channels = frames.shape
    rows = []
    for frame in range(num_frames):
        for block_y in range(height // patch // merge):
            for block_x in range(width // patch // merge):
                for inner_y in range(merge):
                    for inner_x in range(merge):
                        top = (block_y * merge + inner_y) * patch
                        left = (block_x * merge + inner_x) * patch
                        rows.append(
                            [
                                frames[frame, top + y, left + x, channel]
                                for channel in range(channels)
                                for y in range(patch)
                                for x in range(patch)
                            ]
                        )
    return np.array(rows, dtype=np.uint8)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_rows_follow_the_definition(num_frames, blocks_y, blocks_x, seed):
    shape = (num_frames, blocks_y * 4, blocks_x * 4, 3)
    frames = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(patch_rows(frames, 2, 2), slow_patch_rows(frames, 2, 2))


def test_the_models_own_sizes_give_rows_of_588():
    frames = np.random.default_rng(0).integers(0, 256, (2, 56, 84, 3), dtype=np.uint8)
    rows = patch_rows(frames)
    assert rows.shape == (2 * 4 * 6, 588)
    assert rows.dtype == np.uint8 and rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, slow_patch_rows(frames, 14, 2))


def test_the_grid_counts_patches():
    assert patch_grid(1, 868, 1120) == (1, 62, 80)


def test_frames_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="56×60 pixels do not divide into blocks of 28"):
        patch_rows(np.zeros((1, 56, 60, 3), dtype=np.uint8))
