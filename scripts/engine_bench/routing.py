"""Which experts tokens were given: what `kernels.moe_route` said while something ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kernels


@dataclass(frozen=True)
class LayerRouting:
    """`offsets` int32 [groups + 1] on the device: text experts, shared ones, vision experts."""

    offsets: Any
    num_text: int
    num_shared: int
    has_vision: bool

    def counts(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens of each routed expert, of text's and of vision's; none of the latter where
        all tokens are text."""
        of_groups = np.diff(self.offsets.numpy())
        return of_groups[: self.num_text], of_groups[self.num_text + self.num_shared :]


@contextmanager
def recorded_layers() -> Iterator[list[LayerRouting]]:
    """The layers with experts that are computed inside, in order; launched graphs do not count."""
    layers: list[LayerRouting] = []
    original = kernels.moe_route

    def route(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        has_vision = keywords.get("is_vision") is not None
        num_text, num_shared = arguments[1].shape[0], arguments[5]
        layers.append(LayerRouting(result.offsets, num_text, num_shared, has_vision))
        return result

    kernels.moe_route = route
    try:
        yield layers
    finally:
        kernels.moe_route = original


def mean_distinct(layers: list[LayerRouting]) -> tuple[float, float]:
    """Experts of text and of vision that have a token, means over the layers."""
    counts = [layer.counts() for layer in layers]
    text, vision = (float(np.mean([(c[g] > 0).sum() for c in counts])) for g in (0, 1))
    return text, vision
