"""Weights of linear layers on the GPU. Each knows its number format and computes its own products,
so that another format is another class, made by `cuda_weights.device_weight`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from backend.ops.interface import Activation, Tensor


class CudaLinear(Protocol):
    """A matrix [in, out] of the mathematics, in whatever format; x and results are bfloat16."""

    def product(
        self,
        kernels: Any,
        x: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        """activation(x @ matrix + bias): [T, in], [out] → [T, out]."""

    def swiglu_product(self, kernels: Any, x: Tensor) -> Tensor:
        """silu(x @ gates) · (x @ ups), the two halves of the matrix: [T, in] → [T, out / 2]."""


@dataclass(frozen=True)
class Bf16Linear:
    """`rows` bfloat16 [out, in]: one row per output."""

    rows: Tensor

    def product(
        self,
        kernels: Any,
        x: Tensor,
        bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        return kernels.linear(x, self.rows, bias, activation or "")

    def swiglu_product(self, kernels: Any, x: Tensor) -> Tensor:
        if x.shape[0] <= kernels.SKINNY_ROWS:
            return kernels.skinny_linear_swiglu(x, self.rows)
        return kernels.swiglu(kernels.linear(x, self.rows))
