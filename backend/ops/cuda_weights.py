"""Weights of the CUDA executor: every matrix [out, in], row-major, bfloat16 (routers float32).

The canonical matrices are [in, out]; here the last two axes change places, which is how the decode
kernels stream rows and how the prefill kernels take their second operand. A layer's shared experts
follow the text experts in one table, as experts that every token is sent to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from backend.errors import InternalError
from backend.ops.arrays import FloatArray, NumpyArray
from backend.ops.interface import ParameterKind, Region, Weight

UNTURNED: Final = ("vector", "embedding")
"""Kinds that keep their canonical axes."""

_BUFFER_BYTES = 64 * 2**20
_MAX_COPY_THREADS = 4
_TEXT_EXPERTS = ".experts.text."


def device_shape(shape: tuple[int, ...], kind: ParameterKind) -> tuple[int, ...]:
    """The device's shape of a canonical one."""
    return shape if kind in UNTURNED else (*shape[:-2], shape[-1], shape[-2])


def turned(array: FloatArray, kind: ParameterKind) -> FloatArray:
    """A canonical array in the device's order."""
    return array if kind in UNTURNED else np.ascontiguousarray(array.swapaxes(-1, -2))


class CudaWeightStore:
    """See WeightStore. `shapes`: canonical shapes of all tensors that will come.

    Text expert tables get room for the layer's shared experts, which are copied there at the end:
    the table of 64 experts of width m and a shared width of 2 m becomes one of 66.
    """

    def __init__(self, kernels: Any, context: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._kernels = kernels
        self._context = context
        self._shapes = shapes
        threads = min(_MAX_COPY_THREADS, os.cpu_count() or 1)
        self._uploader = kernels.WeightUploader(context, _BUFFER_BYTES, threads)
        self._kinds: dict[str, ParameterKind] = {}
        self._weights: dict[str, Weight] = {}

    def begin(
        self, name: str, shape: tuple[int, ...], kind: ParameterKind, keep_float32: bool
    ) -> None:
        rows = device_shape(shape, kind)
        if _TEXT_EXPERTS in name:
            rows = (rows[0] + self._num_shared(name), *rows[1:])
        dtype = self._kernels.f32 if keep_float32 else self._kernels.bf16
        self._kinds[name] = kind
        self._weights[name] = self._context.empty(rows, dtype)

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
            self._weights[name], offset, stride, source, is_turned != is_transposed
        )

    def finish(self) -> dict[str, Weight]:
        for name, table in self._weights.items():
            if _TEXT_EXPERTS in name and self._num_shared(name):
                shared = self._weights[_shared_name(name)]
                put_shared_experts(
                    self._kernels, self._context, table, shared, self._shapes[name][0]
                )
        del self._uploader
        self._context.synchronize()
        return self._weights

    def _num_shared(self, name: str) -> int:
        shared = self._shapes.get(_shared_name(name))
        if shared is None:
            return 0
        # down_proj is [width, H], up_gate_proj [H, 2 · width].
        axis = -2 if name.endswith("down_proj") else -1
        return shared[axis] // self._shapes[name][axis]


def put_shared_experts(
    kernels: Any, context: Any, table: Weight, shared: Weight, num_routed: int
) -> None:
    """Copy shared experts into the table's rows from `num_routed` on.

    Of up projections, shared [2 · S · m, H] (gates, then ups) → S times [2 m, H]; of down
    projections, shared [H, S · m] → S times [H, m].
    """
    num_shared = table.shape[0] - num_routed
    outputs, inputs = table.shape[1:]
    if shared.shape == (num_shared * outputs, inputs):
        width = outputs // 2
        for expert in range(num_shared):
            target = table.slice(num_routed + expert, num_routed + expert + 1).view(
                (outputs, inputs)
            )
            for half in range(2):
                start = (half * num_shared + expert) * width
                kernels.copy(
                    target.slice(half * width, (half + 1) * width),
                    shared.slice(start, start + width),
                )
    elif shared.shape == (outputs, num_shared * inputs):
        by_expert = shared.view((outputs * num_shared, inputs))
        for expert in range(num_shared):
            rows = np.arange(outputs, dtype=np.int32) * num_shared + expert
            target = table.slice(num_routed + expert, num_routed + expert + 1)
            picked = kernels.gather_rows(by_expert, context.upload(rows))
            kernels.copy(target.view((outputs, inputs)), picked)
    else:
        raise InternalError(
            f"shared experts {list(shared.shape)} do not fit a table {list(table.shape)} of "
            f"{num_routed} routed experts"
        )


def _shared_name(name: str) -> str:
    """`layers.3.mlp.experts.text.down_proj` → `layers.3.mlp.shared_experts.down_proj.weight`."""
    layer, projection = name.split(_TEXT_EXPERTS)
    return f"{layer}.shared_experts.{projection}.weight"


def _resolve(target: Region, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Start and extent of a region on every axis of `shape`."""
    starts, extents = [], []
    for axis, size in enumerate(shape):
        part = target[axis] if axis < len(target) else slice(None)
        bounds = (part, part + 1) if isinstance(part, int) else part.indices(size)[:2]
        starts.append(bounds[0])
        extents.append(bounds[1] - bounds[0])
    return starts, extents
