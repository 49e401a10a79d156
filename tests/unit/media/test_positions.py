"""3-D positions: the worked example, long videos, and a token-by-token reference."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.media.positions import next_position, rotary_positions


def slow_positions(layout):
    """`layout`: "text" or a merged grid, in prompt order."""
    rows, current = [], 0
    for piece in layout:
        if piece == "text":
            rows.append((current, current, current))
            current += 1
            continue
        steps, height, width = piece
        block = [
            (current + a, current + r, current + c)
            for a in range(steps)
            for r in range(height)
            for c in range(width)
        ]
        rows += block
        current = max(max(row) for row in block) + 1
    return np.array(rows, dtype=np.int32).reshape(-1, 3).T


def test_the_worked_example_of_the_specification():
    positions = rotary_positions(11, [(3, (1, 2, 3))])
    assert positions.dtype == np.int32
    assert positions.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]
    assert next_position(positions) == 8


def test_a_long_video_advances_by_its_time_axis():
    positions = rotary_positions(1 + 5 * 2 * 2 + 1, [(1, (5, 2, 2))])
    assert positions[:, -1].tolist() == [6, 6, 6]


def test_a_prompt_that_ends_in_an_item_continues_after_its_largest_axis():
    assert next_position(rotary_positions(1 + 6, [(1, (1, 3, 2))])) == 4


def test_text_alone_counts_up_on_all_axes():
    assert rotary_positions(4, []).tolist() == [[0, 1, 2, 3]] * 3
    assert next_position(rotary_positions(0, [])) == 0


pieces = st.lists(
    st.one_of(st.just("text"), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))),
    max_size=12,
)


@given(pieces)
def test_every_layout_agrees_with_the_token_by_token_reference(layout):
    spans, offset = [], 0
    for piece in layout:
        if piece == "text":
            offset += 1
        else:
            spans.append((offset, piece))
            offset += piece[0] * piece[1] * piece[2]
    np.testing.assert_array_equal(rotary_positions(offset, spans), slow_positions(layout))
