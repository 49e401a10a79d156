"""EngineCore: schedule → run → commit, with no sockets; only grammars have threads.

    core = EngineCore.from_settings(settings)
    core.add(request, prompt_ids, positions, pixels)
    while core.has_work():
        outputs = core.step()

A request ends in exactly one of three ways, each with one last output: a finish reason, an error,
or an abort by `stop`. Whatever happens to one request, the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.config.model import ModelConfig
from backend.config.serving import EngineSettings
from backend.engine.compiling import CompilingRequests
from backend.engine.generation import Generation
from backend.engine.kv_sizing import size_kv_cache
from backend.engine.request_builder import RequestBuilder
from backend.errors import (
    ErnieError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestTooLargeError,
)
from backend.kv_cache import BlockPool
from backend.request import FinishReason
from backend.runner import ChunkResult, Computation, MediaEncoder, ModelRunner, RunnableModel
from backend.sampler import SampledToken
from backend.scheduler import Chunk, Request, Scheduler, SchedulerLimits
from backend.structured import StructuredOutput
from backend.wire import EngineOutput, EngineRequest

log = logging.getLogger("ernie_engine")


RunnerMaker = Callable[[RunnableModel, MediaEncoder, int, int, int], ModelRunner]
"""Model, encoder, number of KV blocks, their size, number of token ids → the runner."""


@dataclass(frozen=True)
class _InFlight:
    """A step that is being computed: whose chunks they are, and where its results come from."""

    chunks: Sequence[Chunk]
    generations: Sequence[Generation]
    computation: Computation


class EngineCore:
    """Not thread-safe: one thread calls everything.

    `num_token_ids`: how many ids the tokenizer knows; the model's table may be longer.
    `structured` compiles grammars and computes their masks in threads of its own; without it,
    requests with a grammar or a thinking section are refused.
    Raises ConfigError that names the flag.
    """

    def __init__(
        self,
        model: RunnableModel,
        config: ModelConfig,
        settings: EngineSettings,
        eos_token_ids: Collection[int],
        num_token_ids: int,
        structured: StructuredOutput | None = None,
        make_runner: RunnerMaker = ModelRunner,
    ) -> None:
        sizing = size_kv_cache(settings, config, model)
        limits = SchedulerLimits(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_num_waiting=settings.max_num_waiting,
            enable_prefix_caching=settings.enable_prefix_caching,
        )
        self._settings = settings
        self._max_model_len = sizing.max_model_len
        self._pool = BlockPool(sizing.num_blocks)
        self._scheduler = Scheduler(self._pool, settings.block_size, limits)
        self._encoder = MediaEncoder(
            model, model.media_bytes_per_token, int(settings.encoder_cache_gib * 2**30)
        )
        self._runner = make_runner(
            model, self._encoder, sizing.num_blocks, settings.block_size, num_token_ids
        )
        self._builder = RequestBuilder(
            config,
            eos_token_ids,
            sizing.max_model_len,
            settings.block_size,
            settings.seed,
            structured,
        )
        self._structured = structured
        self._compiling = CompilingRequests()
        self._generations: dict[str, Generation] = {}
        self._pending: list[EngineOutput] = []
        self._in_flight: _InFlight | None = None
        self._withdrawn: set[Request] = set()
        self._num_pixel_bytes = 0
        self._totals = dict.fromkeys(
            ("added", "finished", "aborted", "failed", "prompt_tokens", "generation_tokens"), 0
        )

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> EngineCore:
        """Load the checkpoint, with a progress bar. Raises ConfigError, CheckpointError."""
        from backend.engine.loading import load_model

        loaded = load_model(settings)
        make_runner: RunnerMaker = ModelRunner
        if settings.executor == "cuda":
            from backend.engine.device import device_runner, with_measured_blocks

            settings = with_measured_blocks(settings, loaded.config, loaded.model)
            make_runner = device_runner(settings, loaded.config)
        return cls(
            loaded.model,
            loaded.config,
            settings,
            loaded.eos_token_ids,
            loaded.num_token_ids,
            loaded.structured,
            make_runner,
        )

    def add(
        self,
        request: EngineRequest,
        prompt_ids: NDArray[np.int32],
        positions: NDArray[np.int32] | None,
        pixels: NDArray[np.uint8] | None,
    ) -> None:
        """Queue a request. `prompt_ids` [n], `positions` [3, n], `pixels` uint8 [rows, patch_dim].

        Raises InvalidRequestError (also ContextLengthError, RequestTooLargeError) and
        OverloadedError; the engine then knows nothing of the request.
        """
        if request.stream_key in self._generations:
            raise InvalidRequestError(
                f"stream_key {request.stream_key!r} is in use", param="stream_key"
            )
        self._scheduler.check_room(len(self._compiling))
        self._check_pixel_room(0 if pixels is None else pixels.nbytes)
        generation = Generation(
            request, self._builder.build(request, prompt_ids, positions, pixels)
        )
        if request.structured is not None and self._structured is not None:
            self._compiling.add(generation, self._structured.compile(request.structured))
        else:
            self._scheduler.add(generation.request)
        self._generations[request.stream_key] = generation
        self._num_pixel_bytes += generation.pixel_bytes
        self._totals["added"] += 1
        self._totals["prompt_tokens"] += generation.request.num_prompt_tokens

    def stop(self, request_id: str) -> int:
        """Stop all streams of a client's request id. Returns how many there were."""
        keys = [g.key for g in self._generations.values() if g.wire.request_id == request_id]
        return sum(self.stop_stream(key) for key in keys)

    def stop_stream(self, stream_key: str) -> bool:
        """Free a stream's seat and blocks at once; `step` then brings its last output.

        False, and no effect, for a stream that is unknown or has ended.
        """
        generation = self._generations.get(stream_key)
        if generation is None:
            return False
        self._end(generation, "aborted")
        self._pending.append(generation.last_output(FinishReason.ABORT))
        return True

    def has_work(self) -> bool:
        return bool(self._pending or self._generations or self._in_flight)

    def step(self) -> list[EngineOutput]:
        """Compute one batch. Returns an output of each stream that got a token or ended.

        With a runner that runs ahead, the batch is only submitted, and the outputs are those of the
        step before: the device always has its next step when it ends one.

        Raises InternalError only when the engine's own accounts are wrong, or when blocks that NaN
        may have reached cannot be overwritten: it cannot go on then.
        """
        outputs, self._pending = self._pending, []
        if self._in_flight is not None and not self._may_run_ahead():
            outputs += self._collect()
        if self._generations:
            may_wait = not outputs and self._in_flight is None
            outputs += self._schedule_compiled(may_wait)
        started = self._start_step()
        if self._in_flight is not None:
            outputs += self._collect()
        self._in_flight = started
        if started is not None and not self._runner.runs_ahead:
            outputs += self._collect()
        return outputs

    def check_integrity(self) -> None:
        """Recount blocks, queues, streams and pixels. Raises InternalError with the numbers."""
        self._scheduler.check_integrity()
        num_requests = len(self._scheduler) + len(self._compiling)
        if num_requests != len(self._generations):
            raise InternalError(
                f"{num_requests} requests are scheduled or will be, {len(self._generations)} "
                "streams are open"
            )
        num_bytes = sum(generation.pixel_bytes for generation in self._generations.values())
        if num_bytes != self._num_pixel_bytes:
            raise InternalError(f"{self._num_pixel_bytes} pixel bytes counted, {num_bytes} held")

    def stats(self) -> dict[str, Any]:
        """Flat numbers. Blocks: free (nothing in them) + held + cached = total."""
        scheduler, pool, totals = self._scheduler, self._pool, self._totals
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting) + len(self._compiling),
            "kv_blocks_total": pool.num_blocks,
            "kv_blocks_free": pool.num_unused_blocks,
            "kv_blocks_held": pool.num_held_blocks,
            "kv_blocks_cached": pool.num_cached_blocks,
            "block_size": self._settings.block_size,
            "max_model_len": self._max_model_len,
            "max_num_seqs": self._settings.max_num_seqs,
            "max_num_batched_tokens": self._settings.max_num_batched_tokens,
            "requests_added_total": totals["added"],
            "requests_finished_total": totals["finished"],
            "requests_aborted_total": totals["aborted"],
            "requests_failed_total": totals["failed"],
            "prompt_tokens_total": totals["prompt_tokens"],
            "generation_tokens_total": totals["generation_tokens"],
            "cached_tokens_total": scheduler.num_prefix_hit_tokens,
            "prefix_queried_tokens_total": scheduler.num_prefix_queried_tokens,
            "preemptions_total": scheduler.num_preemptions,
            "pixel_bytes": self._num_pixel_bytes,
            "encoder_cache_bytes": self._encoder.num_cached_bytes,
            "encoder_cache_hits_total": self._encoder.num_hits,
            "encoder_runs_total": self._encoder.num_encoded,
        }

    def _schedule_compiled(self, may_wait: bool) -> list[EngineOutput]:
        """Queue the requests whose grammar is ready; outputs of those whose grammar is bad."""
        outputs = []
        idle = may_wait and not len(self._scheduler)
        for generation, result in self._compiling.done(may_wait=idle):
            request, control = generation.request, generation.control
            if isinstance(result, ErnieError):
                outputs.append(self._fail(generation, result))
                continue
            if control is not None:
                control.attach(result)
            # The queue is sorted by arrival, and others have come while this one was compiled.
            request.arrival = self._builder.next_arrival()
            try:
                self._scheduler.add(request)
            except ErnieError as error:
                outputs.append(self._fail(generation, error))
            else:
                self._compiling.remove(generation.key)
        return outputs

    def _may_run_ahead(self) -> bool:
        """Whether the next step can be chosen and sampled before the tokens in flight are known.
        Of who has none in flight everything is known."""
        step = self._in_flight
        if step is None:
            return True
        return all(
            self._runner.may_run_ahead(chunk.request)
            for chunk, generation in zip(step.chunks, step.generations, strict=True)
            if chunk.is_last and self._is_open(generation)
        )

    def _is_open(self, generation: Generation) -> bool:
        return self._generations.get(generation.key) is generation

    def _start_step(self) -> _InFlight | None:
        """Choose a batch and submit it; None when there is nothing to compute."""
        if not len(self._scheduler):
            return None
        chunks = self._scheduler.schedule().chunks
        if not chunks:
            return None
        computation = self._runner.submit(chunks)
        for chunk in chunks:
            self._scheduler.start(chunk)
        generations = tuple(self._generations[chunk.request.stream_key] for chunk in chunks)
        return _InFlight(chunks, generations, computation)

    def _collect(self) -> list[EngineOutput]:
        """Outputs of the step in flight. What ended since it was submitted has no more, and what
        went on from another token than was taken is computed again."""
        step, self._in_flight = self._in_flight, None
        if step is None:
            return []
        withdrawn, self._withdrawn = self._withdrawn, set()
        results = step.computation.results()
        outputs = []
        for chunk, generation, result in zip(step.chunks, step.generations, results, strict=True):
            if self._is_open(generation) and chunk.request not in withdrawn:
                output = self._commit(generation, chunk, result)
                if output is not None:
                    outputs.append(output)
        self._start_masks(step.chunks)
        if any(isinstance(result, ErnieError) for result in results):
            self.check_integrity()
        return outputs

    def _start_masks(self, chunks: Sequence[Chunk]) -> None:
        """Have the next masks computed while the model runs."""
        if self._structured is None:
            return
        generations = (self._generations.get(chunk.request.stream_key) for chunk in chunks)
        controls = (generation.control for generation in generations if generation is not None)
        matchers = (control.take_maskless() for control in controls if control is not None)
        self._structured.start_masks([matcher for matcher in matchers if matcher is not None])

    def _check_pixel_room(self, num_bytes: int) -> None:
        """Pixels stay in memory as long as their request (see MediaPiece), so they are bounded."""
        limit = int(self._settings.media_memory_gib * 2**30)
        if num_bytes > limit:
            raise RequestTooLargeError(
                f"the pictures and videos have {num_bytes} bytes of pixels; the engine has room "
                f"for {limit}",
                param="media",
            )
        if self._num_pixel_bytes + num_bytes > limit:
            raise OverloadedError(
                f"{num_bytes} bytes of pixels do not fit beside the {self._num_pixel_bytes} of "
                f"other requests; the limit is {limit}",
                retry_after_s=1.0,
            )

    def _commit(
        self, generation: Generation, chunk: Chunk, result: ChunkResult
    ) -> EngineOutput | None:
        if isinstance(result, ErnieError):
            return self._fail(generation, result)
        self._scheduler.settle(chunk, None if result is None else result.token_id)
        if result is not None and result.is_replaced:
            self._withdraw(chunk.request)
        return None if result is None else self._advance(generation, result)

    def _withdraw(self, request: Request) -> None:
        """The next step has begun with a token that was not taken: its result is void, and the
        token that was is computed in its place."""
        if request.num_pending:
            request.num_computed_tokens -= request.num_pending
            request.drop_pending()
            self._withdrawn.add(request)

    def _advance(self, generation: Generation, token: SampledToken) -> EngineOutput:
        """The output of a new token, which may be the last."""
        self._totals["generation_tokens"] += 1
        try:
            reason = generation.advance(token.token_id)
        except ErnieError as error:
            return self._fail(generation, error)
        if reason is None:
            return generation.output(token)
        self._end(generation, "finished")
        return generation.last_output(reason, token)

    def _fail(self, generation: Generation, error: ErnieError) -> EngineOutput:
        request = generation.request
        is_suspect = error.code == "numerical_error"
        if is_suspect:
            self._overwrite_own_blocks(generation)
        log.warning("request %s failed: %s", request.stream_key, error.message)
        self._end(generation, "failed", keep_cached=not is_suspect)
        return generation.error_output(error)

    def _overwrite_own_blocks(self, generation: Generation) -> None:
        block_ids = generation.request.block_table.block_ids.tolist()
        own = [block_id for block_id in block_ids if self._pool.num_references(block_id) == 1]
        try:
            self._runner.overwrite_blocks(own)
        except Exception as error:
            # Whoever got these blocks next would answer nonsense. A new process has clean ones.
            raise InternalError(
                f"{len(own)} KV blocks that may hold NaN could not be overwritten"
            ) from error

    def _end(self, generation: Generation, how: str, *, keep_cached: bool = True) -> None:
        generation.request.drop_pending()
        if generation.key in self._compiling:
            self._compiling.remove(generation.key)
        else:
            self._scheduler.finish(generation.request, keep_cached=keep_cached)
            self._runner.forget(generation.request)
        del self._generations[generation.key]
        self._num_pixel_bytes -= generation.pixel_bytes
        self._totals[how] += 1
