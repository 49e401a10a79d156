"""One EngineRequest that is being answered: when it ends, and what its outputs say."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import ErnieError
from backend.request import FinishReason, Usage
from backend.sampler import SampledToken
from backend.scheduler import Request
from backend.wire import EngineOutput, EngineRequest


@dataclass(frozen=True)
class Generation:
    """`wire` is what came, `request` what the scheduler makes of it."""

    wire: EngineRequest
    request: Request

    @property
    def key(self) -> str:
        return self.wire.stream_key

    @property
    def pixel_bytes(self) -> int:
        return sum(piece.pixels.nbytes for piece in self.request.media)

    def finish_reason(self, token_id: int) -> FinishReason | None:
        """Of the newest token, which already counts. A stop token as the last allowed one is a
        stop: the answer is complete."""
        if token_id in self.request.sampling.stop_ids:
            return FinishReason.STOP
        if len(self.request.output_ids) >= self.request.max_tokens:
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
        if token is not None and reason is FinishReason.STOP:
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
            completion_tokens=len(self.request.output_ids),
            cached_tokens=self.request.num_cached_tokens or 0,
            image_tokens=sizes["image"],
            video_tokens=sizes["video"],
        )
