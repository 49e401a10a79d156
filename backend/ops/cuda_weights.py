"""Weights of the CUDA executor: every matrix [out, in], row-major, bfloat16 (routers float32).

The canonical matrices are [in, out]; here the last two axes change places, which is how the decode
kernels stream rows and how the prefill kernels take their second operand. A layer's shared experts
follow the text experts in one table, as experts that every token is sent to. What a layer gets is
an object that knows its format: `device_weight` makes it of a tensor whose values are all there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from backend.ops.arrays import FloatArray, NumpyArray
from backend.ops.cuda_experts import Bf16Experts, put_shared_experts
from backend.ops.cuda_linear import Bf16Linear
from backend.ops.interface import ParameterKind, Region, Tensor, Weight

UNTURNED: Final = ("vector", "embedding")
"""Kinds that keep their canonical axes."""

_BUFFER_BYTES = 64 * 2**20
_MAX_COPY_THREADS = 4
_TEXT_EXPERTS = ".experts.text."
_SHARED_EXPERTS = ".shared_experts."


def device_shape(shape: tuple[int, ...], kind: ParameterKind) -> tuple[int, ...]:
    """The device's shape of a canonical one."""
    return shape if kind in UNTURNED else (*shape[:-2], shape[-1], shape[-2])


def turned(array: FloatArray, kind: ParameterKind) -> FloatArray:
    """A canonical array in the device's order."""
    return array if kind in UNTURNED else np.ascontiguousarray(array.swapaxes(-1, -2))


def device_weight(tensor: Tensor, kind: ParameterKind) -> Weight:
    """What layers get for a tensor in the device's order."""
    if kind in ("linear", "qkv", "gate_up"):
        return Bf16Linear(tensor)
    if kind in ("experts_gate_up", "experts_down"):
        return Bf16Experts(tensor)
    return tensor


class CudaWeightStore:
    """See WeightStore. `shapes`: canonical shapes of all tensors that will come. `threads` copy out
    of the files; 0: a few.

    A tensor becomes a weight as soon as the next one begins. Only text expert tables wait: they
    have room for the layer's shared experts, which come later and are copied there. The table of
    64 experts of width m and a shared width of 2 m becomes one of 66.
    """

    def __init__(
        self, kernels: Any, context: Any, shapes: Mapping[str, tuple[int, ...]], threads: int
    ) -> None:
        self._kernels = kernels
        self._context = context
        self._shapes = shapes
        threads = threads or min(_MAX_COPY_THREADS, os.cpu_count() or 1)
        self._uploader = kernels.WeightUploader(context, _BUFFER_BYTES, threads)
        self._kinds: dict[str, ParameterKind] = {}
        self._tensors: dict[str, Tensor] = {}
        self._weights: dict[str, Weight] = {}
        self._current = ""

    def begin(
        self, name: str, shape: tuple[int, ...], kind: ParameterKind, keep_float32: bool
    ) -> None:
        self._end_current()
        rows = device_shape(shape, kind)
        if _TEXT_EXPERTS in name:
            rows = (rows[0] + self._num_shared(name), *rows[1:])
        dtype = self._kernels.f32 if keep_float32 else self._kernels.bf16
        self._kinds[name] = kind
        self._tensors[name] = self._context.empty(rows, dtype)
        self._current = name

    def place(self, name: str, values: NumpyArray, target: Region, is_transposed: bool) -> None:
        kind, shape = self._kinds[name], self._shapes[name]
        starts, extents = _resolve(target, shape)
        source = values.reshape(1, -1) if values.ndim == 1 else values
        is_turned = kind not in UNTURNED
        if len(shape) == 1:
            offset, stride = starts[0], extents[0]
        else:
            row, column = (starts[-1], starts[-2]) if is_turned else (starts[-2], starts[-1])
            stride = shape[-2] if is_turned else shape[-1]
            table = starts[0] * shape[-1] * shape[-2] if len(shape) == 3 else 0
            offset = table + row * stride + column
        self._uploader.place(
            self._tensors[name], offset, stride, source, is_turned != is_transposed
        )

    def finish(self) -> dict[str, Weight]:
        self._end_current()
        del self._uploader
        self._context.synchronize()
        return self._weights

    def _end_current(self) -> None:
        name = self._current
        if _SHARED_EXPERTS in name:
            self._put_shared(_table_name(name), self._tensors[name])
        if name and not (_TEXT_EXPERTS in name and self._num_shared(name)):
            self._make_weight(name)

    def _put_shared(self, table: str, shared: Tensor) -> None:
        num_routed = self._shapes[table][0]
        put_shared_experts(self._kernels, self._context, self._tensors[table], shared, num_routed)
        self._make_weight(table)

    def _make_weight(self, name: str) -> None:
        self._weights[name] = device_weight(self._tensors.pop(name), self._kinds[name])

    def _num_shared(self, name: str) -> int:
        shared = self._shapes.get(_shared_name(name))
        if shared is None:
            return 0
        # down_proj is [width, H], up_gate_proj [H, 2 · width].
        axis = -2 if name.endswith("down_proj") else -1
        return shared[axis] // self._shapes[name][axis]


def _shared_name(name: str) -> str:
    """`layers.3.mlp.experts.text.down_proj` → `layers.3.mlp.shared_experts.down_proj.weight`."""
    layer, projection = name.split(_TEXT_EXPERTS)
    return f"{layer}{_SHARED_EXPERTS}{projection}.weight"


def _table_name(name: str) -> str:
    """The table that shared experts end in; the other way round."""
    return name.replace(_SHARED_EXPERTS, _TEXT_EXPERTS).removesuffix(".weight")


def _resolve(target: Region, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Start and extent of a region on every axis of `shape`."""
    starts, extents = [], []
    for axis, size in enumerate(shape):
        part = target[axis] if axis < len(target) else slice(None)
        bounds = (part, part + 1) if isinstance(part, int) else part.indices(size)[:2]
        starts.append(bounds[0])
        extents.append(bounds[1] - bounds[0])
    return starts, extents
