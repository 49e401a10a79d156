"""What changes logits before anything is chosen: penalties and the min_tokens mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.sampler.state import SamplingState


def has_adjustments(state: SamplingState) -> bool:
    params = state.params
    return (
        params.repetition_penalty != 1.0
        or params.frequency_penalty != 0.0
        or params.presence_penalty != 0.0
        or state.position < params.min_tokens
    )


def adjust(logits: NDArray[np.float32], state: SamplingState) -> None:
    """Change float32 logits [V] in place.

    Repetition (Keskar et al. 2019) looks at prompt and output: a seen token's logit is divided by
    the penalty when positive, multiplied when negative. Frequency and presence look at the output
    alone, as OpenAI defines them: logit -= count · frequency + (count > 0) · presence.
    """
    params = state.params
    counted_ids, counts = np.unique(
        np.asarray(state.output_ids, dtype=np.int64), return_counts=True
    )
    if params.repetition_penalty != 1.0:
        seen = np.union1d(state.distinct_prompt_ids, counted_ids)
        values = logits[seen]
        logits[seen] = np.where(
            values > 0, values / params.repetition_penalty, values * params.repetition_penalty
        )
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        logits[counted_ids] -= counts * params.frequency_penalty + params.presence_penalty
    if state.position < params.min_tokens:
        logits[list(state.stop_ids)] = -np.inf
