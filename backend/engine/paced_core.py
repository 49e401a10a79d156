"""An engine core that computes nothing: every stream gets tokens at a fixed pace.

Executor `paced`. With it everything but the model can be loaded and measured: stubs, sockets,
credits, postprocessor, gRPC. Its tokens follow from the prompt alone, so answers can be compared.
As logprobs it sends minus the moment (monotonic clock, s) at which each token was due: whoever
receives them on the same machine knows how late they are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.config.serving import EngineSettings
from backend.errors import InvalidRequestError, OverloadedError
from backend.request import FinishReason, Usage
from backend.wire import EngineOutput, EngineRequest, TokenLogprob

FIRST_TOKEN_ID = 300
NUM_TOKEN_IDS = 200
"""Ordinary text pieces in every ERNIE vocabulary: above the bytes, below the control tokens."""

DEFAULT_MAX_TOKENS = 100
MAX_TICK_S = 0.01


@dataclass
class _Running:
    request: EngineRequest
    seed: int
    num_prompt_tokens: int
    max_tokens: int
    started_at: float
    num_tokens: int = 0
    is_stopped: bool = False


class PacedCore:
    """Honours EngineCore's interface; see there."""

    def __init__(self, tokens_per_s: float, max_requests: int) -> None:
        self._tokens_per_s = tokens_per_s
        self._max_requests = max_requests
        self._running: dict[str, _Running] = {}
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> PacedCore:
        return cls(settings.tokens_per_s, settings.max_num_seqs + settings.max_num_waiting)

    def add(
        self,
        request: EngineRequest,
        prompt_ids: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32] | None,
        pixels: npt.NDArray[np.uint8] | None,
    ) -> None:
        if prompt_ids.size == 0:
            raise InvalidRequestError("the prompt is empty", param="PROMPT_IDS")
        if len(self._running) >= self._max_requests:
            raise OverloadedError(
                f"{len(self._running)} requests are running, the limit", retry_after_s=1.0
            )
        seed = int(prompt_ids.sum(dtype=np.int64)) + (0 if pixels is None else int(pixels.sum()))
        self._num_prompt_tokens += prompt_ids.size
        self._running[request.stream_key] = _Running(
            request=request,
            seed=seed,
            num_prompt_tokens=prompt_ids.size,
            max_tokens=request.sampling.max_tokens or DEFAULT_MAX_TOKENS,
            started_at=time.monotonic(),
        )

    def stop(self, request_id: str) -> int:
        keys = [k for k, run in self._running.items() if run.request.request_id == request_id]
        return sum(self.stop_stream(key) for key in keys)

    def stop_stream(self, stream_key: str) -> bool:
        run = self._running.get(stream_key)
        if run is None:
            return False
        run.is_stopped = True
        return True

    def has_work(self) -> bool:
        return bool(self._running)

    def step(self) -> list[EngineOutput]:
        """Wait for the next tick and return what became due."""
        time.sleep(min(MAX_TICK_S, 1.0 / self._tokens_per_s))
        now = time.monotonic()
        outputs = [output for run in self._running.values() if (output := self._due(run, now))]
        for output in outputs:
            if output.is_last:
                del self._running[output.stream_key]
        return outputs

    def check_integrity(self) -> None:
        return None

    def stats(self) -> dict[str, Any]:
        return {
            "running": len(self._running),
            "waiting": 0,
            "prompt_tokens_total": self._num_prompt_tokens,
            "generation_tokens_total": self._num_generated_tokens,
        }

    def _due(self, run: _Running, now: float) -> EngineOutput | None:
        total = min(run.max_tokens, 1 + int((now - run.started_at) * self._tokens_per_s))
        if run.is_stopped:
            total = run.num_tokens
        if total == run.num_tokens and not run.is_stopped:
            return None
        indices = range(run.num_tokens, total)
        token_ids = [FIRST_TOKEN_ID + (run.seed + index) % NUM_TOKEN_IDS for index in indices]
        run.num_tokens = total
        self._num_generated_tokens += len(token_ids)
        output = EngineOutput(stream_key=run.request.stream_key, seq=0, token_ids=token_ids)
        if run.request.sampling.logprobs is not None:
            due = [run.started_at + index / self._tokens_per_s for index in indices]
            output.logprobs = [
                TokenLogprob(token_id, -moment)
                for token_id, moment in zip(token_ids, due, strict=True)
            ]
        if run.is_stopped or total == run.max_tokens:
            output.finish_reason = FinishReason.ABORT if run.is_stopped else FinishReason.LENGTH
            output.usage = Usage(
                prompt_tokens=run.num_prompt_tokens, completion_tokens=run.num_tokens
            )
        return output
