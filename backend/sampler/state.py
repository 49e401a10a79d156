"""What sampling must know of one request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backend.errors import ErnieError
from backend.request import SamplingParams
from backend.sampler.keys import Key


class TokenControl(Protocol):
    """What a request's next token must obey besides its settings."""

    @property
    def may_run_ahead(self) -> bool:
        """Whether the token after the next can be sampled while the next one is unknown, unless
        `admit` then takes another in its place."""

    def forced_token(self) -> int | None:
        """The next token, whatever the logits say."""

    def allowed(self) -> NDArray[np.bool_] | ErnieError | None:
        """bool [V]: what may be sampled; None for anything; or why that cannot be told."""

    def admit(self, token_id: int) -> int:
        """What to take for the sampled token: itself, as a rule."""


@dataclass(frozen=True)
class SamplingState:
    """`output_ids` is the request's own growing list; the next token is number len(output_ids).

    `stop_ids`: what may not be sampled while there are fewer than min_tokens. `prompt_ids` int32
    [n].
    """

    params: SamplingParams
    key: Key
    prompt_ids: NDArray[np.int32]
    output_ids: list[int]
    stop_ids: tuple[int, ...] = ()
    control: TokenControl | None = None

    @property
    def position(self) -> int:
        return len(self.output_ids)

    @cached_property
    def distinct_prompt_ids(self) -> NDArray[np.int32]:
        return np.unique(self.prompt_ids)

    @cached_property
    def biases(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids [B] and what is added to their logits [B]."""
        pairs = self.params.logit_bias
        return (
            np.array([token_id for token_id, _ in pairs], dtype=np.int64),
            np.array([bias for _, bias in pairs], dtype=np.float32),
        )

    @cached_property
    def bad_words_by_previous(self) -> dict[int | None, list[tuple[int, ...]]]:
        """Bad words by their last token but one; those of one token by None."""
        words: dict[int | None, list[tuple[int, ...]]] = {}
        for word in self.params.bad_words:
            words.setdefault(word[-2] if len(word) > 1 else None, []).append(word)
        return words
