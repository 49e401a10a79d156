"""Tables of experts on the GPU: one matrix per expert. As with linear layers, each table knows its
number format and how its products are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backend.errors import InternalError
from backend.ops.interface import Tensor


class CudaExperts(Protocol):
    """Matrices [E, in, out] of the mathematics, in whatever format."""

    @property
    def num_experts(self) -> int: ...

    def feed_forward(
        self,
        kernels: Any,
        down: Any,
        x: Tensor,
        routing: Any,
        first_expert: int,
        slots: int,
        y: Tensor,
    ) -> None:
        """These experts' rows of y, bfloat16 [T · slots, H] by token and slot: `down` of silu(x @
        gates) · (x @ ups), gates being the first half of this table's outputs.

        `down` is a table of the same class. `routing` is what kernels.moe_route gave for x [T, H];
        it numbers this table's experts from `first_expert`.
        """


@dataclass(frozen=True)
class Bf16Experts:
    """`rows` bfloat16 [E, out, in]."""

    rows: Tensor

    @property
    def num_experts(self) -> int:
        return int(self.rows.shape[0])

    def feed_forward(
        self,
        kernels: Any,
        down: Bf16Experts,
        x: Tensor,
        routing: Any,
        first_expert: int,
        slots: int,
        y: Tensor,
    ) -> None:
        # Few tokens are streamed past by the weights; many are a matrix product.
        is_small = kernels.moe_prefers_small(x, x.shape[0] * slots, down.rows.shape[2])
        up = kernels.moe_up_small if is_small else kernels.moe_up_large
        to_y = kernels.moe_down_small if is_small else kernels.moe_down_large
        count = self.num_experts
        hidden = up(x, routing, self.rows, first_expert, count, slots)
        to_y(hidden, routing, down.rows, first_expert, count, y)


def put_shared_experts(
    kernels: Any, context: Any, table: Tensor, shared: Tensor, num_routed: int
) -> None:
    """Copy shared experts into the table's rows from `num_routed` on, bfloat16 both.

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
