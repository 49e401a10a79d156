"""What sampling must know of one request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backend.request import SamplingParams
from backend.sampler.keys import Key


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

    @property
    def position(self) -> int:
        return len(self.output_ids)

    @cached_property
    def distinct_prompt_ids(self) -> NDArray[np.int32]:
        return np.unique(self.prompt_ids)
