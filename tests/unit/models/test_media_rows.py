"""Order of patches and of frame pairs, written out by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.layers.resampler import frame_pairs
from backend.models.vision import patch_positions

GRIDS = st.lists(
    st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 4)).map(
        lambda grid: (grid[0], 2 * grid[1], 2 * grid[2])
    ),
    min_size=1,
    max_size=4,
)


def test_patches_come_in_blocks_of_two_by_two():
    rows, columns = patch_positions([(1, 2, 4)], merge=2)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
    ]


def test_every_frame_of_a_video_starts_over():
    rows, columns = patch_positions([(3, 2, 2)], merge=2)
    assert rows.tolist() == [0, 0, 1, 1] * 3
    assert columns.tolist() == [0, 1, 0, 1] * 3


def test_a_picture_is_paired_with_itself():
    first, second = frame_pairs([(1, 4, 4)], merge=2)
    assert first.tolist() == second.tolist() == [0, 1, 2, 3]


def test_even_frames_come_first_in_a_pair_and_odd_ones_second():
    first, second = frame_pairs([(4, 2, 4)], merge=2)
    assert first.tolist() == [0, 1, 4, 5]
    assert second.tolist() == [2, 3, 6, 7]


def test_items_follow_each_other():
    first, second = frame_pairs([(1, 2, 2), (2, 2, 4), (1, 2, 2)], merge=2)
    assert first.tolist() == [0, 1, 2, 5]
    assert second.tolist() == [0, 3, 4, 5]


@given(GRIDS)
def test_every_patch_of_every_frame_is_enumerated_once(grids):
    rows, columns = patch_positions(grids, merge=2)
    start = 0
    for frames, height, width in grids:
        for _ in range(frames):
            at = slice(start, start + height * width)
            seen = set(zip(rows[at].tolist(), columns[at].tolist(), strict=True))
            assert seen == {(r, c) for r in range(height) for c in range(width)}
            start += height * width
    assert start == len(rows)


@given(GRIDS)
def test_every_cell_is_used_once_per_slot_or_twice_by_a_picture(grids):
    first, second = frame_pairs(grids, merge=2)
    cells = sum(t * h * w // 4 for t, h, w in grids)
    pictures = sum(h * w // 4 for t, h, w in grids if t == 1)
    used = np.bincount(np.concatenate([first, second]), minlength=cells)
    assert (used == 2).sum() == pictures and (used == 1).sum() == cells - pictures
