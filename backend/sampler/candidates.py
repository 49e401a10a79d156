"""The tokens that temperature, min_p, top_k and top_p leave, and their weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backend.request import SamplingParams

_MARGINS = (2.0, 4.0, 8.0, 16.0, 32.0, math.inf)


def select_candidates(
    logits: NDArray[np.float32], params: SamplingParams
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Token ids [K] and their unnormalised probabilities, float64 [K], from logits [V].

    Filters apply in this order, each to what the one before left: min_p keeps p ≥ min_p · max p,
    top_k the k most likely, top_p the fewest most likely whose share reaches top_p (at least one).
    Between equal logits the lower id counts as the more likely.

    The vocabulary is never sorted as a whole unless its distribution is flat: candidates are cut
    off by value, at a distance below the maximum that grows until nothing kept can lie outside.
    """
    scaled = (logits.astype(np.float64) - float(logits.max())) / params.temperature
    top_k = params.top_k if params.top_k < len(logits) else 0
    if not top_k and params.top_p >= 1.0 and params.min_p <= 0.0:
        return np.arange(len(logits)), np.exp(scaled)
    limit = -math.log(params.min_p) if params.min_p > 0.0 else math.inf
    mass = math.inf
    if params.top_p < 1.0 and not top_k:
        mass = float(np.exp(scaled[scaled >= -limit]).sum())
    ids = _sorted_head(scaled, limit, top_k, params.top_p * mass)
    if top_k:
        ids = ids[:top_k]
    weights: NDArray[np.float64] = np.exp(scaled[ids])
    if params.top_p < 1.0:
        cumulative = np.cumsum(weights)
        total = float(cumulative[-1]) if top_k else mass
        count = int(np.searchsorted(cumulative, params.top_p * total)) + 1
        ids, weights = ids[:count], weights[:count]
    return ids, weights


def _sorted_head(
    scaled: NDArray[np.float64], limit: float, top_k: int, needed_mass: float
) -> NDArray[np.int64]:
    """Ids no further than `limit` below the maximum, most likely first.

    The list may end early, but not before it has `top_k` ids or, without top_k, `needed_mass`.
    """
    for margin in _MARGINS:
        cut = min(margin, limit)
        ids = np.flatnonzero(scaled >= -cut)
        if cut == limit:
            break
        if len(ids) >= top_k if top_k else np.exp(scaled[ids]).sum() > needed_mass:
            break
    if top_k and len(ids) > top_k:
        place = len(ids) - top_k
        ids = ids[scaled[ids] >= np.partition(scaled[ids], place)[place]]
    return ids[np.argsort(-scaled[ids], kind="stable")]
