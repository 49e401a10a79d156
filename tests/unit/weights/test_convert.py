"""Stored values become float32 exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backend.weights.convert import copy_as_float32, copy_transposed_as_float32


def test_every_bfloat16_is_the_float32_of_its_upper_half():
    bits = np.arange(2**16, dtype=np.uint16)
    out = np.empty(2**16, np.float32)
    copy_as_float32(bits, out)
    assert np.array_equal(out.view(np.uint32), bits.astype(np.uint32) << 16)
    known = {0x3F80: 1.0, 0xC000: -2.0, 0x0080: 2.0**-126, 0x7F80: np.inf}
    assert {code: out[code] for code in known} == known


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_other_floats_keep_their_values(dtype):
    values = np.array([[0.5, -3.25], [65504, 6e-8]], dtype)
    out = np.empty((2, 2), np.float32)
    copy_as_float32(values, out)
    assert np.array_equal(out, values.astype(np.float32))


def test_unaligned_values_are_read_right():
    content = b"\0" + np.array([1.5, -2.5], "<f4").tobytes()
    out = np.empty(2, np.float32)
    copy_as_float32(np.frombuffer(content, "<f4", offset=1), out)
    assert out.tolist() == [1.5, -2.5]


@settings(deadline=None)
@given(
    arrays.arrays(np.uint16, st.tuples(st.integers(1, 70), st.integers(1, 9))), st.integers(0, 3)
)
def test_a_transpose_fills_exactly_its_columns(bits, before):
    wide = np.full((bits.shape[1], before + bits.shape[0] + 2), 7, np.float32)
    columns = slice(before, before + bits.shape[0])
    copy_transposed_as_float32(bits, wide[:, columns])
    assert np.array_equal(wide[:, columns].view(np.uint32), bits.T.astype(np.uint32) << 16)
    assert (np.delete(wide, np.r_[columns], axis=1) == 7).all()
