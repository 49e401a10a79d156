"""EngineRequest and its arrays → a Request, or the error that says what is wrong with them."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config.model import ModelConfig
from backend.engine.media_pieces import make_pieces
from backend.errors import ContextLengthError, InvalidRequestError
from backend.kv_cache import root_hash
from backend.media.item import merged_grid
from backend.media.positions import rotary_positions
from backend.request import SamplingParams
from backend.sampler import SamplingState, derived_key, seed_key
from backend.scheduler import Request
from backend.structured import OutputControl, StructuredOutput, ThinkingSection
from backend.wire import EngineRequest, MediaSpan, ThinkingSpec

REASONING_SHARE = 0.8
"""Of max_tokens, for thinking without a budget of its own: FastDeploy's default for VL models. It
leaves room for an answer."""


class RequestBuilder:
    """Knows the model's limits, numbers requests by arrival, and gives each its random stream.

    `structured` is needed for requests with a grammar or a thinking section only.
    """

    def __init__(
        self,
        config: ModelConfig,
        eos_token_ids: Collection[int],
        max_model_len: int,
        block_size: int,
        seed: int,
        structured: StructuredOutput | None = None,
    ) -> None:
        self._config = config
        self._eos_token_ids = tuple(sorted(eos_token_ids))
        self._max_model_len = max_model_len
        self._block_size = block_size
        self._seed = seed
        self._structured = structured
        self._arrivals = itertools.count()

    def build(
        self,
        request: EngineRequest,
        prompt_ids: NDArray[Any],
        positions: NDArray[Any] | None,
        pixels: NDArray[np.uint8] | None,
    ) -> Request:
        """`prompt_ids` [n] and `positions` [3, n] of any integer type.

        Positions may be left out; they then follow from the media (models.md §5.3).
        Raises InvalidRequestError, ContextLengthError.
        """
        if request.op != "generate" or not request.stream_key:
            raise InvalidRequestError(
                f"op is {request.op!r} with stream_key {request.stream_key!r}; the engine takes "
                "'generate' with a stream_key",
                param="op",
            )
        ids = self._prompt(prompt_ids)
        max_tokens = self._max_tokens(len(ids), request.sampling)
        stop_ids = self._stop_ids(request.sampling)
        self._check_ids(request.sampling)
        media = make_pieces(request.media, ids, pixels, self._config)
        return Request(
            stream_key=request.stream_key,
            arrival=self.next_arrival(),
            prompt_ids=ids,
            positions=self._positions(positions, len(ids), request.media),
            is_vision=self._vision_mask(ids),
            media=media,
            sampling=SamplingState(
                params=request.sampling,
                key=self._key(request),
                prompt_ids=ids,
                output_ids=[],
                stop_ids=stop_ids,
                control=self._control(request, stop_ids, max_tokens),
            ),
            max_tokens=max_tokens,
            block_size=self._block_size,
            priority=request.priority,
            root_hash=root_hash(request.cache_salt),
        )

    def next_arrival(self) -> int:
        """Larger than that of every request built before."""
        return next(self._arrivals)

    def _prompt(self, prompt_ids: NDArray[Any]) -> NDArray[np.int32]:
        if prompt_ids.ndim != 1 or not prompt_ids.size:
            raise InvalidRequestError(
                f"the prompt has shape {list(prompt_ids.shape)}; expected [n] with n ≥ 1",
                param="prompt",
            )
        vocab_size = self._config.vocab_size
        low, high = int(prompt_ids.min()), int(prompt_ids.max())
        if low < 0 or high >= vocab_size:
            raise InvalidRequestError(
                f"the prompt has token id {low if low < 0 else high}; ids are 0 to "
                f"{vocab_size - 1}",
                param="prompt",
            )
        return np.array(prompt_ids, dtype=np.int32)

    def _max_tokens(self, num_prompt_tokens: int, params: SamplingParams) -> int:
        """max_tokens, cut to what fits behind the prompt."""
        room = self._max_model_len - num_prompt_tokens
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {num_prompt_tokens} tokens; the context of {self._max_model_len} "
                f"tokens (max_model_len) leaves room for a prompt of {self._max_model_len - 1}",
                param="prompt",
            )
        return room if params.max_tokens is None else min(room, params.max_tokens)

    def _stop_ids(self, params: SamplingParams) -> tuple[int, ...]:
        vocab_size = self._config.vocab_size
        for token_id in params.stop_token_ids:
            if not 0 <= token_id < vocab_size:
                raise InvalidRequestError(
                    f"stop_token_ids has {token_id}; ids are 0 to {vocab_size - 1}",
                    param="stop_token_ids",
                )
        return params.stop_token_ids + (() if params.ignore_eos else self._eos_token_ids)

    def _check_ids(self, params: SamplingParams) -> None:
        vocab_size = self._config.vocab_size
        named = {
            "logit_bias": [token_id for token_id, _ in params.logit_bias],
            "bad_words": [token_id for word in params.bad_words for token_id in word],
        }
        for name, ids in named.items():
            wrong = [token_id for token_id in ids if not 0 <= token_id < vocab_size]
            if wrong:
                raise InvalidRequestError(
                    f"{name} has token id {wrong[0]}; ids are 0 to {vocab_size - 1}", param=name
                )

    def _control(
        self, request: EngineRequest, stop_ids: tuple[int, ...], max_tokens: int
    ) -> OutputControl | None:
        spec = request.thinking
        limit = request.response_max_tokens
        if limit is not None and limit < 1:
            raise InvalidRequestError(
                f"response_max_tokens is {limit}; it must be at least 1",
                param="response_max_tokens",
            )
        if spec is None and request.structured is None and limit is None:
            return None
        thinking = None
        if spec is not None or request.structured is not None:
            if self._structured is None:
                raise InvalidRequestError(
                    "this engine runs without a tokenizer: it knows neither grammars nor thinking "
                    "sections",
                    param="structured",
                )
        if spec is not None and self._structured is not None:
            _check_forced(spec, self._structured.num_token_ids)
            budget = spec.max_tokens
            if budget is None:
                budget = max(1, int(REASONING_SHARE * max_tokens))
            thinking = ThinkingSection(
                spec,
                budget,
                self._structured.vocabulary.id_to_bytes,
                is_constrained=request.structured is not None,
            )
        return OutputControl(thinking, stop_ids, self._eos_token_ids, limit)

    def _positions(
        self, positions: NDArray[Any] | None, num_tokens: int, spans: tuple[MediaSpan, ...]
    ) -> NDArray[np.int32]:
        if positions is None:
            return rotary_positions(num_tokens, [(s.offset, self._merged(s)) for s in spans])
        if positions.shape != (3, num_tokens):
            raise InvalidRequestError(
                f"positions have shape {list(positions.shape)}; expected [3, {num_tokens}]",
                param="positions",
            )
        # No layout of pictures uses more positions than tokens, so tables of max_model_len suffice.
        if positions.min() < 0 or positions.max() >= num_tokens:
            raise InvalidRequestError(
                f"positions reach from {positions.min()} to {positions.max()}; expected 0 to "
                f"{num_tokens - 1} for {num_tokens} tokens",
                param="positions",
            )
        return np.array(positions, dtype=np.int32)

    def _merged(self, span: MediaSpan) -> tuple[int, int, int]:
        vision = self._config.vision
        if vision is None:
            return span.grid
        return merged_grid(
            span.kind, span.grid, vision.spatial_merge_size, vision.temporal_merge_size
        )

    def _vision_mask(self, prompt_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Placeholders and the START and END tokens around them (models.md §2.3)."""
        config = self._config
        if config.vision is None:
            return np.zeros(len(prompt_ids), dtype=np.bool_)
        ids = (config.image_token_id, config.video_token_id, *config.vision_boundary_token_ids)
        return np.isin(prompt_ids, ids)

    def _key(self, request: EngineRequest) -> tuple[int, int]:
        seed = request.sampling.seed
        return derived_key(self._seed, request.stream_key) if seed is None else seed_key(seed)


def _check_forced(spec: ThinkingSpec, num_token_ids: int) -> None:
    """What is written for the model must be what it could have written."""
    for name, ids in (("close_ids", spec.close_ids), ("after_ids", spec.after_ids)):
        wrong = [token_id for token_id in ids if not 0 <= token_id < num_token_ids]
        if wrong:
            raise InvalidRequestError(
                f"thinking.{name} has token id {wrong[0]}; ids are 0 to {num_token_ids - 1}",
                param=f"thinking.{name}",
            )
