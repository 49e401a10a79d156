"""Rotary angles and the rotation matrix against the formula, written out in float64."""

import numpy as np
import pytest

from backend.ops.rope import (
    HEIGHT,
    TIME,
    WIDTH,
    RopeSpec,
    alternating_pair_axes,
    grid_angles,
    rope_angles,
    rotation_matrix,
    spread_angles,
)

THETA = 500000.0


def _turn(x, angles, interleaved):
    """The executor's formula, in float64."""
    spread = spread_angles(angles, interleaved)
    matrix = rotation_matrix(x.shape[1], interleaved)
    return x * np.cos(spread) + x @ matrix * np.sin(spread)


def test_pairs_alternate_height_and_width_and_the_slowest_follow_time():
    axes = alternating_pair_axes((22, 22, 20))
    assert len(axes) == 64
    assert axes[:44] == (HEIGHT, WIDTH) * 22
    assert axes[44:] == (TIME,) * 20


def test_a_pair_keeps_its_own_frequency_whatever_axis_it_follows():
    spec = RopeSpec(128, THETA, alternating_pair_axes((22, 22, 20)), interleaved=True)
    positions = np.array([[5], [11], [23]], dtype=np.int32)
    angles = rope_angles(positions, spec)[0]
    for pair, axis in ((0, HEIGHT), (1, WIDTH), (42, HEIGHT), (43, WIDTH), (44, TIME), (63, TIME)):
        expected = positions[axis, 0] * THETA ** (-2 * pair / 128)
        assert angles[pair] == pytest.approx(expected, rel=1e-6), pair


def test_equal_axes_give_the_one_dimensional_rope():
    vl = RopeSpec(64, THETA, alternating_pair_axes((8, 8, 16)), interleaved=True)
    text = RopeSpec(64, THETA, (TIME,) * 32, interleaved=True)
    positions = np.tile(np.arange(50, dtype=np.int32), (3, 1))
    np.testing.assert_array_equal(rope_angles(positions, vl), rope_angles(positions, text))


def test_interleaved_pairs_are_neighbours():
    x = np.random.RandomState(0).standard_normal((1, 8))
    angles = np.array([[0.3, 1.1, -0.7, 2.0]])
    turned = _turn(x, angles, interleaved=True)
    for pair, angle in enumerate(angles[0]):
        a, b = x[0, 2 * pair], x[0, 2 * pair + 1]
        assert turned[0, 2 * pair] == pytest.approx(a * np.cos(angle) - b * np.sin(angle))
        assert turned[0, 2 * pair + 1] == pytest.approx(b * np.cos(angle) + a * np.sin(angle))


def test_half_rotation_pairs_are_half_a_head_apart():
    x = np.random.RandomState(0).standard_normal((1, 8))
    angles = np.array([[0.3, 1.1, -0.7, 2.0]])
    turned = _turn(x, angles, interleaved=False)
    for pair, angle in enumerate(angles[0]):
        a, b = x[0, pair], x[0, pair + 4]
        assert turned[0, pair] == pytest.approx(a * np.cos(angle) - b * np.sin(angle))
        assert turned[0, pair + 4] == pytest.approx(b * np.cos(angle) + a * np.sin(angle))


def test_scores_depend_on_the_distance_alone():
    random = np.random.RandomState(1)
    q, k = random.standard_normal((2, 1, 16))
    spec = RopeSpec(16, THETA, (TIME,) * 8, interleaved=True)

    def score(query_position, key_position):
        at = [
            rope_angles(np.full((3, 1), position, dtype=np.int32), spec).astype(np.float64)
            for position in (query_position, key_position)
        ]
        return (_turn(q, at[0], True) @ _turn(k, at[1], True).T).item()

    assert score(17, 4) == pytest.approx(score(113, 100), abs=1e-5)
    assert abs(score(17, 4) - score(17, 5)) > 1e-3


def test_grid_angles_are_rows_then_columns():
    rows = np.array([0, 3], dtype=np.int32)
    columns = np.array([2, 1], dtype=np.int32)
    angles = grid_angles(rows, columns, head_dim=80, theta=10000.0)
    assert angles.shape == (2, 40)
    for patch in range(2):
        for j in range(20):
            frequency = 10000.0 ** (-2 * j / 40)
            assert angles[patch, j] == pytest.approx(rows[patch] * frequency, rel=1e-6)
            assert angles[patch, 20 + j] == pytest.approx(columns[patch] * frequency, rel=1e-6)
