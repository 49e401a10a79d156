"""The inputs of a recorded step: parts of one piece of memory, filled by one copy."""

import numpy as np
import pytest

from backend.runner.decode_inputs import DecodeInputs
from kernels.sampling import ROW
from tests.unit.ops import numpy_kernels

SIZES = [1, 3, 24, 256]


def _arrays(size, seed=0):
    random = np.random.default_rng(seed)
    return {
        "settings": random.integers(0, 256, (size, ROW.itemsize), dtype=np.uint8),
        "slots": random.integers(-(2**62), 2**62, size),
        "positions": random.integers(-(2**31), 2**31, (3, size)).astype(np.int32),
        "context_lens": random.integers(-(2**31), 2**31, size).astype(np.int32),
        "token_ids": random.integers(-(2**31), 2**31, size).astype(np.int32),
    }


@pytest.mark.parametrize("size", SIZES)
def test_every_part_arrives_with_its_dtype_and_shape(size):
    inputs = DecodeInputs(numpy_kernels, numpy_kernels.Context(), size)
    for seed in (1, 2):
        arrays = _arrays(size, seed)
        inputs.fill(**arrays)
        for name, array in arrays.items():
            tensor = getattr(inputs, name)
            assert tensor.dtype is array.dtype.type
            np.testing.assert_array_equal(tensor.array, array)


@pytest.mark.parametrize("size", SIZES)
def test_parts_start_where_kernels_can_read_them(size):
    inputs = DecodeInputs(numpy_kernels, numpy_kernels.Context(), size)
    for name in _arrays(size):
        assert getattr(inputs, name).array.ctypes.data % 16 == 0, name


def test_one_copy_brings_everything(monkeypatch):
    inputs = DecodeInputs(numpy_kernels, numpy_kernels.Context(), 5)
    copies = []
    copy_from = numpy_kernels.Tensor.copy_from

    def counted(tensor, array):
        copies.append(array.nbytes)
        copy_from(tensor, array)

    monkeypatch.setattr(numpy_kernels.Tensor, "copy_from", counted)
    arrays = _arrays(5)
    inputs.fill(**arrays)
    assert len(copies) == 1
    assert copies[0] >= sum(array.nbytes for array in arrays.values())


def test_nothing_is_drawn_for_rows_that_were_not_filled_yet():
    inputs = DecodeInputs(numpy_kernels, numpy_kernels.Context(), 4)
    assert (inputs.settings.array.view(ROW)["position"] < 0).all()
