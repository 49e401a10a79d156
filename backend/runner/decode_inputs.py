"""What every step of a recorded batch brings to the device, in one copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.sampling import ROW, padding_rows, row_bytes

_ALIGNMENT = 16  # kernels refuse what starts elsewhere


class DecodeInputs:
    """One piece of the device's memory for B rows, and its parts as the tensors that kernels read:

    settings uint8 [B, 64] (kernels.sampling.ROW; padding until they are filled), slots int64 [B],
    positions int32 [3, B], context_lens and token_ids int32 [B] (see CudaStep).
    """

    def __init__(self, kernels: Any, context: Any, num_rows: int) -> None:
        parts = {
            "settings": (np.uint8, kernels.u8, (num_rows, ROW.itemsize)),
            "slots": (np.int64, kernels.i64, (num_rows,)),
            "positions": (np.int32, kernels.i32, (3, num_rows)),
            "context_lens": (np.int32, kernels.i32, (num_rows,)),
            "token_ids": (np.int32, kernels.i32, (num_rows,)),
        }
        places, end = {}, 0
        for name, (dtype, _, shape) in parts.items():
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + int(np.prod(shape)) * np.dtype(dtype).itemsize
            places[name] = slice(begin, end)
        self._bytes = np.zeros(end, dtype=np.uint8)
        self._device = context.zeros((end,), kernels.u8)
        self._arrays: dict[str, NDArray[Any]] = {}
        tensors = {}
        for name, (dtype, device_dtype, shape) in parts.items():
            place = places[name]
            self._arrays[name] = self._bytes[place].view(dtype).reshape(shape)
            tensors[name] = self._device.slice(place.start, place.stop).view(shape, device_dtype)
        self.settings = tensors["settings"]
        self.slots = tensors["slots"]
        self.positions = tensors["positions"]
        self.context_lens = tensors["context_lens"]
        self.token_ids = tensors["token_ids"]
        self.fill(settings=row_bytes(padding_rows(num_rows)))

    def fill(self, **arrays: NDArray[Any]) -> None:
        """Overwrite the parts that are named, with arrays of their shapes, in stream order."""
        for name, array in arrays.items():
            self._arrays[name][...] = array
        self._device.copy_from(self._bytes)
