"""Vision attention, patches and resampler rows against numpy."""

import numpy as np
import pytest

from backend.ops import paddle_vision
from backend.ops.rope import grid_angles

HEADS, HEAD_DIM = 3, 8


def _reference(qkv, angles, segments):
    q, k, v = qkv.astype(np.float64).reshape(-1, 3, HEADS, HEAD_DIM).transpose(1, 2, 0, 3)
    double = np.concatenate([angles, angles], axis=1)

    def turn(x):
        rotated = np.concatenate([-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]], axis=-1)
        return x * np.cos(double) + rotated * np.sin(double)

    q, k = turn(q), turn(k)
    parts, start = [], 0
    for size in segments:
        at = slice(start, start + size)
        scores = q[:, at] @ k[:, at].transpose(0, 2, 1) / np.sqrt(HEAD_DIM)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        parts.append(p / p.sum(axis=-1, keepdims=True) @ v[:, at])
        start += size
    return np.concatenate(parts, axis=1).transpose(1, 0, 2).reshape(-1, HEADS * HEAD_DIM)


def _run(ops, segments):
    random = np.random.RandomState(0)
    count = sum(segments)
    qkv = random.standard_normal((count, 3 * HEADS * HEAD_DIM)).astype(np.float32)
    rows, columns = random.randint(0, 30, size=(2, count)).astype(np.int32)
    angles = grid_angles(rows, columns, HEAD_DIM, 10000.0)
    out = ops.vision_attention(ops.from_numpy(qkv), HEADS, ops.begin_vision(angles, segments))
    return ops.to_numpy(out), _reference(qkv, angles, segments)


@pytest.mark.parametrize("segments", [[4], [16, 16], [4, 24, 8]])
def test_attention_stays_inside_each_segment(ops, segments):
    np.testing.assert_allclose(*_run(ops, segments), atol=2e-5)


def test_large_frames_are_cut_into_query_tiles(ops, monkeypatch):
    monkeypatch.setattr(paddle_vision, "MAX_SCORES", 100)
    np.testing.assert_allclose(*_run(ops, [12, 20]), atol=2e-5)


def test_patches_are_scaled_then_normalised_by_value(ops):
    patches = np.array([[0, 255, 128], [51, 102, 204]], dtype=np.uint8)
    mean = np.array([0.5, 0.4, 0.3], dtype=np.float32)
    std = np.array([0.2, 0.25, 0.5], dtype=np.float32)
    expected = (patches / 255.0 - mean) / std
    result = ops.to_numpy(ops.normalize_patches(patches, mean, std))
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_grouped_rows_lie_end_to_end(ops):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    grouped = ops.to_numpy(ops.group_rows(ops.from_numpy(x), 2))
    np.testing.assert_array_equal(grouped, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])


def test_paired_rows_keep_the_first_in_the_first_half(ops):
    x = ops.from_numpy(np.arange(8, dtype=np.float32).reshape(4, 2))
    first, second = np.array([0, 3], dtype=np.int32), np.array([1, 3], dtype=np.int32)
    paired = ops.to_numpy(ops.pair_rows(x, first, second))
    np.testing.assert_array_equal(paired, [[0, 1, 2, 3], [6, 7, 6, 7]])
