"""Sampler: a row of logits and a request's state → its next token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.errors import ErnieError, InternalError, InvalidRequestError
from backend.sampler.candidates import select_candidates
from backend.sampler.keys import uniform
from backend.sampler.logprobs import token_logprob
from backend.sampler.penalties import adjust, has_adjustments
from backend.sampler.state import SamplingState
from backend.wire import TokenLogprob


@dataclass(frozen=True, slots=True)
class SampledToken:
    """`is_replaced`: a device that feeds its own tokens back has gone on with another one."""

    token_id: int
    logprob: TokenLogprob | None = None
    is_replaced: bool = False


class Sampler:
    """Stateless: the same logits and states give the same tokens."""

    def sample(
        self, logits: NDArray[np.float32], states: Sequence[SamplingState]
    ) -> list[SampledToken | ErnieError]:
        """One result per row of float32 logits [R, V]; a bad row fails alone."""
        return [self._sample_row(row, state) for row, state in zip(logits, states, strict=True)]

    def _sample_row(
        self, logits: NDArray[np.float32], state: SamplingState
    ) -> SampledToken | ErnieError:
        # -inf is a mask and legal; NaN, +inf and a row of nothing but -inf all end up in the
        # maximum.
        if not math.isfinite(logits.max()):
            return not_finite(state)
        control = state.control
        token_id = None if control is None else control.forced_token()
        if token_id is None:
            choice = self._choose_allowed(logits, state)
            if isinstance(choice, ErnieError):
                return choice
            token_id = choice if control is None else control.admit(choice)
        if state.params.logprobs is None:
            return SampledToken(token_id)
        return SampledToken(token_id, token_logprob(logits, token_id, state.params.logprobs))

    def _choose_allowed(
        self, logits: NDArray[np.float32], state: SamplingState
    ) -> int | ErnieError:
        allowed = None if state.control is None else state.control.allowed()
        if isinstance(allowed, ErnieError):
            return allowed
        if has_adjustments(state):
            logits = logits.copy()
            adjust(logits, state)
            if not math.isfinite(logits.max()):
                return not_finite(state)
        if allowed is not None:
            logits = np.where(allowed, logits, np.float32(-np.inf))
            if not math.isfinite(logits.max()):
                return none_left(state)
        return self._choose(logits, state)

    def _choose(self, logits: NDArray[np.float32], state: SamplingState) -> int:
        if state.params.is_greedy:
            return int(np.argmax(logits))
        ids, weights = select_candidates(logits, state.params)
        cumulative = np.cumsum(weights)
        total = float(cumulative[-1])
        # Strictly below the total, so that the first larger sum exists and its weight is not 0.
        target = min(uniform(state.key, state.position) * total, math.nextafter(total, 0.0))
        return int(ids[np.searchsorted(cumulative, target, side="right")])


def none_left(state: SamplingState) -> InvalidRequestError:
    """Why a token cannot be chosen although the logits are fine."""
    return InvalidRequestError(
        f"no token is left for place {state.position} of the answer: what its grammar "
        "allows, the request's bad_words or min_tokens forbid",
        code="grammar_error",
    )


def not_finite(state: SamplingState) -> InternalError:
    """Why a token cannot be chosen from NaN or infinity."""
    return InternalError(
        f"the model's logits for token {state.position} are not finite", code="numerical_error"
    )
