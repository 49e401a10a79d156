"""Log-probabilities as reported to users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.wire import TokenLogprob


def token_logprob(logits: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprob:
    """Natural-log softmax of the model's own logits [V], before penalties, temperature, filters.

    The `num_top` most likely tokens come in descending order, lower ids first among equals; tokens
    of probability 0 are left out. The sampled token is among them only if it belongs there.
    """
    highest = float(logits.max())
    shifted = logits.astype(np.float64) - highest
    log_sum = float(np.log(np.exp(shifted).sum()))
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        place = max(0, len(logits) - num_top)
        ids = np.flatnonzero(logits >= np.partition(logits, place)[place])
        ids = ids[np.argsort(-logits[ids], kind="stable")][:num_top]
        top = tuple((int(i), float(shifted[i]) - log_sum) for i in ids if np.isfinite(shifted[i]))
    return TokenLogprob(token_id, float(shifted[token_id]) - log_sum, top)
