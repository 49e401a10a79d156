"""One EngineRequest that is being answered: when it ends, and what its outputs say."""

from __future__ import annotations

import time
from dataclasses import dataclass

from backend.errors import ErnieError
from backend.request import EngineTimes, FinishReason, Usage
from backend.sampler import SampledToken
from backend.scheduler import Request
from backend.structured import OutputControl
from backend.wire import EngineOutput, EngineRequest


@dataclass(frozen=True)
class Generation:
    """`wire` is what came, `request` what the scheduler makes of it, `control` what its sampling
    state obeys."""

    wire: EngineRequest
    request: Request

    @property
    def control(self) -> OutputControl | None:
        control = self.request.sampling.control
        return control if isinstance(control, OutputControl) else None

    @property
    def key(self) -> str:
        return self.wire.stream_key

    @property
    def pixel_bytes(self) -> int:
        return sum(piece.pixels.nbytes for piece in self.request.media)

    def advance(self, token_id: int) -> FinishReason | None:
        """Take note of the newest token, which is in the request's output, and say whether it is
        the last. A stop token as the last allowed one is a stop: the answer is complete.

        Raises InvalidRequestError when the answer's grammar cannot be followed any further.
        """
        if token_id in self.request.sampling.stop_ids:
            return FinishReason.STOP
        control = self.control
        if control is not None:
            control.commit(token_id)
            if control.is_complete:
                return FinishReason.STOP
        is_full = control is not None and control.is_full
        if is_full or self.request.num_output_tokens >= self.request.max_tokens:
            return FinishReason.LENGTH
        return None

    def output(self, token: SampledToken) -> EngineOutput:
        return EngineOutput(
            stream_key=self.key,
            seq=0,
            token_ids=[token.token_id],
            logprobs=None if token.logprob is None else [token.logprob],
        )

    def last_output(self, reason: FinishReason, token: SampledToken | None = None) -> EngineOutput:
        """With the token that ended the request, if one did; a stop token is told apart."""
        output = EngineOutput(stream_key=self.key, seq=0)
        if token is not None and token.token_id in self.request.sampling.stop_ids:
            output.stop_token_id = token.token_id
        elif token is not None:
            output = self.output(token)
        output.finish_reason = reason
        output.usage = self.usage()
        return output

    def error_output(self, error: ErnieError) -> EngineOutput:
        return EngineOutput(stream_key=self.key, seq=0, error=error.info(), usage=self.usage())

    def usage(self) -> Usage:
        """`completion_tokens` counts the stop token, which is in no output's token_ids."""
        sizes = {"image": 0, "video": 0}
        for span in self.wire.media:
            sizes[span.kind] += span.num_tokens
        return Usage(
            prompt_tokens=self.request.num_prompt_tokens,
            completion_tokens=self.request.num_output_tokens,
            cached_tokens=self.request.num_cached_tokens or 0,
            image_tokens=sizes["image"],
            video_tokens=sizes["video"],
            times=self._times(),
        )

    def _times(self) -> EngineTimes | None:
        request = self.request
        if request.seated_at is None or request.first_token_at is None:
            return None
        return EngineTimes(
            queue_s=round(request.seated_at - request.arrived_at, 6),
            prefill_s=round(request.first_token_at - request.seated_at, 6),
            decode_s=round(time.monotonic() - request.first_token_at, 6),
        )
