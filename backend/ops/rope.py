"""Rotary position angles, computed on the host in float32, the way the models were trained.

A head of d values is d / 2 pairs; pair i turns by position · theta^(-2 i / d). ERNIE's pairs are
neighbours (2 i, 2 i + 1); PaddleOCR-VL's are half a head apart (i, i + d / 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.ops.arrays import FloatArray, IntArray

TIME, HEIGHT, WIDTH = 0, 1, 2
"""Rows of a position array [3, T]."""


@dataclass(frozen=True)
class RopeSpec:
    """How a decoder turns its queries and keys.

    `pair_axes[i]` is the row of the [3, T] positions (TIME, HEIGHT, WIDTH) that pair i follows;
    with equal rows any choice is the 1-D rope. `interleaved` pairs are neighbours, others half a
    head apart.
    """

    head_dim: int
    theta: float
    pair_axes: tuple[int, ...]
    interleaved: bool


def alternating_pair_axes(sections: tuple[int, int, int]) -> tuple[int, ...]:
    """ERNIE-4.5-VL: the first pairs alternate HEIGHT, WIDTH; the last, slowest ones follow TIME.

    `sections` are the numbers of (HEIGHT, WIDTH, TIME) pairs, the first two equal.
    """
    height, _, time = sections
    return (HEIGHT, WIDTH) * height + (TIME,) * time


def rope_angles(positions: IntArray, spec: RopeSpec) -> FloatArray:
    """Angle of every pair: int32 [3, T] → float32 [T, head_dim / 2]."""
    frequencies = inverse_frequencies(spec.head_dim, spec.theta)
    by_pair = positions.astype(np.float32)[list(spec.pair_axes)].T
    return by_pair * frequencies


def grid_angles(rows: IntArray, columns: IntArray, head_dim: int, theta: float) -> FloatArray:
    """2-D angles of vision patches: row angles, then column angles; float32 [N, head_dim / 2]."""
    frequencies = inverse_frequencies(head_dim // 2, theta)
    both = [axis.astype(np.float32)[:, None] * frequencies for axis in (rows, columns)]
    return np.concatenate(both, axis=1)


def inverse_frequencies(dim: int, theta: float) -> FloatArray:
    """theta^(-2 i / dim) for i < dim / 2, float32 [dim / 2]."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(1.0) / np.float32(theta) ** exponents).astype(np.float32)


def rotation_matrix(head_dim: int, interleaved: bool) -> FloatArray:
    """Signed permutation P with rope(x) = x · cos + (x @ P) · sin; float32 [head_dim, head_dim].

    Each column holds a single ±1, so the product is exact in any dtype.
    """
    half = head_dim // 2
    pairs = np.arange(half)
    first, second = (2 * pairs, 2 * pairs + 1) if interleaved else (pairs, pairs + half)
    matrix = np.zeros((head_dim, head_dim), dtype=np.float32)
    matrix[second, first] = -1.0
    matrix[first, second] = 1.0
    return matrix


def spread_angles(angles: FloatArray, interleaved: bool) -> FloatArray:
    """Repeat each pair's angle for both of its values: [T, head_dim / 2] → [T, head_dim]."""
    return np.repeat(angles, 2, axis=1) if interleaved else np.concatenate([angles] * 2, axis=1)
