"""Which expert gets which token: the host's part of a mixture of experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.ops.arrays import FloatArray, NumpyArray


@dataclass(frozen=True)
class Routing:
    """T tokens sent to k experts each, sorted by expert.

    - tokens: int64 [T · k], token of each sorted row
    - counts: int64 [E], rows of each expert
    - places: int64 [T · k], sorted row of each (token, choice), token-major
    - weights: float32 [T, k]
    """

    tokens: NumpyArray
    counts: NumpyArray
    places: NumpyArray
    weights: FloatArray


def route(
    probabilities: FloatArray, correction_bias: FloatArray, top_k: int, norm_min: float
) -> Routing:
    """Choose by probability + bias, weigh by probability alone (normalised over the chosen).

    probabilities float32 [T, E], correction_bias float32 [1, E]. The lower index wins a tie.
    """
    chosen = _top_k(probabilities + correction_bias, top_k)
    weights = np.take_along_axis(probabilities, chosen, axis=1)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.float32(norm_min))
    flat = chosen.reshape(-1)
    order = np.argsort(flat, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return Routing(
        tokens=order // top_k,
        counts=np.bincount(flat, minlength=probabilities.shape[1]),
        places=places,
        weights=weights,
    )


def _top_k(scores: FloatArray, top_k: int) -> NumpyArray:
    """Indices of the top_k largest of each row, largest first; argmax keeps the first of equals."""
    left = scores.copy()
    rows = np.arange(len(left))
    chosen = np.empty((len(left), top_k), dtype=np.int64)
    for choice in range(top_k):
        chosen[:, choice] = left.argmax(axis=1)
        left[rows, chosen[:, choice]] = -np.inf
    return chosen
