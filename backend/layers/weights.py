"""A model's tensors under a name prefix."""

from __future__ import annotations

from collections.abc import Mapping

from backend.ops import Tensor


class Weights:
    """`Weights(tensors).under("layers.3")["norm.weight"]` is tensors["layers.3.norm.weight"]."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors = tensors
        self._prefix = prefix

    def under(self, name: str) -> Weights:
        return Weights(self._tensors, f"{self._prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]
