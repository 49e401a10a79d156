"""What changes logits before anything is chosen: penalties, biases, bad words, min_tokens."""

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
        or bool(params.logit_bias)
        or bool(params.bad_words)
    )


def adjust(logits: NDArray[np.float32], state: SamplingState) -> None:
    """Change float32 logits [V] in place.

    Repetition (Keskar et al. 2019) looks at prompt and output: a seen token's logit is divided by
    the penalty when positive, multiplied when negative. Frequency and presence look at the output
    alone, as OpenAI defines them: logit -= count · frequency + (count > 0) · presence. A bias is
    added as it is, so -100 all but bans and 100 all but forces a token.

    Ids of padding rows of the model's table, which prompts and settings may name, have no logit.
    """
    params, size = state.params, len(logits)
    if params.repetition_penalty != 1.0 or params.frequency_penalty or params.presence_penalty:
        _penalize(logits, state)
    if params.logit_bias:
        ids, biases = state.biases
        is_known = ids < size
        logits[ids[is_known]] += biases[is_known]
    banned = [token_id for token_id in banned_ids(state) if token_id < size]
    if banned:
        logits[banned] = -np.inf


def banned_ids(state: SamplingState) -> list[int]:
    """What may not be sampled next: ends of bad words, stop tokens before min_tokens."""
    banned = _completing_ids(state) if state.params.bad_words else []
    if state.position < state.params.min_tokens:
        banned += state.stop_ids
    return banned


def _penalize(logits: NDArray[np.float32], state: SamplingState) -> None:
    params = state.params
    counted_ids, counts = np.unique(
        np.asarray(state.output_ids, dtype=np.int64), return_counts=True
    )
    if params.repetition_penalty != 1.0:
        seen = np.union1d(state.distinct_prompt_ids, counted_ids)
        seen = seen[seen < len(logits)]
        values = logits[seen]
        logits[seen] = np.where(
            values > 0, values / params.repetition_penalty, values * params.repetition_penalty
        )
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        logits[counted_ids] -= counts * params.frequency_penalty + params.presence_penalty


def _completing_ids(state: SamplingState) -> list[int]:
    """Tokens that would complete a bad word whose other tokens end the output."""
    output, words = state.output_ids, state.bad_words_by_previous
    ids = [word[0] for word in words.get(None, ())]
    if output:
        for word in words.get(output[-1], ()):
            if tuple(output[-len(word) + 1 :]) == word[:-1]:
                ids.append(word[-1])
    return ids
